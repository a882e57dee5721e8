"""Train a model, stop it, go on with it.

Examples:
    python -m wavenet_ae.train minutes=5
        the small model on the notes in the box; no GPU needed
    python -m wavenet_ae.train resume=runs/small-2026-11-20_12-00-00 steps=50000
        go on exactly where that run stopped, and further
    python -m wavenet_ae.train experiment=finetune notes.root=data/own
        minutes more for the model in the box, on ten sounds of yours (python -m wavenet_ae.prepare corpus=own ...)
    python -m wavenet_ae.train experiment=nsynth notes.root=/data/nsynth device=cuda
        the published model and recipe; experiment=baseline is the spectral one it was compared with
    python -m wavenet_ae.train -m experiment=smoke batch=2,4 seed=0,1
        four runs, one after another, each in a folder of its own; to name them add 'run=runs/${seed}-${batch}'
    torchrun --nproc-per-node 2 --max-restarts 3 -m wavenet_ae.train run=runs/mine batch=8
        two processes share each batch; one may be lost, and the same command goes on with a run that was stopped

Ctrl-C (or SIGTERM) ends a run after the step under way, with its state saved. Watch it with
    tensorboard --logdir runs
"""

import hashlib
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict
from torch.utils.tensorboard.writer import SummaryWriter

from wavenet_ae import audio, checkpoint, files, models, notes
from wavenet_ae.command import command, device_named, made
from wavenet_ae.models.classifier import Classifier
from wavenet_ae.models.spectral import SpectralAutoencoder
from wavenet_ae.models.wavenet import WaveNetAutoencoder
from wavenet_ae.notes import Note
from wavenet_ae.synthesis import Sampling
from wavenet_ae.training import processes
from wavenet_ae.training.clock import Plan
from wavenet_ae.training.descent import Descent, Diverged
from wavenet_ae.training.listening import Listener
from wavenet_ae.training.loop import Hooks, Loop
from wavenet_ae.training.objectives import Likelihood, Reconstruction, check_crops
from wavenet_ae.training.processes import Group
from wavenet_ae.training.projector import Projector
from wavenet_ae.training.recognition import Recognition
from wavenet_ae.training.recording import CudaRecorder
from wavenet_ae.training.run import Run

PACE = ("steps", "minutes", "log_every", "validate_every", "checkpoint_every", "listen_every")
MODEL = "small"  # what conf/train.yaml trains if nothing is said
THREADS = torch.get_num_threads()  # before any run sets them
CHANGEABLE = (*PACE, "workers", "parallel", "notes.root")  # of a resumed run


@command
def main(cfg: DictConfig) -> None:
    """Build what conf/train.yaml names, train it, and say what came of it."""
    cfg = _resumed(cfg) if cfg.resume else _settled(cfg)
    again = not cfg.resume and _is_begun(cfg)
    if again and Run(cfg.run).states():
        cfg.resume = cfg.run
    train, valid = _corpora(cfg)
    _check_same_notes(cfg, train, valid)
    with processes.joined(str(device_named(cfg.device)), cfg.parallel) as group:
        _train(cfg, train, valid, group, again)


def _train(cfg: DictConfig, train: list[Note], valid: list[Note], group: Group, again: bool) -> None:
    """What every process does; the first of them writes and speaks."""
    objective = _objective(cfg, group)
    plan = Plan(**{name: cfg[name] for name in PACE}, keep_best=cfg.keep_best)
    listened, projected = notes.chosen(cfg.listen, valid), notes.chosen(cfg.project, valid)
    licence = notes.licence(cfg.notes.root)
    crops = {"batch": cfg.batch, "crop": cfg.crop, "crop_by": cfg.crop_by, "attacks": float(cfg.attacks)}
    crops["max_unreadable"] = cfg.max_unreadable
    share = group.share(cfg.batch)
    validation = list(notes.batches(valid, seed=0, steps=cfg.valid_batches, **crops))
    if not _is_named():
        cfg.run = files.unused(str(cfg.run))
    run = Run(str(cfg.run))
    if not cfg.resume and group.is_first:
        run.create(OmegaConf.to_yaml(cfg, resolve=True), again=again)
    with run.locked() if group.is_first else nullcontext():
        first = _restored(cfg, run, objective, group)
        plan = replace(plan, spent=run.seconds() if again else 0.0)
        if group.is_first:
            print(_introduction(cfg, objective.model, train, valid, first))
        reading = {"first_step": first, "workers": cfg.workers, "share": share, "pinned": group.device.type == "cuda"}
        batches = notes.batches(train, seed=cfg.seed, **reading, **crops)
        board = SummaryWriter(str(run.folder), purge_step=first + 1 if first else None) if group.is_first else None
        hooks = Hooks() if board is None else _hooks(cfg, objective, (listened, projected), licence, run, board)
        try:
            step, ended = Loop(objective, iter(batches), validation, run, plan, hooks, group).train(first)
        except Diverged as error:
            kept = f"the states of steps {run.states()} are whole: resume={run.folder}"
            raise RuntimeError(f"{error}; {kept if run.states() else 'there is no state yet to keep'}") from error
        finally:
            if board is not None:
                board.close()
    if group.is_first:
        measured = run.summary(objective.unit, objective.per, objective.digits, best=cfg.keep_best)
        print(f"{ended} after {step:,} steps{measured}")
        print(f"model: {run.folder / 'model.safetensors'}\ngo on:  python -m wavenet_ae.train resume={run.folder}")
    if ended.endswith("received") and HydraConfig.get().mode is RunMode.MULTIRUN:
        raise KeyboardInterrupt  # the runs that were to follow are not wanted either


def _restored(cfg: DictConfig, run: Run, objective: Descent, group: Group) -> int:
    """Take up the state to go on from, if any; the first process tidies the folder, then the others read the same."""
    first, state = 0, None
    if cfg.resume and group.is_first:
        first, state = run.restore(cfg.resume_step)
    first = group.gathered(first)[0]
    if cfg.resume and not group.is_first:
        state = run.read(first)
    if state is not None:
        objective.restore(state)
    return first


def _is_begun(cfg: DictConfig) -> bool:
    """Whether torchrun takes up a run that the same command began: a process was lost, or a job is queued again.

    Raises:
        ValueError: several processes, or a later start, could not know the run's folder.
    """
    if processes.started_by_torchrun() and not _is_named():
        raise ValueError("torchrun starts several processes, perhaps again: name their run's folder by run=...")
    path = Path(str(cfg.run)) / "config.yaml"
    if not processes.started_by_torchrun() or not path.is_file():
        return False
    settings = OmegaConf.to_container(cfg, resolve=True)
    return OmegaConf.to_container(OmegaConf.merge(OmegaConf.load(path), {"notes_digest": None})) == settings


def _is_named() -> bool:
    """Whether the folder of the run was asked for."""
    return any(each.lstrip("+").split("=")[0] in ("run", "resume") for each in HydraConfig.get().overrides.task)


def _settled(cfg: DictConfig) -> DictConfig:
    """The settings with what depends on this machine and this folder spelt out, so that a resumed run is the same."""
    if cfg.workers < 0:
        raise ValueError(f"workers is {cfg.workers}: expected 0 (this process reads the notes) or more")
    if cfg.keep_best and cfg.valid_batches < 1:
        raise ValueError("keep_best=true and valid_batches=0: nothing would say which is best; expected 1 or more")
    cfg.device = str(device_named(cfg.device))
    if cfg.precision == "auto":
        cfg.precision = "bf16" if cfg.device.startswith("cuda") else "fp32"
    if cfg.init:
        _begin_with(cfg)
    if cfg.optimizer.get("fused", False) is None:
        cfg.optimizer.fused = cfg.device.startswith("cuda")
    cfg.threads = cfg.threads or THREADS  # sums depend on it in the last bit
    cfg.notes.root = str(Path(str(cfg.notes.root)).absolute())
    return cfg


def _begin_with(cfg: DictConfig) -> None:
    """Make the model to train that of the checkpoint `init`; one that reads no pitch may learn to.

    Raises:
        ValueError: another model was asked for.
    """
    cfg.init = str(Path(str(cfg.init)).absolute())
    begun = checkpoint.describe(cfg.init)
    asked = [each for each in HydraConfig.get().overrides.task if each.lstrip("+~").startswith(("model=", "model."))]
    chosen: dict[str, Any] = HydraConfig.get().runtime.choices
    if chosen["model"] != MODEL:
        asked = asked or [f"experiment={chosen['experiment']}"]
    wanted, model = _plain(cfg.model), begun.model
    if "pitch_reading" in wanted:
        reads = wanted["pitch_reading"] or model.get("pitch_reading", False)
        wanted, model = wanted | {"pitch_reading": reads}, model | {"pitch_reading": reads}
    if asked and wanted != model:
        raise ValueError(
            f"init={cfg.init} is a model of other sizes than {', '.join(asked)} asks for: a trained model keeps its "
            "sizes; leave out one of the two"
        )
    with open_dict(cfg):
        cfg.model, cfg.begun = model, {"corpus": begun.corpus, "licence": begun.licence}


def _resumed(asked: DictConfig) -> DictConfig:
    """The settings of an earlier run, with the changes that are asked for now."""
    path = Path(str(asked.resume)) / "config.yaml"
    if not path.is_file():
        raise FileNotFoundError(f"{path.parent} is no run: expected config.yaml and states/ in it (for a model: init=)")
    overrides = [each.lstrip("+") for each in HydraConfig.get().overrides.task]
    refused = [each for each in overrides if each.split("=")[0] not in (*CHANGEABLE, "resume", "resume_step")]
    if refused:
        raise ValueError(
            f"a resumed run goes on with its own settings; {', '.join(refused)} cannot change: "
            f"only {', '.join(CHANGEABLE)} can (for other settings start a new run)"
        )
    begun = OmegaConf.load(path)
    newer = {key: key != "stretches" and asked[key] for key in asked if key not in begun}  # it was begun without them
    cfg = OmegaConf.merge(newer, begun, OmegaConf.from_dotlist(overrides))
    assert isinstance(cfg, DictConfig)
    with open_dict(cfg):
        cfg.run = cfg.resume = str(asked.resume)
        cfg.resume_step = None if processes.restarted() else asked.resume_step
    return cfg


def _check_same_notes(cfg: DictConfig, train: list[Note], valid: list[Note]) -> None:
    """Note which notes a new run learns from, and refuse to resume it with others."""
    names = "\n".join(note.name for note in (*train, *valid))
    digest = hashlib.blake2b(names.encode(), digest_size=8).hexdigest()
    if cfg.notes_digest not in (None, digest):
        raise ValueError(
            f"{cfg.notes.root} holds other notes than {cfg.run} was begun with ({len(train)} to learn, {len(valid)} "
            "held out now): it could not go on exactly; restore them, point notes.root to them, or start a new run"
        )
    cfg.notes_digest = digest


def _corpora(cfg: DictConfig) -> tuple[list[Note], list[Note]]:
    """Notes to train on and notes to validate on, which share no instrument unless `only` some are asked for."""
    train = notes.load(split="train", **cfg.notes)
    if cfg.only:
        only = [note for note in train if note.name in set(cfg.only)]
        if missing := sorted(set(cfg.only) - {note.name for note in only}):
            raise ValueError(f"{', '.join(missing)} is not in the train split of {cfg.notes.root}: expected its notes")
        return only, only
    if cfg.valid_share is not None:
        return notes.parted(train, float(cfg.valid_share))
    valid = notes.load(split=cfg.valid_split, **cfg.notes)
    notes.check_disjoint(train=train, valid=valid)
    return train, valid


def _objective(cfg: DictConfig, group: Group) -> Descent:
    """The model on its device, its optimizer and what is minimised."""
    torch.set_num_threads(cfg.threads)
    torch.manual_seed(cfg.seed)
    model = models.build(_plain(cfg.model))
    if cfg.init and not cfg.resume:
        begun = checkpoint.load(cfg.init).state_dict()
        model.load_state_dict(model.state_dict() | begun)  # what reads the pitch may be new
    kind, own = _kind(cfg, model, group)
    formats = {"fp32": None, "bf16": torch.bfloat16}
    if cfg.precision not in formats:
        raise ValueError(f"unknown precision {cfg.precision!r}: choose one of auto, {', '.join(formats)}")
    rate = made(cfg.schedule)
    rate.check(cfg.steps)
    model.to(group.device)
    objective = kind(
        model,
        made(cfg.optimizer)(model.parameters(), lr=rate(0)),
        rate,
        ema_decay=cfg.ema_decay,
        max_grad_norm=cfg.max_grad_norm,
        autocast=formats[cfg.precision],
        **own,
    )
    parts = group.count * cfg.accumulate
    if cfg.accumulate < 1 or cfg.batch % parts or (parts > 1 and kind is not Likelihood):
        raise ValueError(
            f"batch is {cfg.batch}, in {cfg.accumulate} parts in each of {group.count} processes: expected a multiple "
            f"of {parts}, and one part for a model that compares the crops of a step (batch normalisation)"
        )
    for name in ("stretches", "graph"):
        if cfg[name] not in ("auto", True, False):
            raise ValueError(f"{name} is {cfg[name]!r}: expected auto, true or false")
    ways = {"accumulate": cfg.accumulate, "compiled": cfg.compile, "recompute": cfg.recompute}
    ways["by_stretches"] = None if cfg.stretches == "auto" else cfg.stretches
    objective.arrange(group, recorder=_recorder(cfg, objective, group), **ways)
    return objective


def _recorder(cfg: DictConfig, objective: Descent, group: Group) -> CudaRecorder | None:
    """What records the gradient of a step, if it is to be recorded."""
    on_gpu = group.device.type == "cuda"
    if cfg.graph is True and not on_gpu:
        raise ValueError(f"graph=true: the device is {group.device}, and graphs are CUDA's; leave it out")
    could = objective.is_recordable and group.count == 1 and not cfg.compile and not cfg.recompute
    return CudaRecorder(group.device) if cfg.graph is True or (cfg.graph == "auto" and on_gpu and could) else None


def _kind(cfg: DictConfig, model: torch.nn.Module, group: Group) -> tuple[type[Descent], dict[str, Any]]:
    """What is minimised of a model, and the settings of that alone."""
    if isinstance(model, WaveNetAutoencoder):
        at_once = cfg.batch // (max(cfg.accumulate, 1) * group.count)
        check_crops(model, crop=cfg.crop, skip=cfg.skip, restart=cfg.restart, at_once=at_once)
        return Likelihood, {name: cfg[name] for name in ("skip", "restart", "pitch_weight")}
    if isinstance(model, SpectralAutoencoder):
        if cfg.crop < 1 or cfg.batch * -(-cfg.crop // model.hop) < 2:
            raise ValueError(
                f"batch is {cfg.batch} and crop {cfg.crop}: expected two pieces or more of {model.hop} samples a step, "
                "which batch normalisation compares"
            )
        return Reconstruction, {"kl_weight": cfg.kl_weight, "seed": cfg.seed}
    if isinstance(model, Classifier):
        if cfg.listen_every:
            raise ValueError(f"listen_every is {cfg.listen_every}: expected 0, for a classifier makes no sound")
        return Recognition, {"seed": cfg.seed}
    raise ValueError(
        f"{type(model).__name__} cannot be trained: expected a WaveNetAutoencoder, SpectralAutoencoder or Classifier"
    )


def _hooks(
    cfg: DictConfig, objective: Descent, chosen: Sequence[list[Note]], licence: str, run: Run, board: SummaryWriter
) -> Hooks:
    listened, projected = chosen
    seconds, sounds = cfg.listen_seconds, run.folder / "sounds"
    listener = Listener(listened, seconds=seconds, sampling=Sampling(), folder=sounds, board=board)
    projector = Projector(projected, seconds=seconds, folder=run.folder)
    model = objective.average.model

    def log(step: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            board.add_scalar(name, value, step)

    corpus = Path(cfg.notes.root).name
    if cfg.begun:
        corpus, licence = f"{cfg.begun.corpus}, then {corpus}", f"{cfg.begun.licence}; then {licence}"

    def keep(step: int) -> None:
        meta = checkpoint.Meta(_plain(cfg.model), audio.SAMPLE_RATE, model.hop, step, "ema", corpus, licence)
        checkpoint.save(run.folder / "model.safetensors", model, meta)

    def listen(step: int) -> None:
        listener(model, step)
        projector(model, step)

    return Hooks(log=log, keep=keep, listen=listen)


def _plain(node: DictConfig) -> dict:
    return OmegaConf.to_container(node, resolve=True)  # type: ignore[return-value]


def _introduction(cfg: DictConfig, model: torch.nn.Module, train: list[Note], valid: list[Note], first: int) -> str:
    parameters = sum(p.numel() for p in model.parameters())
    start = f"going on from step {first:,}" if first else "a new run"
    return (
        f"{start} in {cfg.run}: {parameters:,} parameters on {next(model.parameters()).device}, "
        f"{len(train)} notes to learn, {len(valid)} held out, {cfg.batch} crops of {cfg.crop} samples a step"
    )


if __name__ == "__main__":
    main()
    processes.leave()

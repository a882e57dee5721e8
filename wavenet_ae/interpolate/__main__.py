"""Mix sounds by their embeddings: a line, a grid between four corners, a way through time, or a whole keyboard.

Examples:
    python -m wavenet_ae.interpolate checkpoint=model.safetensors inputs=[oboe.wav,viola.wav] steps=7
        seven sounds from one to the other, both ends included; listen and look in mixes/index.html
    python -m wavenet_ae.interpolate checkpoint=model.safetensors inputs=[a.wav,b.wav,c.wav,d.wav] mode=grid steps=3
        NW, NE, SW, SE at the corners of 3 x 3 sounds, and a pad to play them
    python -m wavenet_ae.interpolate checkpoint=model.safetensors inputs=[a.wav,b.npz] mode=crossfade curve=cosine
    python -m wavenet_ae.interpolate checkpoint=model.safetensors inputs=[oboe/,bass/,organ/,viola/] mode=grid out=keys
        folders are instruments: the grid of every key, a folder for each cell; what is done is skipped
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from torch import Tensor
from tqdm import tqdm

from wavenet_ae import audio, checkpoint, embeddings, notes, provenance, synthesis
from wavenet_ae.command import Failed, audio_model, command, device_named, devices_named, required, sift
from wavenet_ae.embeddings import Embedding
from wavenet_ae.interpolate import cost, keyboard, plan, show
from wavenet_ae.interpolate.plan import Shape
from wavenet_ae.interpolate.show import Job
from wavenet_ae.models.autoencoder import Autoencoder
from wavenet_ae.synthesis import Sampling, Sound

SAMPLING = ("engine", "precision", "threads", "batch", "seed", "temperature", "top_p", "iterations", "momentum")


@command
def main(cfg: DictConfig) -> None:
    """Check all inputs, encode them, mix, say what it will cost, generate all mixes as one batch of voices."""
    required(cfg, "checkpoint", "inputs", "out")
    audio.check_subtype("wav", cfg.subtype)
    out = Path(str(cfg.out))
    paths = _inputs(cfg.inputs)
    shape = _shape(cfg, len(paths))
    chords, said = _chords(paths, cfg.missing)
    print("".join(f"{line}\n" for line in said), end="")
    sampling = Sampling(**{name: cfg[name] for name in SAMPLING}, devices=devices_named(cfg.devices))
    model = audio_model(cfg.checkpoint).to(device_named(cfg.device))
    sampling = sampling.check(model.decoder)
    fingerprint = checkpoint.fingerprint(model)
    sounds = _encoded({path for chord in chords.values() for path in chord}, model, fingerprint)
    jobs = _jobs(chords, sounds, shape, embeddings.silence(model).cpu(), out)
    made = f"{provenance.made_with(model, fingerprint, sampling)}, {_words(shape, cfg.gain)}"
    waiting = jobs if cfg.overwrite else _undone(jobs, made)
    voiced = [_sound(model, job, out, cfg.pitch) for job in waiting]
    if waiting:
        expected = cost.estimate(model.decoder, voiced, sampling, 4 if cfg.subtype == "FLOAT" else 2)
        print(f"{len(waiting)} sounds: {expected}")
        cost.check(expected, out)
    names = [path.name for path in paths]
    show.manifest(out / "manifest.json", {"made": made, "mode": shape.mode, "inputs": names}, jobs)
    total = sum(each.samples for each in voiced)
    with tqdm(total=total, desc="generate", unit="sample", unit_scale=True, disable=not waiting) as bar:
        rendered = synthesis.render(model.decoder, voiced, sampling, bar.update)
        waves = ((waiting[index], wave) for index, wave in rendered)
        for job, wave in show.equal(waves, jobs, waiting) if cfg.gain == "equal" else waves:
            embeddings.write(job.place.with_suffix(".npz"), job.cell.embedding)
            comment = provenance.comment(made, job.cell.embedding.source)
            audio.write(job.place, wave, comment=comment, subtype=cfg.subtype)
    show.pages(out, f"{shape.mode}: {', '.join(names)}", jobs, names)
    print(f"{len(waiting)} mixes in {out}; listen and look: {out / 'index.html'}")


def _inputs(given: object) -> list[Path]:
    """The sounds or folders to mix, as Hydra read them; one may stand twice.

    Raises:
        FileNotFoundError: one is not there.
        ValueError: sounds and folders are mixed.
    """
    is_list = isinstance(given, Sequence) and not isinstance(given, str)
    paths = [Path(str(each)) for each in (given if is_list else [given])]  # type: ignore[attr-defined]
    for path in paths:
        if not path.exists():
            raise FileNotFoundError(f"{path} does not exist: expected a sound, an embedding or a folder of notes")
    if len({path.is_dir() for path in paths}) > 1:
        folders = ", ".join(str(path) for path in paths if path.is_dir())
        raise ValueError(
            f"{folders} among sounds: expected sounds only, or folders only (instruments, mixed key by key)"
        )
    return paths


def _shape(cfg: DictConfig, sounds: int) -> Shape:
    """How is to be mixed, checked.

    Raises:
        ValueError: it cannot be, or not so many sounds.
    """
    if cfg.gain not in plan.GAINS:
        raise ValueError(f"unknown gain {cfg.gain!r}: choose one of {', '.join(plan.GAINS)}")
    steps = [cfg.steps] if isinstance(cfg.steps, int) else list(cfg.steps)
    steps = steps * 2 if cfg.mode == "grid" and len(steps) == 1 else steps
    weights = None if cfg.weights is None else tuple(float(weight) for weight in cfg.weights)
    shape = Shape(cfg.mode, tuple(steps), cfg.align, cfg.curve, weights, with_sounds=cfg.gain == "equal")
    plan.check(shape, sounds)
    return shape


def _chords(paths: list[Path], missing: str) -> tuple[Mapping[Any, list[Path]], list[str]]:
    """The sounds that are mixed together, by `keyboard.Key` if they are folders, and what is to be said of it."""
    return keyboard.chords(paths, missing) if paths[0].is_dir() else ({None: paths}, [])


def _encoded(paths: Iterable[Path], model: Autoencoder, fingerprint: str) -> dict[Path, Embedding]:
    """The embedding of every sound.

    Raises:
        Failed: listing those that cannot be read, or are of another model.
    """
    sounds: dict[Path, Embedding] = {}

    def read(path: Path) -> None:
        advice = "numbers of different models do not mix; encode the sound by this one"
        each = embeddings.obtain(model, fingerprint, path, otherwise=advice)
        sounds[path] = each._replace(values=each.values.cpu(), source=path.name)

    every = list(dict.fromkeys(paths))
    _, faults = sift([path for path in every if path.suffix.lower() not in embeddings.SUFFIXES], audio.inspect)
    if not faults:
        _, faults = sift(tqdm(every, desc="encode", unit="file", delay=1), read)
    if faults:
        raise Failed("\n  ".join([f"{len(faults)} of {len(every)} inputs cannot be mixed:", *faults.values()]))
    return sounds


def _jobs(
    chords: Mapping[Any, list[Path]], sounds: Mapping[Path, Embedding], shape: Shape, silence: Tensor, out: Path
) -> list[Job]:
    """Every cell of every chord, and its file: <cell>.wav, or <cell>/<note's name>.wav on a keyboard."""
    jobs = []
    for key, chord in chords.items():
        for number, cell in enumerate(plan.cells([sounds[path] for path in chord], shape, silence)):
            if key is None:
                jobs.append(Job("", cell, out / f"{cell.name}.wav"))
                continue
            known = cell.embedding._replace(pitch=key.pitch, velocity=key.velocity)
            note = notes.name(notes.Key(f"mix_synthetic_{number:03d}", key.pitch, key.velocity))
            jobs.append(Job(str(key), cell._replace(embedding=known), out / cell.name / f"{note}.wav"))
    return jobs


def _undone(jobs: Sequence[Job], made: str) -> list[Job]:
    """The jobs that are still to be done.

    Raises:
        ValueError: a file that is there was made with something else.
    """
    done = [job for job in jobs if job.place.exists()]
    for job in done:
        provenance.refuse_others([job.place], f"{made}, {job.cell.embedding.source}")
    if done:
        print(f"{len(done)} of {len(jobs)} are there already: skipped (overwrite=true makes them again)")
    return [job for job in jobs if not job.place.exists()]


def _sound(model: Autoencoder, job: Job, out: Path, pitch: int | None) -> Sound:
    """What is to be heard of a cell; its file's name keys the dice."""
    embedding = job.cell.embedding
    pitch = embedding.pitch if pitch is None else pitch
    if pitch is None and model.pitch is not None:
        raise ValueError("the inputs do not agree on a pitch and the model is conditioned on it: add pitch=... (MIDI)")
    name = job.place.relative_to(out).with_suffix("").as_posix()
    return synthesis.sound(model, name, embedding.values, embedding.samples, pitch)


def _words(shape: Shape, gain: str) -> str:
    """What decides a mix beside its weights, in words."""
    curve = f", curve {shape.curve}" if shape.mode in ("crossfade", "morph") else ""
    return f"{shape.mode}{curve}, align {shape.align}, gain {gain}"


if __name__ == "__main__":
    main()

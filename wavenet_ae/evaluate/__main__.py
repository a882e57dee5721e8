"""Compare models on notes they never heard: reconstruction, likelihood, pitch, timbre, entanglement, cost.

Examples:
    python -m wavenet_ae.evaluate checkpoint=runs/small/model.safetensors
        a table, and evaluation/report.html with sounds and pictures
    python -m wavenet_ae.evaluate checkpoint=[wavenet.safetensors,baseline.safetensors] seconds=4 out=compared
    python -m wavenet_ae.evaluate checkpoint=model.safetensors notes.root=data/nsynth split=test limit=200
        another corpus than it was trained on: does it generalise?

A run that was stopped goes on when started again: sounds that are there are not made twice.
"""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from omegaconf import DictConfig, OmegaConf

from wavenet_ae import checkpoint, notes, tables
from wavenet_ae.command import audio_model, command, device_named, length_of, model_names, required, several, spread
from wavenet_ae.evaluate import gallery, report, scores
from wavenet_ae.evaluate.ears import Ears
from wavenet_ae.evaluate.measure import Heard, Verdict, listen, tried
from wavenet_ae.evaluate.report import Table
from wavenet_ae.evaluate.scores import ORIGINAL
from wavenet_ae.evaluate.trial import Trial
from wavenet_ae.models.classifier import Classifier
from wavenet_ae.notes import Note
from wavenet_ae.synthesis import Sampling

SAMPLING = ("engine", "precision", "threads", "batch", "seed", "temperature", "top_p", "iterations", "momentum")


@command
def main(cfg: DictConfig) -> None:
    """Check everything, measure the originals, then one model after the other; write the results."""
    required(cfg, "checkpoint", "out")
    sampling = Sampling(**{name: cfg[name] for name in SAMPLING})
    trials = _trials(cfg, sampling)
    chosen = spread(notes.load(split=cfg.split, **cfg.notes), cfg.limit)
    known = spread(notes.load(split=cfg.probe_split, **cfg.notes), cfg.probe_notes) if _has_probes(cfg) else []
    shown = _shown(cfg.show, chosen)
    ears = Ears(_classifier(cfg.classifier), several(cfg.features))
    length = length_of(cfg.seconds)
    for trial in trials:
        trial.check(chosen)
    for trial in trials if cfg.overwrite else ():
        trial.forget()
    if cfg.threads is not None:
        torch.set_num_threads(cfg.threads)
    originals, rows = listen(chosen, length, ears)
    verdicts = {trial.name: tried(trial, originals, known, ears, sampling, length) for trial in trials}
    table = {ORIGINAL: scores.summary(rows)} if ears.classifier else {}
    table |= {name: verdict.column for name, verdict in verdicts.items()}
    remarks = scores.absent(table, rows, ears.networks, has_known=bool(known))
    every = rows + [row for verdict in verdicts.values() for row in verdict.rows]
    tables.write_csv(Path(str(cfg.out)) / "notes.csv", every)
    _write(cfg, table, verdicts, originals, shown, remarks, ears.about)
    print(f"\n{tables.text(report.results(table))}\n")
    print("\n".join(["95% intervals by bootstrap over notes.", *(f"Left out: {each}." for each in remarks)]))
    print(f"report: {Path(str(cfg.out)) / 'report.html'}")


def _trials(cfg: DictConfig, sampling: Sampling) -> list[Trial]:
    """The models by their names, each able to run here."""
    paths = several(cfg.checkpoint)
    names = model_names(paths, several(cfg.names), taken=[ORIGINAL])
    device, trials = device_named(cfg.device), []
    for name, path in zip(names, paths, strict=True):
        model = audio_model(path).to(device)
        sampling.check(model.decoder)
        fingerprint = checkpoint.fingerprint(model)
        made_with = [fingerprint, cfg.seconds, *(cfg[key] for key in ("seed", "temperature", "top_p", "precision"))]
        made_with += [cfg.iterations, cfg.momentum]
        digest = hashlib.blake2b(repr(made_with).encode(), digest_size=4).hexdigest()
        folder = Path(str(cfg.out)) / "sounds" / f"{name}-{digest}"
        trials.append(Trial(name, model, fingerprint, folder))
    return trials


def _has_probes(cfg: DictConfig) -> bool:
    """Whether there are notes to learn from; the default split may be missing, one that was asked for may not."""
    return bool(cfg.probe_split) and (cfg.probe_split != "train" or "train" in notes.splits(cfg.notes.root))


def _shown(show: int | Sequence[str], chosen: Sequence[Note]) -> list[int]:
    """Which notes the report shows, by their place."""
    if isinstance(show, int):
        return notes.evenly(len(chosen), min(show, len(chosen)))
    places = {note.name: place for place, note in enumerate(chosen)}
    if missing := [name for name in show if name not in places]:
        raise ValueError(f"show names {', '.join(missing)}: not among the {len(chosen)} notes evaluated")
    return [places[name] for name in show]


def _classifier(path: str | None) -> Classifier | None:
    if path is None:
        return None
    model = checkpoint.load(path)
    if not isinstance(model, Classifier):
        raise ValueError(f"{path} holds a {type(model).__name__}: expected a Classifier (or classifier=null for none)")
    return model


def _write(
    cfg: DictConfig,
    table: Table,
    verdicts: Mapping[str, Verdict],
    originals: Heard,
    shown: Sequence[int],
    remarks: Sequence[str],
    listeners: Mapping[str, Mapping[str, str]],
) -> None:
    """evaluation.json and report.html."""
    out, corpus = Path(str(cfg.out)), f"{cfg.notes.root}, {cfg.split} split"
    values = {
        "corpus": corpus,
        "balance": report.balance(originals.notes),
        "settings": OmegaConf.to_container(cfg, resolve=True),
        "models": {name: verdict.about for name, verdict in verdicts.items()},
        "measures": {key: measure._asdict() for key, measure in scores.MEASURES.items()},
        "listeners": listeners,
        "results": table,
        "left_out": list(remarks),
    }
    tables.write_json(out / "evaluation.json", values)
    parts = gallery.shows(out / "pictures", table, originals, verdicts, shown, remarks)
    parts[1:1] = gallery.distances(table, verdicts, listeners)
    part = "" if cfg.seconds is None else f", the first {cfg.seconds:g} s of each"
    title = f"{', '.join(verdicts)} on {len(originals.notes)} notes of {corpus}{part}"
    report.write_html(out / "report.html", title, parts)


if __name__ == "__main__":
    main()

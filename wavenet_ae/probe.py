"""Read pitch and family off the embeddings of any number of models by linear classifiers: what do they carry?

Examples:
    python -m wavenet_ae.probe checkpoint=[wavenet.safetensors,baseline.safetensors] notes.root=data/notes
        a table; probe/ holds probe.json, probe.csv and a picture: accuracy over the size of the latent
    python -m wavenet_ae.probe checkpoint=runs/entanglement
        every autoencoder in the folder: the runs of a sweep

The experiment of section 4.3 of Engel et al. 2017 (does a model that is told the pitch leave it out of its embedding?)
with all its training is one command too: python examples/entanglement.py runs/entanglement
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from omegaconf import DictConfig, OmegaConf
from tqdm import tqdm

from wavenet_ae import audio, checkpoint, embeddings, figures, models, notes, tables
from wavenet_ae.audio import SAMPLE_RATE
from wavenet_ae.command import audio_model, command, device_named, length_of, model_names, required, several, spread
from wavenet_ae.metrics import accuracy, entanglement
from wavenet_ae.metrics.bootstrap import Estimate
from wavenet_ae.models.autoencoder import Autoencoder
from wavenet_ae.notes import Note

WHATS = ("pitch", "family")
_COUNTED = {"balanced": "every class counted alike", "plain": "plain share of notes"}
_ASKED = {(what, kind): f"{what}, {kind}" for what in WHATS for kind in entanglement.KINDS}


class Probed(NamedTuple):
    """A model's name, what it is, and how well is read off its embeddings what, of which kind, counted how."""

    name: str
    about: dict[str, Any]
    accuracies: dict[tuple[str, str, str], Estimate]


@command
def main(cfg: DictConfig) -> None:
    """Check everything, then one model after the other; write the results."""
    required(cfg, "checkpoint", "out")
    called = _checkpoints(several(cfg.checkpoint))
    paths = [path for path, _ in called]
    names = model_names(paths, several(cfg.names) or [name for _, name in called])
    if cfg.threads is not None:
        torch.set_num_threads(cfg.threads)
    device, length = device_named(cfg.device), length_of(cfg.seconds)
    loaded = [audio_model(path).to(device) for path in paths]
    known = spread(notes.load(split=cfg.learn_split, **cfg.notes), cfg.learn_limit)
    known = spread(known, entanglement.ROWS)  # more of them would not be learnt from
    asked = spread(notes.load(split=cfg.split, **cfg.notes), cfg.limit)
    remarks = _left_out(known, asked)
    found = []
    for name, path, model in zip(names, paths, loaded, strict=True):
        accuracies = _accuracies(
            _embedded(name, model, known, length), known, _embedded(name, model, asked, length), asked
        )
        found.append(Probed(name, _about(path, model), accuracies))
    out = Path(str(cfg.out))
    chance = {(what, counted): _chance(what, counted, known, asked) for what in WHATS for counted in _COUNTED}
    values = _values(cfg, found, chance, {cfg.learn_split: known, cfg.split: asked}, remarks)
    tables.write_json(out / "probe.json", values)
    tables.write_csv(out / "probe.csv", [_row(each) for each in found])
    _draw(out / "probe.png", found, chance)
    for counted, words in _COUNTED.items():
        print(f"\nAccuracy of linear classifiers, {words}:\n\n{tables.text(_table(found, chance, counted))}")
    print(f"\nlearnt from {len(known)} notes of {cfg.learn_split}, asked of {len(asked)} of {cfg.split}; mean:")
    print("embeddings averaged over time; frames: each by itself, of which no more than")
    print(f"{entanglement.ROWS:,} are learnt from. 95% intervals by bootstrap over notes.")
    print("\n".join([*(f"Left out: {each}." for each in remarks), f"in {out}: probe.json, probe.csv, probe.png"]))


def _checkpoints(given: Sequence[str]) -> list[tuple[str, str]]:
    """The files that were given, and of folders every autoencoder in them, each with what it is called."""
    found: list[tuple[str, str]] = []
    for path in given:
        inside = _autoencoders(Path(path)) if Path(path).is_dir() else [Path(path)]
        names = [model_names([str(each)], [])[0] for each in inside]
        for each, name in zip(inside, names, strict=True):
            is_alone = names.count(name) == 1
            found.append((str(each), name if is_alone else each.parent.relative_to(path).as_posix()))
    return found


def _autoencoders(folder: Path) -> list[Path]:
    """The models of the runs in a folder; of other kinds, as classifiers are, there may be runs too."""
    found = [
        path
        for path in sorted(folder.rglob("model.safetensors"))
        if issubclass(models.named(checkpoint.describe(path).model), Autoencoder)
    ]
    if not found:
        raise FileNotFoundError(f"{folder} has no autoencoder's model.safetensors: expected runs of train in it")
    return found


def _embedded(
    name: str, model: Autoencoder, every: Sequence[Note], length: int | None
) -> list[Float[np.ndarray, "dims _"]]:
    bar = tqdm(every, desc=f"{name}: encode", unit="note")
    return [embeddings.encode(model, audio.read(note.path)[:length]).cpu().numpy() for note in bar]


def _accuracies(
    known: Sequence[np.ndarray], known_notes: Sequence[Note], asked: Sequence[np.ndarray], asked_notes: Sequence[Note]
) -> dict[tuple[str, str, str], Estimate]:
    """What could be asked of one note at least; a note whose class was never learnt does not count."""
    found = {}
    for (what, kind), right in entanglement.read_off(known, known_notes, asked, asked_notes).items():
        there = np.isfinite(right)
        if there.any():
            truth = [str(note.label(what)) for note, is_there in zip(asked_notes, there, strict=True) if is_there]
            found[what, kind, "plain"] = accuracy.plain(right[there])
            found[what, kind, "balanced"] = accuracy.balanced(right[there], truth)
    return found


def _chance(what: str, counted: str, known: Sequence[Note], asked: Sequence[Note]) -> float:
    """What one always hears right who says the class that was learnt from most notes; NaN if nothing can be asked."""
    learnt = Counter(label for note in known if (label := note.label(what)) is not None)
    expected = Counter(label for note in asked if (label := note.label(what)) in learnt)
    if not expected:
        return math.nan
    return 1 / len(expected) if counted == "balanced" else expected[learnt.most_common(1)[0][0]] / expected.total()


def _left_out(known: Sequence[Note], asked: Sequence[Note]) -> list[str]:
    said = []
    for what in WHATS:
        learnt = {note.label(what) for note in known} - {None}
        if len(learnt) < 2:
            said.append(f"{what}: the notes to learn from are of {len(learnt)} classes, expected two or more")
        elif strange := sum(note.label(what) not in learnt for note in asked):
            said.append(
                f"{what}: of {strange} of {len(asked)} notes it is unknown, or was not among those to learn from"
            )
    if len(said) == 2 and all("classes" in each for each in said):
        raise ValueError(f"nothing can be learnt: {'; '.join(said)}")
    return said


def _about(path: str, model: Autoencoder) -> dict[str, Any]:
    meta = checkpoint.describe(path)
    return {
        "kind": type(model).__name__.removesuffix("Autoencoder"),
        "told_pitch": model.pitch is not None,
        "numbers": model.embedding_dims,
        "frame_ms": round(1000 * model.hop / SAMPLE_RATE, 1),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "step": meta.step,
        "corpus": meta.corpus,
        "fingerprint": checkpoint.fingerprint(model),
        "checkpoint": path,
    }


def _table(found: Sequence[Probed], chance: Mapping[tuple[str, str], float], counted: str) -> tables.Grid:
    """A row for each model: what it is, and how well is read off it what."""
    rows = [["model", "kind", "told the pitch", "numbers", "a frame (ms)", "steps", *_ASKED.values()]]
    for name, about, accuracies in found:
        sizes = [tables.number(about[key]) for key in ("numbers", "frame_ms", "step")]
        cells = [tables.cell(accuracies.get((*asked, counted))) for asked in _ASKED]
        rows.append([name, about["kind"], "yes" if about["told_pitch"] else "no", *sizes, *cells])
    return [*rows, ["by chance", *[""] * 5, *(tables.number(chance[what, counted]) for what, _ in _ASKED)]]


def _row(probed: Probed) -> dict[str, Any]:
    """A model as a line of probe.csv."""
    row = {"model": probed.name, **probed.about}
    for key, found in probed.accuracies.items():
        row |= {"_".join([*key, part]): value for part, value in found._asdict().items()}
    return row


def _values(
    cfg: DictConfig,
    found: Sequence[Probed],
    chance: Mapping[tuple[str, str], float],
    groups: Mapping[str, Sequence[Note]],
    remarks: Sequence[str],
) -> dict[str, Any]:
    """What probe.json holds."""
    return {
        "settings": OmegaConf.to_container(cfg, resolve=True),
        "notes": {
            name: {"notes": len(group), "instruments": len({note.instrument for note in group})}
            for name, group in groups.items()
        },
        "chance": {"_".join(key): value for key, value in chance.items()},
        "models": {
            name: {**about, "accuracy": {"_".join(key): each for key, each in accuracies.items()}}
            for name, about, accuracies in found
        },
        "left_out": list(remarks),
    }


def _draw(path: Path, found: Sequence[Probed], chance: Mapping[tuple[str, str], float]) -> None:
    """Accuracy over the size of the latent, a line for each kind of model."""
    panels = {}
    for what in WHATS:
        lines: dict[str, list[figures.Point]] = {}
        for _, about, accuracies in sorted(found, key=lambda each: each.about["numbers"]):
            if (best := accuracies.get((what, "mean", "balanced"))) is not None:
                told = "told the pitch" if about["told_pitch"] else "not told the pitch"
                point = figures.Point(about["numbers"], best.value, best.low, best.high)
                lines.setdefault(f"{about['kind']}, {told}", []).append(point)
        panels[f"{what} read off the mean embedding"] = (lines, chance[what, "balanced"])
    figures.sizes(path, panels, across="numbers in a frame of the embedding", up="accuracy, classes counted alike")


if __name__ == "__main__":
    main()

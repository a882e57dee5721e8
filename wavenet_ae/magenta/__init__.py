"""Magenta's NSynth checkpoints (TensorFlow), read without TensorFlow into our own model."""

from pathlib import Path
from typing import Any, NamedTuple

import torch

from wavenet_ae import models
from wavenet_ae.magenta import baseline, mapping
from wavenet_ae.magenta.bundle import Bundle, open_bundle
from wavenet_ae.models.autoencoder import Autoencoder

STAGES, HOP = 10, 512  # of every published checkpoint; the one thing that no variable's shape shows


class Imported(NamedTuple):
    """A model, its `model` node, and what became of everything in the checkpoint.

    `used` maps our parameters to the variables they were made of; `left` is the rest, by kind.
    """

    model: Autoencoder
    description: dict[str, Any]
    source: str
    step: int | None
    used: dict[str, str]
    left: dict[str, list[str]]


def load(path: str | Path, weights: str = "raw", *, stages: int = STAGES, hop: int = HOP) -> Autoencoder:
    """The model in a checkpoint of Magenta's WaveNet or baseline, in float32 and evaluation mode; see `read`."""
    return read(path, weights, stages=stages, hop=hop).model


def read(path: str | Path, weights: str = "raw", *, stages: int = STAGES, hop: int = HOP) -> Imported:
    """The model in a checkpoint of Magenta's WaveNet or spectral baseline, with an account of what was used.

    `path` is the checkpoint as TensorFlow names it (`model.ckpt-200000`), one of its files, their folder,
    or a .tar. `weights` is "raw", what Magenta's own tool plays, or "ema", their moving averages.
    `stages` and `hop` are the WaveNet's.

    Raises:
        FileNotFoundError: nothing is there, or part of it is missing.
        ValueError: it is damaged, is something else, or holds another model; the message says which.
    """
    bundle = open_bundle(path)
    shapes = {name: entry.shape for name, entry in bundle.entries.items()}
    try:
        is_baseline = baseline.is_held(shapes)
        layout = baseline if is_baseline else mapping
        description = baseline.describe(shapes) if is_baseline else mapping.describe(shapes, stages=stages, hop=hop)
        names = layout.variables(description)
        used = mapping.choose(names, shapes, weights)
        with torch.device("meta"):  # shapes only: the weights are put in below, not copied
            model = models.build(description)
        expected = {name: layout.their_shape(tuple(p.shape)) for name, p in model.state_dict().items()}
        mapping.check(used, expected, shapes)
    except (ValueError, RuntimeError, ArithmeticError) as error:
        raise ValueError(f"{bundle.name}: {error}") from None
    assert isinstance(model, Autoencoder)
    model.load_state_dict({ours: layout.to_ours(bundle.read(theirs)) for ours, theirs in used.items()}, assign=True)
    left = mapping.leftovers(shapes, used.values(), names.values())
    return Imported(model.eval(), description, bundle.name, _step(bundle), used, left)


def _step(bundle: Bundle) -> int | None:
    """How many updates made the weights, if the checkpoint says so."""
    entry = bundle.entries.get("global_step")
    if entry is None or entry.shape or entry.dtype is None or entry.dtype.kind not in "iu":
        return None
    return int(bundle.read("global_step"))

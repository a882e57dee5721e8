"""Magenta's variable names and shapes <-> our WaveNet autoencoder, every variable of it used exactly once."""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

_ROOM = "wavenet_ae.models.wavenet"
_EMA = "/ExponentialMovingAverage"
_COUNTERS = ("global_step", "local_step", "sync_rep_local_step")
_SLOTS = ("/Adam", "/Adam_1", "/RMSProp", "/RMSProp_1", "/Momentum", "/Adagrad")

# Layer by layer, ours and theirs; {i} counts from 0 in ours, {n} from 1 in theirs.
_ONCE = {
    "encoder.start": "ae_startconv",
    "encoder.bottleneck": "ae_bottleneck",
    "decoder.start": "startconv",
    "decoder.start_skip": "skip_start",
    "decoder.out": "out1",
    "decoder.out_condition": "cond_map_out1",
    "decoder.logits": "logits",
}
_ENCODER_BLOCK = {
    "encoder.blocks.{i}.dilated": "ae_dilatedconv_{n}",
    "encoder.blocks.{i}.residual": "ae_res_{n}",
}
_DECODER_BLOCK = {
    "decoder.blocks.{i}.dilated": "dilatedconv_{n}",
    "decoder.blocks.{i}.condition": "cond_map_{n}",
    "decoder.blocks.{i}.residual": "res_{n}",
    "decoder.blocks.{i}.skip": "skip_{n}",
}
_FIRST = ("ae_startconv", "ae_bottleneck", "startconv", "skip_start")  # what the sizes are read off

Shapes = Mapping[str, tuple[int, ...]]


def describe(shapes: Shapes, *, stages: int, hop: int) -> dict[str, Any]:
    """The `model` node of the network with these variables; shapes tell all its sizes but stages and hop.

    Raises:
        ValueError: they are the variables of another model, or stages or hop is not a positive number.
    """
    for name, value in (("stages", stages), ("hop", hop)):
        if value < 1:
            raise ValueError(f"{name} is {value}: expected at least 1")
    missing = [f"{layer}/W" for layer in _FIRST if len(shapes.get(f"{layer}/W", ())) != 4]
    if missing:
        held = sorted(name for name in shapes if _kind(name) is None) or sorted(shapes)
        raise ValueError(
            f"it is a checkpoint of another model: {', '.join(missing)} missing, "
            f"found {', '.join(held[:8])}{f' and {len(held) - 8} more' if len(held) > 8 else ''}; "
            "expected NSynth's WaveNet autoencoder or its baseline"
        )
    start, bottleneck, decoder_start, skip = (shapes[f"{layer}/W"] for layer in _FIRST)
    common = {"stages": stages, "embedding_dims": bottleneck[3], "hop": hop}
    encoder = {"layers": _layers(shapes, _ENCODER_BLOCK), "width": start[3], "kernel_size": start[1]}
    decoder = {
        "layers": _layers(shapes, _DECODER_BLOCK),
        "width": decoder_start[3],
        "skip_width": skip[3],
        "kernel_size": decoder_start[1],
    }
    return {
        "_target_": f"{_ROOM}.WaveNetAutoencoder",
        "encoder": {"_target_": f"{_ROOM}.Encoder", **encoder, **common},
        "decoder": {"_target_": f"{_ROOM}.Decoder", **decoder, **common},
        "pitch_conditioning": False,
        "pitch_reading": False,
    }


def variables(description: Mapping[str, Any]) -> dict[str, str]:
    """Our parameter names -> Magenta's variable names, for the model described."""
    layers = dict(_ONCE)
    for half, block in (("encoder", _ENCODER_BLOCK), ("decoder", _DECODER_BLOCK)):
        for i in range(description[half]["layers"]):
            layers |= {ours.format(i=i): theirs.format(n=i + 1) for ours, theirs in block.items()}
    kinds = (("weight", "W"), ("bias", "biases"))
    return {f"{ours}.{kind}": f"{theirs}/{name}" for ours, theirs in layers.items() for kind, name in kinds}


def choose(names: Mapping[str, str], shapes: Shapes, weights: str) -> dict[str, str]:
    """The same, each name replaced by that of its moving average if `weights` is "ema".

    Raises:
        ValueError: `weights` is neither "raw" nor "ema", or the checkpoint keeps no moving averages.
    """
    if weights not in ("raw", "ema"):
        raise ValueError(f"unknown weights {weights!r}: choose raw (what Magenta's own tool plays) or ema")
    if weights == "raw":
        return dict(names)
    if not any(name.endswith(_EMA) for name in shapes):
        raise ValueError("it keeps no moving averages of its weights (.../ExponentialMovingAverage): use weights=raw")
    return {ours: f"{theirs}{_EMA}" for ours, theirs in names.items()}


def check(names: Mapping[str, str], expected: Shapes, shapes: Shapes) -> None:
    """Check that every parameter's variable is there, in the right shape.

    Args:
        names: our parameter names -> the variables they are made of.
        expected: the shapes of the variables that would fill our parameters.
        shapes: the shapes of the variables.

    Raises:
        ValueError: one is missing or does not fit.
    """
    faults = []
    for ours, theirs in names.items():
        if theirs not in shapes:
            faults.append(f"{theirs} is missing")
        elif shapes[theirs] != expected[ours]:
            faults.append(f"{theirs} is {list(shapes[theirs])}, expected {list(expected[ours])}")
    if unmatched := sorted(expected.keys() - names.keys()):
        faults.append(f"nothing is known to fill {', '.join(unmatched)}")
    if faults:
        more = f" and {len(faults) - 8} more" if len(faults) > 8 else ""
        raise ValueError(f"its variables do not make an autoencoder: {'; '.join(faults[:8])}{more}")


def to_ours(variable: np.ndarray) -> Tensor:
    """A copy in our layout, float32: [1, filter, in, out] becomes [out, in, filter], biases stay.

    Both frameworks correlate rather than convolve, so the taps keep their direction, oldest first.
    """
    ours = variable[0].transpose(2, 1, 0) if variable.ndim == 4 else variable
    return torch.from_numpy(np.array(ours, np.float32, order="C"))


def leftovers(names: Iterable[str], used: Iterable[str], weights: Iterable[str]) -> dict[str, list[str]]:
    """What is in the checkpoint and was not used, by kind; nothing is left out in silence.

    `weights` are the names of the model's raw variables, which are left over when its averages are used.
    """
    raw = set(weights)
    groups: dict[str, list[str]] = defaultdict(list)
    for name in sorted(set(names) - set(used)):
        groups["raw weights" if name in raw else _kind(name) or "unknown"].append(name)
    return dict(groups)


def _kind(name: str) -> str | None:
    """What a variable is, if not one of a model's own."""
    if name.endswith(_EMA):
        return "moving averages"
    if name.endswith(_SLOTS) or name in ("beta1_power", "beta2_power"):
        return "optimizer slots"
    return "counters" if name.rpartition("/")[2] in _COUNTERS else None


def _layers(shapes: Shapes, block: Mapping[str, str]) -> int:
    """How many blocks there are, by the most numerous of its layers: one that lacks a block then shows as missing."""
    patterns = [re.compile(theirs.format(n=r"\d+") + "/W") for theirs in block.values()]
    return max(sum(bool(pattern.fullmatch(name)) for name in shapes) for pattern in patterns)


def their_shape(ours: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of the variable that fills a parameter of this shape."""
    return (1, ours[2], ours[1], ours[0]) if len(ours) == 3 else ours

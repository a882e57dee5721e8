"""A decoder's weights as the GPU's blocks read them: every row with its owner, in the precision asked for."""

import math
from typing import NamedTuple

import numpy as np
import torch

from wavenet_ae.models.wavenet import Decoder
from wavenet_ae.sampler.cuda.layout import Plan
from wavenet_ae.sampler.weights import Folded, fold, to_bf16


class Packed(NamedTuple):
    """The weights as blocks read them: [block, ...] each, channels beyond the last being zeros.

    Matrices are in the plan's precision, as bytes; rows of gates are a channel's sigmoid and tanh, in turn.
    """

    now: np.ndarray  # [block, layer, 2 * channels gates, channels residual, says skip; inputs]
    folded: np.ndarray  # [block, folded, 2 * channels gates; inputs]: what follows from the output of the layer before
    past: np.ndarray  # [block, layer - 1, tap - 1, 2 * channels gates; inputs], the newer tap first
    out: np.ndarray  # [block, says, skip] float32
    scores: np.ndarray  # [block, scores, skip] float32
    own: np.ndarray  # [block, `Plan.own`] float32
    told: np.ndarray  # [block, `Plan.told`] float32


def pack(decoder: Decoder, plan: Plan) -> Packed:
    """A decoder's weights, folded, dealt out and in the plan's precision."""
    folded = fold(decoder)
    current, second, past = _now(folded, plan), _second(folded, plan), _past(folded, plan)
    largest, largest_past = np.abs(current).max(axis=-1), np.abs(past).max(axis=-1)
    gates = largest[:, 2 : 2 + plan.folded, : 2 * plan.channels]
    np.maximum(gates, np.abs(second).max(axis=-1, initial=0), out=gates)  # one scale for both halves of a row
    scaled = plan.precision == "int8"
    bias = folded.condition_bias.copy()
    for i in range(2, 2 + plan.folded):
        bias[i] += folded.current[i - 1] @ folded.residual_bias[i - 1]
    own = {
        "first": _gates(folded.first, plan),
        "first_bias": _gates(folded.first_bias, plan),
        "start": _deal(folded.start, plan.channels, plan),
        "said": _deal(folded.said, plan.says, plan),
        "said_bias": _deal(folded.said_bias, plan.says, plan),
        "residual_bias": _deal(folded.residual_bias, plan.channels, plan),
        "scores_bias": _deal(folded.logits_bias, plan.scores, plan),
        "scale": _scale(largest) if scaled else np.zeros((plan.blocks, 0)),
        "past_scale": _scale(largest_past) if scaled else np.zeros((plan.blocks, 0)),
    }
    conditions = [_gates(folded.condition[layer], plan) for layer in range(plan.layers)]
    biases = [_gates(bias[layer], plan) for layer in range(plan.layers)]
    told = {
        "weight": np.concatenate([*conditions, _deal(folded.out_condition, plan.says, plan)], axis=-1),
        "bias": np.concatenate([*biases, _deal(folded.out_bias, plan.says, plan)], axis=-1),
    }
    return Packed(
        now=_store(current, largest, plan.precision),
        folded=_store(second, gates, plan.precision),
        past=_store(past, largest_past, plan.precision),
        out=_rows(folded.out, plan.says, plan.skip, plan),
        scores=_rows(folded.logits, plan.scores, plan.skip, plan),
        own=_table(own, plan.own),
        told=_table(told, plan.told),
    )


def to_device(packed: Packed, device: torch.device) -> dict[str, torch.Tensor]:
    """Every array as bytes on a device."""
    arrays = packed._asdict().items()
    return {name: torch.from_numpy(np.ascontiguousarray(a).reshape(-1).view(np.uint8)).to(device) for name, a in arrays}


def _now(folded: Folded, plan: Plan) -> np.ndarray:
    layers = []
    for i in range(plan.layers):
        gates = _gate_rows(folded.current[i - 1], plan) if i else _no_rows(2 * plan.channels, plan)
        last = i == plan.layers - 1
        residual = _no_rows(plan.channels, plan) if last else _rows(folded.residual[i], plan.channels, plan.width, plan)
        layers.append(np.concatenate([gates, residual, _rows(folded.skip[i], plan.says, plan.width, plan)], axis=1))
    return np.stack(layers, axis=1)


def _second(folded: Folded, plan: Plan) -> np.ndarray:
    """What a folded layer's gates make of the output of the layer before it: C (x + R z) = C x + (C R) z."""
    dealt = np.zeros((plan.blocks, plan.folded, 2 * plan.channels, plan.width), np.float32)
    for i in range(plan.folded):
        current, residual = folded.current[i + 1], folded.residual[i + 1]
        dealt[:, i] = _gate_rows(current.astype(np.float64) @ residual.astype(np.float64), plan)
    return dealt


def _past(folded: Folded, plan: Plan) -> np.ndarray:
    """The taps of every layer but the first, the newer first."""
    shape = (plan.blocks, plan.layers - 1, plan.taps - 1, 2 * plan.channels, plan.width)
    dealt = np.zeros(shape, np.float32)
    for i, matrix in enumerate(folded.past):
        for tap, oldest_first in enumerate(np.split(matrix, plan.taps - 1, axis=1) if plan.taps > 1 else []):
            dealt[:, i, plan.taps - 2 - tap] = _gate_rows(oldest_first, plan)
    return dealt


def _deal(array: np.ndarray, each: int, plan: Plan) -> np.ndarray:
    """The last axis in equal parts, the first block's first: [block, ..., each]."""
    padded = np.pad(array, [(0, 0)] * (array.ndim - 1) + [(0, plan.blocks * each - array.shape[-1])])
    return np.moveaxis(padded.reshape(*array.shape[:-1], plan.blocks, each), -2, 0)


def _gates(array: np.ndarray, plan: Plan) -> np.ndarray:
    """The last axis, all sigmoid rows and then all tanh rows, dealt as channels: [block, ..., 2 * channels]."""
    halves = np.stack([_deal(half, plan.channels, plan) for half in np.split(array, 2, axis=-1)], axis=-1)
    return halves.reshape(*halves.shape[:-2], -1)


def _rows(matrix: np.ndarray, each: int, inputs: int, plan: Plan) -> np.ndarray:
    wide = np.pad(matrix, [(0, 0), (0, inputs - matrix.shape[1])]).astype(np.float32)
    return np.ascontiguousarray(np.moveaxis(_deal(wide.T, each, plan), 1, 2))


def _gate_rows(matrix: np.ndarray, plan: Plan) -> np.ndarray:
    wide = np.pad(matrix, [(0, 0), (0, plan.width - matrix.shape[1])]).astype(np.float32)
    return np.moveaxis(_gates(wide.T, plan), 1, 2)


def _no_rows(rows: int, plan: Plan) -> np.ndarray:
    return np.zeros((plan.blocks, rows, plan.width), np.float32)


def _table(arrays: dict[str, np.ndarray], shapes: dict[str, tuple[int, ...]]) -> np.ndarray:
    for name, shape in shapes.items():
        assert arrays[name].size == len(arrays[name]) * math.prod(shape), (name, arrays[name].shape, shape)
    return np.concatenate([arrays[name].reshape(len(arrays[name]), -1) for name in shapes], axis=1).astype(np.float32)


def _scale(largest: np.ndarray) -> np.ndarray:
    """What whole numbers up to 127 are multiplied by for rows that go so far."""
    return np.where(largest > 0, largest, 127) / 127


def _store(matrices: np.ndarray, largest: np.ndarray, precision: str) -> np.ndarray:
    """Rows of weights in a precision."""
    if precision == "int8":
        return np.rint(matrices / _scale(largest)[..., None]).astype(np.int8)
    if precision == "fp16":
        return matrices.astype(np.float16)
    return to_bf16(matrices) if precision == "bf16" else matrices

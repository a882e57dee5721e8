"""A decoder's weights as the GPU's blocks read them: every row with its owner, in the precision asked for."""

import math
from typing import NamedTuple

import numpy as np
import torch

from wavenet_ae.models.wavenet import Decoder
from wavenet_ae.sampler.cuda.layout import GROUP, Plan
from wavenet_ae.sampler.weights import Folded, fold, to_bf16


class Packed(NamedTuple):
    """The weights as blocks read them: [block, ...] each, channels beyond the last being zeros.

    Matrices are in the plan's precision, as a tensor core's lanes read them: eight rows, of four inputs in each
    of a row's four lanes. Rows of gates are a channel's sigmoid and tanh, in turn.
    """

    now: np.ndarray  # [block, layer, half, quad, warp, lane, 16 bytes]: halves of `_outputs`, then of `_inputs`
    past: np.ndarray  # [block, layer - 1, (tap, half, quad, lane), 16 bytes], the newer tap first
    out: np.ndarray  # [block, says, skip] float32
    scores: np.ndarray  # [block, scores, skip] float32
    own: np.ndarray  # [block, `Plan.own`] float32
    told: np.ndarray  # [block, `Plan.told`] float32


def pack(decoder: Decoder, plan: Plan) -> Packed:
    """A decoder's weights, folded, dealt out and in the plan's precision."""
    folded = fold(decoder)
    outputs, inputs, past = _outputs(folded, plan), _inputs(folded, plan), _past(folded, plan)
    largest, largest_past = np.abs(outputs).max(axis=-1), np.abs(past).max(axis=-1)
    gates = largest[:, :, : 2 * plan.channels]
    np.maximum(gates, np.abs(inputs).max(axis=-1), out=gates)  # one scale for both halves of a row
    scaled = plan.precision == "int8"
    bias = folded.condition_bias.copy()
    for i in range(1, plan.layers):
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
    now = [_store(outputs, largest, plan.precision), _store(inputs, gates, plan.precision)]
    stored_past = _store(past, largest_past, plan.precision)
    by_tap = _tiles(stored_past, 1, plan)  # [block, layer - 1, tap, half, quad, 1, lane, bytes]
    return Packed(
        now=np.concatenate([_tiles(matrix, plan.hearing, plan) for matrix in now], axis=2),
        past=by_tap.reshape(*by_tap.shape[:2], math.prod(by_tap.shape[2:-1]), 16),
        out=_rows(folded.out, plan.says, plan.skip, plan),
        scores=_rows(folded.logits, plan.scores, plan.skip, plan),
        own=_table(own, plan.own),
        told=_table(told, plan.told),
    )


def to_device(packed: Packed, device: torch.device) -> dict[str, torch.Tensor]:
    """Every array as bytes on a device."""
    arrays = packed._asdict().items()
    return {name: torch.from_numpy(np.ascontiguousarray(a).reshape(-1).view(np.uint8)).to(device) for name, a in arrays}


def _outputs(folded: Folded, plan: Plan) -> np.ndarray:
    """What is multiplied by a layer's outputs z, [block, layer, rows, width].

    The gates of the layer that follows, C (x + R z) = C x + (C R) z; the residual; the skip.
    """
    layers = []
    for i in range(plan.layers):
        if i + 1 < plan.layers:
            residual = _rows(folded.residual[i], plan.channels, plan.width, plan)
            gates = _gate_rows(folded.current[i].astype(np.float64) @ folded.residual[i].astype(np.float64), plan)
        else:
            residual, gates = _no_rows(plan.channels, plan), _no_rows(2 * plan.channels, plan)
        skip = _rows(folded.skip[i], plan.says, plan.width, plan)
        layers.append(np.concatenate([gates, residual, skip], axis=1))
    return np.stack(layers, axis=1)


def _inputs(folded: Folded, plan: Plan) -> np.ndarray:
    """What is multiplied by a layer's inputs x, [block, layer, gates, width]: the gates of the layer that follows."""
    rows = [_gate_rows(current, plan) for current in folded.current] + [_no_rows(2 * plan.channels, plan)]
    return np.stack(rows, axis=1)


def _tiles(matrix: np.ndarray, warps: int, plan: Plan) -> np.ndarray:
    """[..., rows, width] as lanes read it: [..., half, quad, warp, lane, bytes]; inputs are dealt to warps in order."""
    *outer, rows, width = matrix.shape
    quad, halves = plan.quad, -(-rows // 8)
    groups = -(-width // (GROUP * warps))
    quads = -(-groups // quad)
    nothing = [(0, 0)] * len(outer)
    wide = np.pad(matrix, [*nothing, (0, 8 * halves - rows), (0, groups * GROUP * warps - width)])
    dealt = wide.reshape(*outer, halves, 8, warps, groups, 4, 4)
    dealt = np.pad(dealt, [*nothing, *[(0, 0)] * 3, (0, quads * quad - groups), (0, 0), (0, 0)])
    dealt = dealt.reshape(*outer, halves, 8, warps, quads, quad, 4, 4)
    n = len(outer)  # (half, row, warp, quad, group, lane, input) -> (half, quad, warp, row, lane, group, input)
    dealt = dealt.transpose(*range(n), n, n + 3, n + 2, n + 1, n + 5, n + 4, n + 6)
    return np.ascontiguousarray(dealt).reshape(*outer, halves, quads, warps, 32, quad * 4).view(np.uint8)


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

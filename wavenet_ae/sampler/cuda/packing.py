"""A decoder's weights as the GPU's blocks read them: every row with its owner, in the precision asked for."""

import math
from typing import NamedTuple

import numpy as np

from wavenet_ae.models.wavenet import Decoder
from wavenet_ae.sampler.cuda import dealing
from wavenet_ae.sampler.cuda.layout import GROUP, Plan
from wavenet_ae.sampler.weights import Folded, fold


class Packed(NamedTuple):
    """The weights as blocks read them: [block, ...] each, channels beyond the last being zeros.

    Matrices are in the plan's precision, as a tensor core's lanes read them: eight rows, of four inputs in each
    of a row's four lanes. Rows of gates are a channel's sigmoid and tanh, in turn.
    """

    now: np.ndarray  # [block, layer, half, quad, warp, lane, 16 bytes]: `_paired` halves of `_outputs`, of `_inputs`
    past: np.ndarray  # [block, layer - 1, (tap, half, quad, lane), 16 bytes], the newer tap first
    out: np.ndarray  # [block, says, skip] float32
    scores: np.ndarray  # [block, scores, skip] float32
    own: np.ndarray  # [block, `Plan.own`] float32
    told: np.ndarray  # [block, `Plan.told`] float32


def pack(decoder: Decoder, plan: Plan) -> Packed:
    """A decoder's weights, folded, dealt out and in the plan's precision."""
    folded = fold(decoder)
    outputs, inputs, past = _outputs(folded, plan), _inputs(folded, plan), dealing.past(folded, plan)
    largest, largest_past = np.abs(outputs).max(axis=-1), np.abs(past).max(axis=-1)
    gates = largest[:, :, : 2 * plan.channels]
    np.maximum(gates, np.abs(inputs).max(axis=-1), out=gates)  # one scale for both halves of a row
    bias = folded.condition_bias.copy()
    for i in range(1, plan.layers):
        bias[i] += folded.current[i - 1] @ folded.residual_bias[i - 1]
    scales = (dealing.scale(largest), dealing.scale(largest_past)) if plan.precision == "int8" else None
    now = [dealing.store(outputs, largest, plan.precision), dealing.store(inputs, gates, plan.precision)]
    stored_past = dealing.store(past, largest_past, plan.precision)
    by_tap = _tiles(stored_past, 1, plan)  # [block, layer - 1, tap, half, quad, 1, lane, bytes]
    return Packed(
        now=np.concatenate([_paired(_tiles(matrix, plan.hearing, plan), plan) for matrix in now], axis=2),
        past=by_tap.reshape(*by_tap.shape[:2], math.prod(by_tap.shape[2:-1]), 16),
        out=dealing.rows(folded.out, plan.says, plan.skip, plan),
        scores=dealing.rows(folded.logits, plan.scores, plan.skip, plan),
        own=dealing.own(folded, scales, plan),
        told=dealing.told(folded, bias, plan),
    )


def _outputs(folded: Folded, plan: Plan) -> np.ndarray:
    """What is multiplied by a layer's outputs z, [block, layer, rows, width].

    The gates of the layer that follows, C (x + R z) = C x + (C R) z; the residual; the skip.
    """
    layers = []
    for i in range(plan.layers):
        if i + 1 < plan.layers:
            residual = dealing.rows(folded.residual[i], plan.channels, plan.width, plan)
            both = folded.current[i].astype(np.float64) @ folded.residual[i].astype(np.float64)
            gates = dealing.gate_rows(both, plan)
        else:
            residual, gates = dealing.no_rows(plan.channels, plan), dealing.no_rows(2 * plan.channels, plan)
        skip = dealing.rows(folded.skip[i], plan.says, plan.width, plan)
        layers.append(np.concatenate([gates, residual, skip], axis=1))
    return np.stack(layers, axis=1)


def _inputs(folded: Folded, plan: Plan) -> np.ndarray:
    """What is multiplied by a layer's inputs x, [block, layer, gates, width]: the gates of the layer that follows."""
    rows = [dealing.gate_rows(current, plan) for current in folded.current] + [dealing.no_rows(2 * plan.channels, plan)]
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


def _paired(tiles: np.ndarray, plan: Plan) -> np.ndarray:
    """Of 16-bit numbers, a quad's words as a tensor core multiplies them: no other two lie beside each other.

    A quad of two groups of a row, of two words each, and the one eight rows below become one for each group; where
    none is below, one of both groups, the second in place of the row below.
    """
    if plan.quad != 2:
        return tiles
    words = tiles.view(np.uint32).reshape(
        *tiles.shape[:-1], 2, 2
    )  # [block, layer, half, quad, warp, lane, group, word]
    paired = words.shape[2] // 2 * 2
    block, layer, _, *rest = words.shape
    two = words[:, :, :paired].reshape(block, layer, paired // 2, 2, *rest)
    two = np.moveaxis(two, (3, 7), (8, 3))  # (half of two, group, word) -> (group, word, half of two)
    alone = words[:, :, paired:].swapaxes(-1, -2)
    both = np.concatenate([two.reshape(block, layer, paired, *rest), alone], axis=2)
    return np.ascontiguousarray(both).reshape(*tiles.shape[:-1], 4).view(np.uint8)

"""A decoder's weights as the blocks of a choir read them: a tape of pieces, each of use to all of a block's warps."""

from typing import NamedTuple

import numpy as np

from wavenet_ae.models.wavenet import Decoder
from wavenet_ae.sampler.clusters.layout import Plan
from wavenet_ae.sampler.cuda import dealing
from wavenet_ae.sampler.cuda.layout import GROUP
from wavenet_ae.sampler.weights import Folded, fold


class Packed(NamedTuple):
    """The weights as blocks read them: [block, ...] each, channels beyond the last being zeros.

    A matrix is pieces of 16-byte vectors, [quad of groups, part of the inputs, tile of 16 rows, vector, lane]: a
    lane has four inputs of each group of an upper row and of a lower. The two vectors are a row's each, or of 16-bit
    numbers a group's each, in the order in which they are multiplied. Rows of gates are a channel's two, in turn.
    """

    tape: np.ndarray  # [block, `Plan.tape`, 16 bytes]: past taps, the newer first; then layers, their gates first
    out: np.ndarray  # [block, says, skip] float32
    scores: np.ndarray  # [block, scores, skip] float32
    own: np.ndarray  # [block, `Plan.own`] float32
    told: np.ndarray  # [block, `Plan.told`] float32


def pack(decoder: Decoder, plan: Plan) -> Packed:
    """A decoder's weights, folded, dealt out and in the plan's precision."""
    folded = fold(decoder)
    gates, spread, past = _gates(folded, plan), _spread(folded, plan), dealing.past(folded, plan)
    now = np.abs(np.concatenate([gates, spread], axis=2)).max(axis=-1)
    earlier = np.abs(past).max(axis=(2, 4), initial=0)  # one scale for all taps of a row: they are added up together
    scales = (dealing.scale(now), dealing.scale(earlier)) if plan.precision == "int8" else None
    opened = 2 * plan.channels
    by_tap = np.broadcast_to(earlier[:, :, None], past.shape[:-1])
    tape = [_tiles(dealing.store(past, by_tap, plan.precision), plan)]
    for layer in range(plan.layers):
        if layer:
            tape.append(_tiles(dealing.store(gates[:, layer], now[:, layer, :opened], plan.precision), plan))
        tape.append(_tiles(dealing.store(spread[:, layer], now[:, layer, opened:], plan.precision), plan))
    return Packed(
        tape=np.concatenate([part.reshape(plan.size, -1, 16) for part in tape], axis=1),
        out=dealing.rows(folded.out, plan.says, plan.skip, plan),
        scores=dealing.rows(folded.logits, plan.scores, plan.skip, plan),
        own=dealing.own(folded, scales, plan),
        told=dealing.told(folded, folded.condition_bias, plan),
    )


def _gates(folded: Folded, plan: Plan) -> np.ndarray:
    """What a layer's inputs are multiplied by, [block, layer, gates, width]; the first layer's are folded."""
    rows = [dealing.gate_rows(current, plan) for current in folded.current]
    return np.stack([dealing.no_rows(2 * plan.channels, plan), *rows], axis=1)


def _spread(folded: Folded, plan: Plan) -> np.ndarray:
    """What a layer's outputs are multiplied by, [block, layer, residual and skip, width]."""
    residual = [dealing.rows(each, plan.channels, plan.width, plan) for each in folded.residual]
    skip = [dealing.rows(each, plan.says, plan.width, plan) for each in folded.skip]
    both = zip([*residual, dealing.no_rows(plan.channels, plan)], skip, strict=True)
    return np.stack([np.concatenate(pair, axis=1) for pair in both], axis=1)


def _tiles(matrix: np.ndarray, plan: Plan) -> np.ndarray:
    """[..., rows, width] as lanes read it: [..., quad, part, tile, vector, lane, bytes]."""
    *outer, rows, width = matrix.shape
    tiles, groups = -(-rows // 16), -(-width // (GROUP * plan.kparts))
    nothing = [(0, 0)] * len(outer)
    wide = np.pad(matrix, [*nothing, (0, 16 * tiles - rows), (0, groups * GROUP * plan.kparts - width)])
    dealt = wide.reshape(*outer, tiles, 2, 8, plan.kparts, groups, 4, 4)
    dealt = np.pad(dealt, [*nothing, *[(0, 0)] * 4, (0, plan.quads * plan.quad - groups), (0, 0), (0, 0)])
    dealt = dealt.reshape(*outer, tiles, 2, 8, plan.kparts, plan.quads, plan.quad, 4, 2, 2)
    tile, half, row, part, quad, group, lane, word, number = range(len(outer), dealt.ndim)
    inside = (group, row, lane, word, half, number) if plan.quad == 2 else (half, row, lane, group, word, number)
    dealt = np.ascontiguousarray(dealt.transpose(*range(len(outer)), quad, part, tile, *inside))
    return dealt.reshape(*outer, plan.quads, plan.kparts, tiles, 2, 32, 4 * plan.quad).view(np.uint8)

"""A decoder's weights as the flat arrays the compiled engines read: the folds, then the layout."""

from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from wavenet_ae.models.wavenet import Decoder
from wavenet_ae.mulaw import CODES

PANEL = 32  # rows of a matrix that are stored together, input by input: [inputs, PANEL]
HALF = PANEL // 2  # a panel of gates holds the sigmoid rows of HALF channels, then their tanh rows
BF16_PAIR = np.arange(PANEL).reshape(-1, 2, 16).transpose(0, 2, 1).ravel()  # rows r, r + 16 share a 32-bit word


class Folded(NamedTuple):
    """The decoder as an engine computes it, sizes and order of rows as in the model, biases merged.

    The start convolution reads one number per sample, so all that is linear in it is a few columns: the
    first layer's convolution, the start's skip, the residual's beginning. Lag 0 is the newest sample heard.
    """

    start: np.ndarray  # [taps, width], by lag
    first: np.ndarray  # [2 * taps - 1, 2 * width], by lag: layer 0's convolution of the start convolution
    first_bias: np.ndarray  # [taps, 2 * width], by past samples heard (or taps - 1): padding is zero, not the bias
    said: np.ndarray  # [taps, skip], by lag: what the start says to the output
    said_bias: np.ndarray  # [skip]: the start's and every layer's
    condition: np.ndarray  # [layers, dims, 2 * width]
    condition_bias: np.ndarray  # [layers, 2 * width]: the dilated convolution's too
    past: list[np.ndarray]  # from layer 1 on: [2 * width, (taps - 1) * width], the oldest tap first
    current: list[np.ndarray]  # from layer 1 on: [2 * width, width]
    residual: list[np.ndarray]  # the last layer's is never heard: [width, width]
    residual_bias: np.ndarray  # [layers - 1, width]: the first holds the start's too
    skip: list[np.ndarray]  # [skip, width]
    out: np.ndarray  # [skip, skip]
    out_condition: np.ndarray  # [dims, skip]
    out_bias: np.ndarray  # [skip]: out's and its condition's
    logits: np.ndarray  # [codes, skip]
    logits_bias: np.ndarray  # [codes]
    dilation: np.ndarray  # [layers]


def fold(decoder: Decoder) -> Folded:
    """Exact up to rounding: sums and small products in float64, large matrices as they are."""
    start, first = _taps(decoder.start)[:, :, 0], _taps(decoder.blocks[0].dilated)  # [taps, width], [taps, 2w, w]
    start_skip = _taps(decoder.start_skip)[0]
    taps, width = start.shape
    assert decoder.blocks[0].dilated.dilation[0] == 1, "the first layer's fold takes the start's samples side by side"
    lagged = np.zeros((2 * taps - 1, 2 * width))
    for older in range(taps):
        for lag in range(taps):
            lagged[older + lag] += first[older] @ start[lag]
    heard = [first[older] @ _bias(decoder.start) for older in range(taps)]
    dilated = [block.dilated for block in decoder.blocks]
    residual_bias = np.stack([_bias(block.residual) for block in decoder.blocks])[:-1]
    residual_bias[:1] += _bias(decoder.start)
    return Folded(
        start=start,
        first=lagged,
        first_bias=np.cumsum(heard, axis=0),
        said=start @ start_skip.T,
        said_bias=_bias(decoder.start_skip)
        + start_skip @ _bias(decoder.start)
        + sum(_bias(block.skip) for block in decoder.blocks),
        condition=np.stack([_taps(block.condition)[0].T for block in decoder.blocks]),
        condition_bias=np.stack([_bias(block.condition) + _bias(block.dilated) for block in decoder.blocks]),
        past=[_matrix(conv.weight[:, :, :-1].permute(0, 2, 1).flatten(1)) for conv in dilated[1:]],
        current=[_matrix(conv.weight[:, :, -1]) for conv in dilated[1:]],
        residual=[_matrix(block.residual.weight[:, :, 0]) for block in list(decoder.blocks)[:-1]],
        residual_bias=residual_bias,
        skip=[_matrix(block.skip.weight[:, :, 0]) for block in decoder.blocks],
        out=_taps(decoder.out)[0],
        out_condition=_taps(decoder.out_condition)[0].T,
        out_bias=_bias(decoder.out) + _bias(decoder.out_condition),
        logits=_taps(decoder.logits)[0],
        logits_bias=_bias(decoder.logits),
        dilation=np.array([conv.dilation[0] for conv in dilated]),
    )


class Packed(NamedTuple):
    """`Folded` in panels, in one number format; channels padded with zeros to whole panels.

    Matrices are flat: [layer, panel, input, PANEL], each with a scale per row, [layer, row], that its
    products are multiplied by. Rows of gates are in the order of `gate_rows`.
    """

    start: np.ndarray
    first: np.ndarray
    first_bias: np.ndarray
    said: np.ndarray
    said_bias: np.ndarray
    condition: np.ndarray
    condition_bias: np.ndarray
    past: np.ndarray
    past_scale: np.ndarray
    current: np.ndarray
    current_scale: np.ndarray
    residual: np.ndarray
    residual_scale: np.ndarray
    residual_bias: np.ndarray
    skip: np.ndarray
    skip_scale: np.ndarray
    out: np.ndarray  # out and logits are small: always real numbers
    out_condition: np.ndarray
    out_bias: np.ndarray
    logits: np.ndarray
    logits_bias: np.ndarray
    dilation: np.ndarray


def pack(folded: Folded, real: np.dtype, precision: str) -> Packed:
    """Lay the weights out for `precision`; all else in `real`, float32 or float64."""
    taps, width = folded.start.shape
    skip = len(folded.out)
    order, wide, deep = gate_rows(width), padded(width), padded(skip)

    def channels(array: np.ndarray, size: int) -> np.ndarray:
        """Pad the last axis with zeros."""
        return aligned(np.pad(array, [(0, 0)] * (array.ndim - 1) + [(0, size - array.shape[-1])]), real)

    def gates(array: np.ndarray) -> np.ndarray:
        """Pad the last axis with one zero and take the panels' rows from it."""
        return aligned(np.pad(array, [(0, 0)] * (array.ndim - 1) + [(0, 1)])[..., order], real)

    def past_inputs(matrix: np.ndarray) -> np.ndarray:
        by_tap = np.pad(matrix.reshape(len(matrix), taps - 1, width), [(0, 0), (0, 0), (0, wide - width)])
        return by_tap.reshape(len(matrix), -1)

    def square(matrices: list[np.ndarray], rows: np.ndarray, inputs: int) -> tuple[np.ndarray, np.ndarray]:
        return _store(matrices, rows, inputs, real, precision)

    channel_rows, skip_rows = _natural_rows(width), _natural_rows(skip)
    past, past_scale = square([past_inputs(m) for m in folded.past], order, (taps - 1) * wide)
    current, current_scale = square(folded.current, order, wide)
    residual, residual_scale = square(folded.residual, channel_rows, wide)
    skips, skip_scale = square(folded.skip, skip_rows, wide)
    return Packed(
        start=channels(folded.start, wide),
        first=gates(folded.first),
        first_bias=gates(folded.first_bias),
        said=channels(folded.said, deep),
        said_bias=channels(folded.said_bias, deep),
        condition=gates(folded.condition),
        condition_bias=gates(folded.condition_bias),
        past=past,
        past_scale=past_scale,
        current=current,
        current_scale=current_scale,
        residual=residual,
        residual_scale=residual_scale,
        residual_bias=channels(folded.residual_bias, wide),
        skip=skips,
        skip_scale=skip_scale,
        out=_store([folded.out], skip_rows, deep, real, "fp32")[0],
        out_condition=channels(folded.out_condition, deep),
        out_bias=channels(folded.out_bias, deep),
        logits=_store([folded.logits], np.arange(CODES), deep, real, "fp32")[0],
        logits_bias=channels(folded.logits_bias, CODES)[None],
        dilation=folded.dilation,
    )


def padded(size: int) -> int:
    """A number of channels, rounded up to whole panels."""
    return -(-size // PANEL) * PANEL


def gate_rows(width: int) -> np.ndarray:
    """Which of 2 * width rows of gates stands where in the panels; -1 where there is none."""
    sigmoid = np.append(np.arange(width), np.full(padded(width) - width, -1)).reshape(-1, 1, HALF)
    tanh = np.where(sigmoid < 0, -1, sigmoid + width)
    return np.concatenate([sigmoid, tanh], axis=1).ravel()


def to_bf16(matrix: np.ndarray) -> np.ndarray:
    """The upper halves of float32 numbers, rounded to nearest, ties to even."""
    bits = matrix.astype(np.float32).view(np.uint32).astype(np.uint64)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)


def to_int8(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Whole numbers from -127 to 127, and what each row must be multiplied by."""
    scale = np.abs(matrix).max(axis=1, initial=0) / 127
    scale[scale == 0] = 1
    return np.rint(matrix / scale[:, None]).astype(np.int8), scale


def aligned(array: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """A copy that begins at a cache line, so that no vector straddles two."""
    dtype = np.dtype(dtype)
    raw = np.empty(array.size * dtype.itemsize + 64, np.uint8)
    start = -raw.ctypes.data % 64
    copy = raw[start : start + array.size * dtype.itemsize].view(dtype).reshape(array.shape)
    copy[...] = array
    return copy


def _store(
    matrices: list[np.ndarray], rows: np.ndarray, inputs: int, real: np.dtype, precision: str
) -> tuple[np.ndarray, np.ndarray]:
    """Matrices in panels, and their rows' scales; row r of the panels is row rows[r] of the matrix."""
    stored = {"fp32": np.dtype(real), "bf16": np.dtype(np.uint16), "int8": np.dtype(np.int8)}[precision]
    panels = aligned(np.zeros((len(matrices), len(rows) // PANEL, inputs, PANEL), stored), stored)
    scales = aligned(np.ones((len(matrices), len(rows))), real)
    for matrix, panel, scale in zip(matrices, panels, scales, strict=True):
        ordered = np.zeros((len(rows), inputs), matrix.dtype)
        ordered[rows >= 0, : matrix.shape[1]] = matrix[rows[rows >= 0]]
        if precision == "int8":
            ordered, scale[:] = to_int8(ordered)
        elif precision == "bf16":
            ordered = to_bf16(ordered)
        by_input = ordered.reshape(len(rows) // PANEL, PANEL, inputs).transpose(0, 2, 1)
        panel[:] = by_input[:, :, BF16_PAIR] if precision == "bf16" else by_input
    return panels.ravel(), scales


def _natural_rows(size: int) -> np.ndarray:
    return np.append(np.arange(size), np.full(padded(size) - size, -1))


def _matrix(weight: torch.Tensor) -> np.ndarray:
    """A matrix in the decoder's format, or float32 where numpy has no such format."""
    weight = weight.detach().cpu()
    return (weight if weight.dtype == torch.float64 else weight.float()).numpy()


def _taps(conv: nn.Conv1d) -> np.ndarray:
    """A convolution's weight as [taps, outputs, inputs] in float64, the newest tap first."""
    return conv.weight.detach().cpu().double().permute(2, 0, 1).flip(0).numpy()


def _bias(conv: nn.Conv1d) -> np.ndarray:
    assert conv.bias is not None
    return conv.bias.detach().cpu().double().numpy().copy()

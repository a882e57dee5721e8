"""The batched engine's steps as Triton kernels: each product with what follows it, at the price of one launch.

Tiles are constants, so every sum runs in the same order for any number of voices. The steps are those of
`plain`, with the same names and arguments.
"""

# ruff: noqa: PLR0913, PLR0917 -- a kernel has addresses, strides and sizes
from typing import Any, no_type_check

import torch
import triton
import triton.language as tl
from torch import Tensor

from wavenet_ae.sampler.batched import plain

# Not yet tuned on a GPU. Rows are voices; 64 of them are one warp group's; INNER is inputs a turn of the loop.
GATE: dict[str, Any] = {"ROWS": 64, "COLUMNS": 16, "INNER": 64, "num_warps": 4, "num_stages": 4}
STEP: dict[str, Any] = {"ROWS": 64, "COLUMNS": 32, "INNER": 64, "num_warps": 4, "num_stages": 4}
CHUNK: dict[str, Any] = {"ROWS": 128, "COLUMNS": 128, "INNER": 64, "num_warps": 8, "num_stages": 3}
CHUNK_FP32: dict[str, Any] = {"ROWS": 64, "COLUMNS": 64, "INNER": 32, "num_warps": 8, "num_stages": 3}


@triton.jit
@no_type_check
def _sum(
    total, x, x_stride, weight, weight_stride, row, rows, column, columns, inputs: tl.constexpr, INNER: tl.constexpr,
    RELU: tl.constexpr = False,
):  # fmt: skip
    """Total plus a tile of x @ weight, `row` and `column` being the tile's."""
    at = tl.arange(0, INNER)
    for start in range(0, inputs, INNER):
        inside = start + at < inputs
        left = tl.load(
            x + row[:, None] * x_stride + (start + at)[None, :],
            mask=(row < rows)[:, None] & inside[None, :],
            other=0.0,
        )
        right = tl.load(
            weight + (start + at)[:, None] * weight_stride + column[None, :],
            mask=inside[:, None] & (column < columns)[None, :],
            other=0.0,
        )
        if RELU:
            left = tl.maximum(left, 0.0)
        total = tl.dot(left, right, total, input_precision="ieee")
    return total


@triton.jit
@no_type_check
def _pair(
    opened, value, x, weight, row, rows, column, width: tl.constexpr, INNER: tl.constexpr,
):  # fmt: skip
    """`_sum` of both halves of the gates, the inputs being read once."""
    at = tl.arange(0, INNER)
    for start in range(0, width, INNER):
        inside = start + at < width
        left = tl.load(
            x + row[:, None] * width + (start + at)[None, :], mask=(row < rows)[:, None] & inside[None, :], other=0.0
        )
        there = inside[:, None] & (column < width)[None, :]
        right = weight + (start + at)[:, None] * 2 * width + column[None, :]
        opened = tl.dot(left, tl.load(right, mask=there, other=0.0), opened, input_precision="ieee")
        value = tl.dot(left, tl.load(right + width, mask=there, other=0.0), value, input_precision="ieee")
    return opened, value


@triton.jit
@no_type_check
def _gated(opened, value):
    """Sigmoid times tanh, the tanh by way of a sigmoid."""
    return tl.sigmoid(opened) * (2 * tl.sigmoid(2 * value) - 1)


@triton.jit
@no_type_check
def _opening(
    heard, weight, bias, told, gated, spread, batch, width: tl.constexpr, skip: tl.constexpr, lags: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Few inputs: multiplied one by one, without the tensor cores."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    there, opened_columns = (row < batch)[:, None], 3 * width + skip
    is_gate, is_spread = there & (column < width)[None, :], there & (column < width + skip)[None, :]
    gate_at = told + row[:, None] * 2 * width + column[None, :]
    opened = tl.load(gate_at, mask=is_gate, other=0.0)
    value = tl.load(gate_at + width, mask=is_gate, other=0.0)
    begun = tl.zeros((ROWS, COLUMNS), tl.float32) + tl.load(bias + column, mask=column < width + skip, other=0.0)
    for lag in tl.static_range(lags):
        x = tl.load(heard + lag * batch + row, mask=row < batch, other=0.0)[:, None]
        line = weight + lag * opened_columns + column
        opened += x * tl.load(line, mask=column < width, other=0.0)[None, :]
        value += x * tl.load(line + width, mask=column < width, other=0.0)[None, :]
        begun += x * tl.load(line + 2 * width, mask=column < width + skip, other=0.0)[None, :]
    z = _gated(opened, value).to(gated.dtype.element_ty)
    tl.store(gated + row[:, None] * width + column[None, :], z, mask=is_gate)
    tl.store(spread + row[:, None] * (width + skip) + column[None, :], begun, mask=is_spread)


@triton.jit
@no_type_check
def _recall(
    ring, slots, weight, told, ahead, batch, width: tl.constexpr, past: tl.constexpr, steps: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, INNER: tl.constexpr,
):  # fmt: skip
    """A tile of one layer and step of a chunk. Neighbours share rows, then a layer's weights."""
    gates = 2 * width
    across, tall = tl.cdiv(gates, COLUMNS), tl.cdiv(batch, ROWS)
    tile = tl.program_id(0)
    column = tile % across * COLUMNS + tl.arange(0, COLUMNS)
    row = tile // across % tall * ROWS + tl.arange(0, ROWS)
    place = (tile // (across * tall)).to(tl.int64)
    layer = place // steps
    there = (row < batch)[:, None] & (column < gates)[None, :]
    total = tl.load(told + (layer * batch + row[:, None]) * gates + column[None, :], mask=there, other=0.0)
    for tap in range(past):
        x = ring + tl.load(slots + place * past + tap) * batch * width
        matrix = weight + (layer * past + tap) * width * gates
        total = _sum(total, x, width, matrix, gates, row, batch, column, gates, width, INNER)
    tl.store(ahead + (place * batch + row[:, None]) * gates + column[None, :], total, mask=there)


@triton.jit
@no_type_check
def _gate(
    x, reach, weight, earlier, told, gated, batch, width: tl.constexpr, past: tl.constexpr, ROWS: tl.constexpr,
    COLUMNS: tl.constexpr, INNER: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    gates = 2 * width
    there = (row < batch)[:, None] & (column < width)[None, :]
    at = row[:, None] * gates + column[None, :]
    opened = tl.load(told + at, mask=there, other=0.0)
    value = tl.load(told + at + width, mask=there, other=0.0)
    opened, value = _pair(opened, value, x, weight, row, batch, column, width, INNER)
    for tap in tl.static_range(past):
        then, matrix = x - (tap + 1) * reach, earlier + tap * width * gates
        opened, value = _pair(opened, value, then, matrix, row, batch, column, width, INNER)
    z = _gated(opened, value).to(gated.dtype.element_ty)
    tl.store(gated + row[:, None] * width + column[None, :], z, mask=there)


@triton.jit
@no_type_check
def _spread(
    z, weight, bias, total, following, batch, width: tl.constexpr, columns: tl.constexpr, ROWS: tl.constexpr,
    COLUMNS: tl.constexpr, INNER: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    there = (row < batch)[:, None] & (column < columns)[None, :]
    at = total + row[:, None] * columns + column[None, :]
    sums = tl.load(at, mask=there, other=0.0) + tl.load(bias + column, mask=column < columns, other=0.0)[None, :]
    sums = _sum(sums, z, width, weight, columns, row, batch, column, columns, width, INNER)
    tl.store(at, sums, mask=there)
    if following is not None:
        residual = there & (column < width)[None, :]
        x = sums.to(following.dtype.element_ty)
        tl.store(following + row[:, None] * width + column[None, :], x, mask=residual)


@triton.jit
@no_type_check
def _dense(
    x, x_stride, weight, bias, bias_stride, out, batch, inputs: tl.constexpr, columns: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, INNER: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    there = (row < batch)[:, None] & (column < columns)[None, :]
    sums = tl.load(bias + row[:, None] * bias_stride + column[None, :], mask=there, other=0.0)
    sums = _sum(sums, x, x_stride, weight, columns, row, batch, column, columns, inputs, INNER, True)
    tl.store(out + row[:, None] * columns + column[None, :], sums, mask=there)


@triton.jit
@no_type_check
def _draw(logits, uniform, temperature, code, level, GREEDY: tl.constexpr, CODES: tl.constexpr):
    """One voice: `dice.draw` with every code kept."""
    voice, at = tl.program_id(0), tl.arange(0, CODES)
    scores = tl.load(logits + voice * CODES + at)
    if GREEDY:
        chosen = tl.argmax(scores, axis=0)
    else:
        odds = scores.to(tl.float64) / tl.load(temperature)
        odds = tl.exp(odds - tl.max(odds, axis=0))
        cdf = tl.cumsum(odds, axis=0)
        threshold = tl.load(uniform + voice) * tl.max(cdf, axis=0)
        chosen = tl.sum((cdf <= threshold).to(tl.int32), axis=0)
        chosen = tl.minimum(chosen, tl.max(tl.where(odds > 0, at, 0), axis=0))
    tl.store(code + voice, chosen.to(tl.int64))
    tl.store(level + voice, (chosen.to(tl.float32) - CODES // 2) / (CODES // 2))


def opening(heard: Tensor, weight: Tensor, bias: Tensor, told: Tensor, gated: Tensor, spread: Tensor) -> None:
    """See `plain.opening`."""
    batch, width = gated.shape
    lags = 2 * len(heard)
    grid = _grid(batch, len(bias), STEP)
    sizes = {"lags": lags, "ROWS": STEP["ROWS"], "COLUMNS": STEP["COLUMNS"], "num_warps": 4}
    _opening[grid](heard, weight, bias, told, gated, spread, batch, width, len(bias) - width, **sizes)


def recall(ring: Tensor, slots: Tensor, weight: Tensor, told: Tensor, ahead: Tensor) -> None:
    """See `plain.recall`."""
    far, steps, batch, gates = ahead.shape
    tile = CHUNK_FP32 if ring.dtype == torch.float32 else CHUNK
    rows, columns = _grid(batch, gates, tile)
    sizes = {"past": slots.shape[-1], "steps": steps, **tile}
    _recall[(far * steps * rows * columns,)](ring, slots, weight, told, ahead, batch, gates // 2, **sizes)


def gate(inputs: Tensor, now: int, dilation: int, weight: Tensor, past: Tensor, told: Tensor, gated: Tensor) -> None:
    """See `plain.gate`."""
    batch, width = gated.shape
    reach = dilation * batch * width
    grid = _grid(batch, width, GATE)
    _gate[grid](inputs[now], reach, weight, past, told, gated, batch, width, past=len(past), **GATE)


def spread(gated: Tensor, weight: Tensor, bias: Tensor, total: Tensor, following: Tensor | None) -> None:
    """See `plain.spread`."""
    (batch, width), columns = gated.shape, len(bias)
    _spread[_grid(batch, columns, STEP)](gated, weight, bias, total, following, batch, width, columns, **STEP)


def dense(x: Tensor, weight: Tensor, bias: Tensor, out: Tensor) -> None:
    """See `plain.dense`."""
    batch, columns = out.shape
    strides = x.stride(0), bias.stride(0) if len(bias) > 1 else 0
    grid = _grid(batch, columns, STEP)
    _dense[grid](x, strides[0], weight, bias, strides[1], out, batch, x.shape[1], columns, **STEP)


def draw(logits: Tensor, uniform: Tensor, temperature: float, top_p: float, code: Tensor, level: Tensor) -> None:
    """See `plain.draw`, which also does what needs sorted codes."""
    if top_p < 1:
        plain.draw(logits, uniform, temperature, top_p, code, level)
        return
    exact = torch.full((), temperature, dtype=torch.float64, device=logits.device)  # an argument would be rounded
    sizes = {"GREEDY": temperature == 0, "CODES": logits.shape[1]}
    _draw[(len(logits),)](logits, uniform, exact, code, level, **sizes)


def _grid(rows: int, columns: int, tile: dict[str, Any]) -> tuple[int, int]:
    return triton.cdiv(rows, tile["ROWS"]), triton.cdiv(columns, tile["COLUMNS"])

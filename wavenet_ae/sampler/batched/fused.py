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

# Not yet tuned on a GPU. Rows are voices; 64 of them are one warp group's; INNER is inputs a turn of the loop;
# COLUMNS are channels, of which a layer has GATED at a time in the gates and SPREAD in what it adds.
LAYER: dict[str, Any] = {"ROWS": 64, "GATED": 16, "SPREAD": 32, "INNER": 64, "num_warps": 4, "num_stages": 4}
STEP: dict[str, Any] = {"ROWS": 64, "COLUMNS": 32, "INNER": 64, "num_warps": 4, "num_stages": 4}
CHUNK: dict[str, Any] = {"ROWS": 128, "COLUMNS": 128, "INNER": 64, "num_warps": 8, "num_stages": 3}
CHUNK_FP32: dict[str, Any] = {"ROWS": 64, "COLUMNS": 64, "INNER": 32, "num_warps": 8, "num_stages": 3}


@triton.jit
@no_type_check
def _after_the_one_before(EARLY: tl.constexpr):
    """Wait for the results of the kernel before, and let the next be brought to its own wait meanwhile.

    A kernel launched early (CUDA's programmatic dependent launch) is on its processors when the one before ends.
    Every kernel of a step waits first, so what is done is done in order.
    """
    if EARLY:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()


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
    heard, weight, bias, told, gated, total, begun, batch, width: tl.constexpr, skip: tl.constexpr,
    lags: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """Few inputs: multiplied one by one, without the tensor cores."""
    _after_the_one_before(EARLY)
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    there, opened_columns = (row < batch)[:, None], 3 * width + skip
    is_gate, is_spread = there & (column < width)[None, :], there & (column < width + skip)[None, :]
    gate_at = told + row[:, None] * 2 * width + column[None, :]
    opened = tl.load(gate_at, mask=is_gate, other=0.0)
    value = tl.load(gate_at + width, mask=is_gate, other=0.0)
    spread = tl.zeros((ROWS, COLUMNS), tl.float32) + tl.load(bias + column, mask=column < width + skip, other=0.0)
    for lag in tl.static_range(lags):
        x = tl.load(heard + lag * batch + row, mask=row < batch, other=0.0)[:, None]
        line = weight + lag * opened_columns + column
        opened += x * tl.load(line, mask=column < width, other=0.0)[None, :]
        value += x * tl.load(line + width, mask=column < width, other=0.0)[None, :]
        spread += x * tl.load(line + 2 * width, mask=column < width + skip, other=0.0)[None, :]
    z = _gated(opened, value).to(gated.dtype.element_ty)
    tl.store(gated + row[:, None] * width + column[None, :], z, mask=is_gate)
    tl.store(total + row[:, None] * (width + skip) + column[None, :], spread, mask=is_spread)
    tl.store(begun + row[:, None] * width + column[None, :], spread.to(begun.dtype.element_ty), mask=is_gate)


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
def _layer(
    x, gated, spread, bias, total, own, reach, weight, earlier, told, following, batch,
    width: tl.constexpr, columns: tl.constexpr, past: tl.constexpr,
    ROWS: tl.constexpr, GATED: tl.constexpr, SPREAD: tl.constexpr, INNER: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """Tiles of the gates first, which take longest, then those of what the layer before adds."""
    _after_the_one_before(EARLY)
    tall, tile = tl.cdiv(batch, ROWS), tl.program_id(0)
    row = tile % tall * ROWS + tl.arange(0, ROWS)
    place, across = tile // tall, tl.cdiv(width, GATED)
    if place < across:
        column = place * GATED + tl.arange(0, GATED)
        there = (row < batch)[:, None] & (column < width)[None, :]
        at = row[:, None] * 2 * width + column[None, :]
        opened = tl.load(told + at, mask=there, other=0.0)
        value = tl.load(told + at + width, mask=there, other=0.0)
        opened, value = _pair(opened, value, x, weight, row, batch, column, width, INNER)
        opened, value = _pair(opened, value, gated, weight + 2 * width * width, row, batch, column, width, INNER)
        for tap in tl.static_range(past):
            then, matrix = own - (tap + 1) * reach, earlier + tap * width * 2 * width
            opened, value = _pair(opened, value, then, matrix, row, batch, column, width, INNER)
        z = _gated(opened, value).to(following.dtype.element_ty)
        tl.store(following + row[:, None] * width + column[None, :], z, mask=there)
    else:
        added = (place - across) * SPREAD + tl.arange(0, SPREAD)
        residual = (row < batch)[:, None] & (added < width)[None, :]
        sums = _added(gated, spread, bias, total, row, batch, added, width, columns, INNER)
        tl.store(own + row[:, None] * width + added[None, :], sums.to(own.dtype.element_ty), mask=residual)


@triton.jit
@no_type_check
def _added(
    gated, weight, bias, total, row, batch, column, width: tl.constexpr, columns: tl.constexpr, INNER: tl.constexpr,
):  # fmt: skip
    """A tile of the totals with a layer's residual and skip added, there and as a value."""
    there = (row < batch)[:, None] & (column < columns)[None, :]
    at = total + row[:, None] * columns + column[None, :]
    sums = tl.load(at, mask=there, other=0.0) + tl.load(bias + column, mask=column < columns, other=0.0)[None, :]
    sums = _sum(sums, gated, width, weight, columns, row, batch, column, columns, width, INNER)
    tl.store(at, sums, mask=there)
    return sums


@triton.jit
@no_type_check
def _last(
    gated, weight, bias, total, batch, width: tl.constexpr, columns: tl.constexpr, ROWS: tl.constexpr,
    COLUMNS: tl.constexpr, INNER: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """The residual of the last layer is nobody's input."""
    _after_the_one_before(EARLY)
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = width + tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    _added(gated, weight, bias, total, row, batch, column, width, columns, INNER)


@triton.jit
@no_type_check
def _dense(
    x, x_stride, weight, bias, bias_stride, out, batch, inputs: tl.constexpr, columns: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, INNER: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    _after_the_one_before(EARLY)
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    there = (row < batch)[:, None] & (column < columns)[None, :]
    sums = tl.load(bias + row[:, None] * bias_stride + column[None, :], mask=there, other=0.0)
    sums = _sum(sums, x, x_stride, weight, columns, row, batch, column, columns, inputs, INNER, True)
    tl.store(out + row[:, None] * columns + column[None, :], sums, mask=there)


@triton.jit
@no_type_check
def _draw(
    logits, uniform, temperature, code, level, GREEDY: tl.constexpr, CODES: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """One voice: `dice.draw` with every code kept."""
    _after_the_one_before(EARLY)
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


def opening(
    heard: Tensor, weight: Tensor, bias: Tensor, told: Tensor, gated: Tensor, total: Tensor, begun: Tensor
) -> None:
    """See `plain.opening`."""
    batch, width = gated.shape
    sizes = {"lags": 2 * len(heard), "ROWS": STEP["ROWS"], "COLUMNS": STEP["COLUMNS"], "num_warps": 4}
    grid = _grid(batch, len(bias), STEP)
    _opening[grid](
        heard, weight, bias, told, gated, total, begun, batch, width, len(bias) - width, **sizes, **_early(heard)
    )


def recall(ring: Tensor, slots: Tensor, weight: Tensor, told: Tensor, ahead: Tensor) -> None:
    """See `plain.recall`."""
    far, steps, batch, gates = ahead.shape
    tile = CHUNK_FP32 if ring.dtype == torch.float32 else CHUNK
    rows, columns = _grid(batch, gates, tile)
    sizes = {"past": slots.shape[-1], "steps": steps, **tile}
    _recall[(far * steps * rows * columns,)](ring, slots, weight, told, ahead, batch, gates // 2, **sizes)


def layer(
    x: Tensor, gated: Tensor, spread: tuple[Tensor, Tensor], total: Tensor, inputs: Tensor, now: int, dilation: int,
    weight: Tensor, past: Tensor, told: Tensor, following: Tensor,
) -> None:  # fmt: skip
    """See `plain.layer`."""
    (batch, width), columns = gated.shape, total.shape[1]
    tiles = triton.cdiv(width, LAYER["GATED"]) + triton.cdiv(columns, LAYER["SPREAD"])
    _layer[(triton.cdiv(batch, LAYER["ROWS"]) * tiles,)](
        x, gated, *spread, total, inputs[now], dilation * batch * width, weight, past, told, following, batch,
        width, columns, past=len(past), **LAYER, **_early(x),
    )  # fmt: skip


def last(gated: Tensor, weight: Tensor, bias: Tensor, total: Tensor) -> None:
    """See `plain.last`."""
    (batch, width), columns = gated.shape, total.shape[1]
    grid = _grid(batch, columns - width, STEP)
    _last[grid](gated, weight, bias, total, batch, width, columns, **STEP, **_early(gated))


def dense(x: Tensor, weight: Tensor, bias: Tensor, out: Tensor) -> None:
    """See `plain.dense`."""
    batch, columns = out.shape
    strides = x.stride(0), bias.stride(0) if len(bias) > 1 else 0
    grid = _grid(batch, columns, STEP)
    _dense[grid](x, strides[0], weight, bias, strides[1], out, batch, x.shape[1], columns, **STEP, **_early(x))


def draw(logits: Tensor, uniform: Tensor, temperature: float, top_p: float, code: Tensor, level: Tensor) -> None:
    """See `plain.draw`, which also does what needs sorted codes."""
    if top_p < 1:
        plain.draw(logits, uniform, temperature, top_p, code, level)
        return
    exact = torch.full((), temperature, dtype=torch.float64, device=logits.device)  # an argument would be rounded
    sizes = {"GREEDY": temperature == 0, "CODES": logits.shape[1], **_early(logits)}
    _draw[(len(logits),)](logits, uniform, exact, code, level, **sizes)


def _grid(rows: int, columns: int, tile: dict[str, Any]) -> tuple[int, int]:
    return triton.cdiv(rows, tile["ROWS"]), triton.cdiv(columns, tile["COLUMNS"])


def _early(like: Tensor) -> dict[str, bool]:
    """Whether a kernel is launched before the one before it ends, as Hopper and later allow."""
    early = like.is_cuda and torch.cuda.get_device_capability(like.device) >= (9, 0)
    return {"EARLY": early, "launch_pdl": early}

"""All blocks of an encoder, forwards and backwards."""

# ruff: noqa: PLR0913, PLR0917 -- a kernel has addresses, strides and sizes
from typing import Any, no_type_check

import numba
import numpy as np

from wavenet_ae.sampler.cpu.caching import checksum, keep
from wavenet_ae.sampler.cpu.meeting import meet
from wavenet_ae.training.stretches.stretch import (
    LENGTH,
    SOURCES,
    add,
    add_rows,
    convolve,
    convolve_back,
    copy,
    jit,
    outer,
    placed,
    shared,
    through,
    weigh,
)


@jit
@no_type_check
def _rectify(x, to):
    """ReLU."""
    zero = np.float32(0)
    for n in range(x.size):
        to[n] = max(x[n], zero)


@jit
@no_type_check
def _add_where(total, x, heard):
    """Add where the ReLU was open."""
    for n in range(total.size):
        total[n] += x[n] if heard[n] > 0 else np.float32(0)


@jit
@no_type_check
def _forth(w, block, bias, x, heard, opened, sizes, part):
    """A block: its inputs after their ReLU are there; its sums after theirs, and x and its ReLU after it."""
    width, time = sizes.width, sizes.time
    layer = sizes.crops * time * width
    before = heard[block * layer : (block + 1) * layer]
    first, beyond, each = shared(sizes, part)
    for n in range(first, beyond):
        crop, start, rows = placed(n, each, time)
        here = (crop * time + start) * width
        at = block * layer + here
        sums = opened[at : at + rows * width]
        for r in range(rows):
            copy(sums[r * width : (r + 1) * width], bias[block])
        convolve(w, block, before, crop, start, start + rows, sizes, sums)
        _rectify(sums, sums)
        for r in range(rows):
            add(x[here + r * width : here + (r + 1) * width], w.residual_bias[block])
        through(opened, at, rows, width, w.residual_forth, block, x, here, width)
        if block + 1 < sizes.blocks:
            then = at + layer
            _rectify(x[here : here + rows * width], heard[then : then + rows * width])


@jit
@no_type_check
def _back(w, block, heard, opened, grad, sums_grad, total, sizes, part):
    """From the gradient of a block's output to those of its sums and weights."""
    width, time = sizes.width, sizes.time
    layer, mine = sizes.crops * time * width, part * sizes.blocks + block
    before = heard[block * layer : (block + 1) * layer]
    told = np.empty(LENGTH * width, np.float32)
    first, beyond, each = shared(sizes, part)
    for n in range(first, beyond):
        crop, start, rows = placed(n, each, time)
        here = (crop * time + start) * width
        at = block * layer + here
        told[:] = 0
        through(grad, here, rows, width, w.residual_back, block, told, 0, width)
        outer(opened, at, width, grad, here, width, rows, total.residual, mine)
        sums = sums_grad[here : here + rows * width]
        sums[:] = 0
        _add_where(sums, told, opened[at : at + rows * width])
        add_rows(total.residual_bias[part, block], grad[here : here + rows * width])
        add_rows(total.bias[part, block, 0, 0], sums)
        weigh(w, block, part, before, sums_grad, crop, start, start + rows, sizes, total.convolution)


@jit
@no_type_check
def _input_back(w, block, heard, sums_grad, grad, sizes, part):
    """Add to the gradient of a block's input what its sums tell it."""
    width, layer = sizes.width, sizes.crops * sizes.time * sizes.width
    told = np.empty(LENGTH * width, np.float32)
    first, beyond, each = shared(sizes, part)
    for n in range(first, beyond):
        crop, start, rows = placed(n, each, sizes.time)
        here, count = (crop * sizes.time + start) * width, rows * width
        told[:] = 0
        convolve_back(w, block, sums_grad, crop, start, start + rows, sizes, told, 0)
        at = block * layer + here
        _add_where(grad[here : here + count], told[:count], heard[at : at + count])


def _compile(sources: int) -> tuple[Any, Any]:
    """The entries, kept on disk."""

    @numba.njit(nogil=True, error_model="numpy")
    @no_type_check
    def forth(w, bias, x, heard, opened, sizes, meetings, share):
        """From the first block's input, also after its ReLU, to the last one's output. Returns `sources`."""
        met = 0
        for block in range(sizes.blocks):
            _forth(w, block, bias, x, heard, opened, sizes, share.thread)
            met = meet(meetings, met, share)
        return sources

    @numba.njit(nogil=True, error_model="numpy")
    @no_type_check
    def back(w, heard, opened, grad, sums_grad, total, sizes, meetings, share):
        """From the gradient of the output to that of the input, in its place."""
        met = 0
        for block in range(sizes.blocks - 1, -1, -1):
            _back(w, block, heard, opened, grad, sums_grad, total, sizes, share.thread)
            met = meet(meetings, met, share)
            _input_back(w, block, heard, sums_grad, grad, sizes, share.thread)
            met = meet(meetings, met, share)
        return sources

    return keep(forth), keep(back)


forth, back = _compile(checksum(SOURCES))

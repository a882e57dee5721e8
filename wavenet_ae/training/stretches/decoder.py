"""All gated blocks of a decoder, forwards and backwards."""

# ruff: noqa: PLR0913, PLR0917 -- a kernel has addresses, strides and sizes
from typing import Any, no_type_check

import numba
import numpy as np

from wavenet_ae.sampler.cpu.caching import checksum, keep
from wavenet_ae.sampler.cpu.math import fast_exp
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
def _open(opened, value, gated):
    """Sigmoids and tanhs in the places of their sums, and their product."""
    one, far, edge = np.float32(1), np.float32(60), np.float32(10)
    for n in range(opened.size):
        opened[n] = one / (one + fast_exp(-min(max(opened[n], -far), far)))
    for n in range(value.size):
        fall = fast_exp(np.float32(-2) * min(max(value[n], -edge), edge))
        value[n] = (one - fall) / (one + fall)
    for n in range(gated.size):
        gated[n] = opened[n] * value[n]


@jit
@no_type_check
def _open_back(grad, opened, value, opened_grad, value_grad):
    """From the gradient of the product to those of the sums."""
    one = np.float32(1)
    for n in range(grad.size):
        opened_grad[n] = grad[n] * value[n] * opened[n] * (one - opened[n])
    for n in range(grad.size):
        value_grad[n] = grad[n] * opened[n] * (one - value[n] * value[n])


@jit
@no_type_check
def _forth(w, block, x, condition, opened, gated, said, sizes, part):
    """A block: its gates, what they let through, what it says to the skips, and x of the block that follows."""
    width, gates, skip, time = sizes.width, sizes.gates, sizes.skip, sizes.time
    hop, layer = time // sizes.frames, sizes.crops * time
    before = x[block * layer * width : (block + 1) * layer * width]
    first, beyond, each = shared(sizes, part)
    for n in range(first, beyond):
        crop, start, rows = placed(n, each, time)
        here = crop * time + start
        at = block * layer + here
        sums = opened[at * gates : (at + rows) * gates]
        for r in range(rows):
            copy(sums[r * gates : (r + 1) * gates], condition[block, crop, (start + r) // hop])
        convolve(w, block, before, crop, start, start + rows, sizes, sums)
        for r in range(rows):
            low, high, to = r * gates, (r + 1) * gates, (at + r) * width
            _open(sums[low : low + width], sums[low + width : high], gated[to : to + width])
        through(gated, at * width, rows, width, w.skip_forth, block, said, here * skip, skip)
        if block + 1 < sizes.blocks:
            then = (at + layer) * width
            for r in range(rows):
                to = then + r * width
                copy(x[to : to + width], w.residual_bias[block])
                add(x[to : to + width], before[(here + r) * width : (here + r + 1) * width])
            through(gated, at * width, rows, width, w.residual_forth, block, x, then, width)


@jit
@no_type_check
def _back(w, block, x, opened, gated, said_grad, grad, gates_grad, total, sizes, part):
    """From the gradients of what a block tells others to those of its sums and weights."""
    width, gates, skip, time, blocks = sizes.width, sizes.gates, sizes.skip, sizes.time, sizes.blocks
    hop, layer = time // sizes.frames, sizes.crops * time
    before = x[block * layer * width : (block + 1) * layer * width]
    z_grad = np.empty(LENGTH * width, np.float32)
    first, beyond, each = shared(sizes, part)
    for n in range(first, beyond):
        crop, start, rows = placed(n, each, time)
        here = crop * time + start
        at, mine = block * layer + here, part * blocks + block
        z_grad[:] = 0
        through(said_grad, here * skip, rows, skip, w.skip_back, block, z_grad, 0, width)
        outer(gated, at * width, width, said_grad, here * skip, skip, rows, total.skip, mine)
        if block + 1 < blocks:
            of = part * (blocks - 1) + block  # the last has no residual
            through(grad, here * width, rows, width, w.residual_back, block, z_grad, 0, width)
            outer(gated, at * width, width, grad, here * width, width, rows, total.residual, of)
            add_rows(total.residual_bias[part, block], grad[here * width : (here + rows) * width])
        for r in range(rows):
            low, to = (at + r) * gates, (here + r) * gates
            _open_back(
                z_grad[r * width : (r + 1) * width],
                opened[low : low + width],
                opened[low + width : low + gates],
                gates_grad[to : to + width],
                gates_grad[to + width : to + gates],
            )
            add(total.bias[part, block, crop, (start + r) // hop], gates_grad[to : to + gates])
        weigh(w, block, part, before, gates_grad, crop, start, start + rows, sizes, total.convolution)


@jit
@no_type_check
def _input_back(w, block, gates_grad, grad, sizes, part):
    """Add to the gradient of a block's input what its sums tell it."""
    first, beyond, each = shared(sizes, part)
    for n in range(first, beyond):
        crop, start, rows = placed(n, each, sizes.time)
        to = (crop * sizes.time + start) * sizes.width
        convolve_back(w, block, gates_grad, crop, start, start + rows, sizes, grad, to)


def _compile(sources: int) -> tuple[Any, Any]:
    """The entries, kept on disk."""

    @numba.njit(nogil=True, error_model="numpy")
    @no_type_check
    def forth(w, x, condition, opened, gated, said, sizes, meetings, share):
        """From x of the first block and what was said before it to all that is said. Returns `sources`."""
        met = 0
        for block in range(sizes.blocks):
            _forth(w, block, x, condition, opened, gated, said, sizes, share.thread)
            met = meet(meetings, met, share)
        return sources

    @numba.njit(nogil=True, error_model="numpy")
    @no_type_check
    def back(w, x, opened, gated, said_grad, grad, gates_grad, total, sizes, meetings, share):
        """From the gradient of what is said to that of x of the first block, which begins with zeros."""
        met = 0
        for block in range(sizes.blocks - 1, -1, -1):
            _back(w, block, x, opened, gated, said_grad, grad, gates_grad, total, sizes, share.thread)
            met = meet(meetings, met, share)
            _input_back(w, block, gates_grad, grad, sizes, share.thread)
            met = meet(meetings, met, share)
        return sources

    return keep(forth), keep(back)


forth, back = _compile(checksum(SOURCES))

"""What blocks of both halves do to a stretch of a crop, which its core keeps in its nearest caches.

Plain loops over flat arrays, time before channels: whole-array expressions cost numba seconds of compilation. Rows are
handed on as arrays of their own, where the compiler sees that it may take many numbers at once.
"""

# ruff: noqa: PLR0913, PLR0917 -- a kernel has addresses, strides and sizes
from pathlib import Path
from typing import Any, NamedTuple, no_type_check

import numba
import numpy as np

from wavenet_ae.sampler.cpu import math, meeting, vector
from wavenet_ae.training.stretches.tile import PANEL, multiply

SOURCES = (  # every file that the compiled code is made of
    *(Path(__file__).with_name(f"{room}.py") for room in ("decoder", "encoder", "stretch", "tile")),
    *(Path(str(module.__file__)) for module in (math, meeting, vector)),
)
LENGTH = 96  # samples; a multiple of any tile's rows


class Sizes(NamedTuple):
    """What the arrays' shapes do not say."""

    blocks: int
    crops: int
    time: int
    frames: int
    taps: int
    width: int
    gates: int  # numbers a convolution makes: twice the width in the decoder, the width in the encoder
    skip: int  # the decoder's
    parts: int  # threads at work


class Weights(NamedTuple):
    """Matrices as products read them, in panels of columns, to go forth and to come back; flat, block after block."""

    delay: np.ndarray  # [block, tap] by how many samples each looks back, or if negative ahead
    forth: np.ndarray  # [block, tap, panel of gates, input, PANEL]
    back: np.ndarray  # [block, tap, panel of inputs, gate, PANEL]
    residual_forth: np.ndarray  # [block, panel of outputs, input, PANEL]
    residual_back: np.ndarray  # [block, panel of inputs, output, PANEL]
    residual_bias: np.ndarray  # [block, output]
    skip_forth: np.ndarray  # [block, panel of skips, input, PANEL]
    skip_back: np.ndarray  # [block, panel of inputs, skip, PANEL]


class Gradients(NamedTuple):
    """What each part has added up."""

    bias: Any  # [part, block, crop, frame, gate]
    convolution: Any  # [part, block, tap, input, gate]
    residual: Any  # [part, block, input, output]
    residual_bias: Any  # [part, block, output]
    skip: Any  # [part, block, input, skip]


def nothing(sizes: Sizes, *, crops: int, residuals: int) -> Gradients:
    """Zeros to add to: biases may differ between crops, and not all blocks have a residual."""
    shapes = Gradients(
        bias=(sizes.blocks, crops, sizes.frames, sizes.gates),
        convolution=(sizes.blocks, sizes.taps, sizes.width, sizes.gates),
        residual=(residuals, sizes.width, sizes.width),
        residual_bias=(residuals, sizes.width),
        skip=(sizes.blocks, sizes.width, sizes.skip),
    )
    return Gradients(*(np.zeros((sizes.parts, *shape), np.float32) for shape in shapes))


def jit(function: Any) -> Any:
    """Compile what is called from compiled code alone."""
    return numba.njit(nogil=True, error_model="numpy")(function)


@jit
@no_type_check
def shared(sizes, part):
    """The first of one part's stretches, the first that is not its own, and how many a crop has."""
    each = (sizes.time + LENGTH - 1) // LENGTH
    count = sizes.crops * each
    return count * part // sizes.parts, count * (part + 1) // sizes.parts, each


@jit
@no_type_check
def placed(n, each, time):
    """The crop of a stretch, its first sample there, and how many it has."""
    start = n % each * LENGTH
    return n // each, start, min(LENGTH, time - start)


@jit
@no_type_check
def copy(to, x):
    """Put one row in the place of another."""
    for n in range(to.size):
        to[n] = x[n]


@jit
@no_type_check
def add(total, x):
    """Add one row to another."""
    for n in range(total.size):
        total[n] += x[n]


@jit
@no_type_check
def add_rows(total, x):
    """Add all rows of x to one. Precision: first to each other, for a crop has many stretches of them."""
    room = np.zeros(total.size, np.float32)
    for at in range(0, x.size, total.size):
        add(room, x[at : at + total.size])
    add(total, room)


@jit
@no_type_check
def _within(start, stop, delay, time):
    """Which of the samples from start to stop have one in the crop `delay` before them."""
    return max(start, delay), min(stop, time + min(delay, 0))


@jit
@no_type_check
def convolve(w, block, x, crop, start, stop, sizes, sums):
    """Add a block's convolution of x[crop, time, width] to the sums of a stretch."""
    width, gates, taps = sizes.width, sizes.gates, sizes.taps
    for tap in range(taps):
        delay = w.delay[block, tap]
        low, high = _within(start, stop, delay, sizes.time)
        if low < high:
            here, to = (crop * sizes.time + low - delay) * width, (low - start) * gates
            matrix, panel = (block * taps + tap) * width * gates, width * PANEL
            multiply(x, here, width, 1, w.forth, matrix, panel, PANEL, sums, to, gates, high - low, gates, width)


@jit
@no_type_check
def convolve_back(w, block, opened, crop, start, stop, sizes, sums, at):
    """Add to a stretch's gradients of x what those of all sums, opened[crop, time, gate], tell them."""
    width, gates, taps = sizes.width, sizes.gates, sizes.taps
    for tap in range(taps):
        delay = w.delay[block, tap]
        low, high = _within(start, stop, -delay, sizes.time)
        if low < high:
            here, to = (crop * sizes.time + low + delay) * gates, at + (low - start) * width
            matrix, panel = (block * taps + tap) * width * gates, gates * PANEL
            multiply(opened, here, gates, 1, w.back, matrix, panel, PANEL, sums, to, width, high - low, width, gates)


@jit
@no_type_check
def weigh(w, block, part, x, opened, crop, start, stop, sizes, total):
    """Add a stretch's share of the gradient of a convolution's weights."""
    width, gates, taps, flat = sizes.width, sizes.gates, sizes.taps, total.reshape(total.size)
    for tap in range(taps):
        delay = w.delay[block, tap]
        low, high = _within(start, stop, delay, sizes.time)
        if low < high:
            here, there = (crop * sizes.time + low - delay) * width, (crop * sizes.time + low) * gates
            to = ((part * sizes.blocks + block) * taps + tap) * width * gates
            multiply(x, here, 1, width, opened, there, PANEL, gates, flat, to, gates, width, gates, high - low)


@jit
@no_type_check
def through(x, x_at, rows, inputs, matrices, block, out, out_at, outputs):
    """Add rows times a block's matrix to other rows."""
    matrix, panel = block * inputs * outputs, inputs * PANEL
    multiply(x, x_at, inputs, 1, matrices, matrix, panel, PANEL, out, out_at, outputs, rows, outputs, inputs)


@jit
@no_type_check
def outer(x, x_at, inputs, grad, grad_at, outputs, rows, total, which):
    """Add the gradient of a matrix that took rows of x to rows whose gradients are there."""
    to = which * inputs * outputs
    flat = total.reshape(total.size)
    multiply(x, x_at, 1, inputs, grad, grad_at, PANEL, outputs, flat, to, outputs, inputs, outputs, rows)

"""The cached loop, compiled: one frame of every voice, shared between threads that meet at barriers.

Written in plain loops over flat arrays: whole-array expressions cost numba seconds of compilation.
"""

from pathlib import Path
from typing import Any, NamedTuple, no_type_check

import numba
import numpy as np

from wavenet_ae import mulaw
from wavenet_ae.mulaw import SILENCE
from wavenet_ae.sampler import weights
from wavenet_ae.sampler.cpu.caching import checksum, keep
from wavenet_ae.sampler.cpu.math import draw, gate
from wavenet_ae.sampler.cpu.meeting import ABANDONED, meet
from wavenet_ae.sampler.cpu.vector import load_acquire, multiply
from wavenet_ae.sampler.weights import HALF, PANEL

SOURCES = (  # every file that the compiled code is made of, constants included
    *sorted(Path(__file__).parent.glob("*.py")),
    *(Path(str(module.__file__)) for module in (mulaw, weights)),
)


class State(NamedTuple):
    """What the voices remember, and what the threads share meanwhile."""

    ring: np.ndarray  # flat: each layer's last inputs, [slot, voice, channel], one layer after another
    ring_at: np.ndarray  # [layers] where each begins
    slots: np.ndarray  # [layers] of each ring: (taps - 1) * dilation
    batched: np.ndarray  # [layers] how many samples' past taps are computed at once: they must be past by then
    ahead: np.ndarray  # [layer, sample, voice, gate row]: those sums
    level: np.ndarray  # [voice, lag] what was heard, the newest first
    age: np.ndarray  # [voice] samples since it began
    condition: np.ndarray  # [layer, voice, gate row]: what this frame adds
    out_condition: np.ndarray  # [voice, skip]
    gated: np.ndarray  # flat [voice, channel]
    said: np.ndarray  # flat [voice, skip]
    hidden: np.ndarray  # flat [voice, skip]
    logits: np.ndarray  # flat [voice, code]
    meetings: np.ndarray  # how often threads came to a barrier, and whether one left for good


class Frame(NamedTuple):
    """One call: what to generate, and where it goes."""

    embedding: np.ndarray  # [voice, dims]
    uniform: np.ndarray  # [voice, sample] float64
    forced: bool
    code: np.ndarray  # [voice, sample]: written, or read if forced
    logits: np.ndarray  # [sample, voice, code]: written if forced
    temperature: float
    top_p: float
    clock: int  # samples since the rings began


def _jit(function: Any) -> Any:
    return numba.njit(nogil=True, error_model="numpy")(function)


def _inlined(function: Any) -> Any:
    return numba.njit(nogil=True, error_model="numpy", forceinline=True)(function)


@_jit
@no_type_check
def first_row(size, thread, threads):
    """Where this thread's rows begin: whole panels, shared out evenly."""
    return size // PANEL * thread // threads * PANEL


@_jit
@no_type_check
def gate_rows(sums, low, high, gated, at):
    """From panels of summed gates to their channels' outputs."""
    for panel in range(low, high, PANEL):
        to = at + panel // 2
        for r in range(HALF):
            gated[to + r] = gate(sums[panel + r], sums[panel + HALF + r])


@_jit
@no_type_check
def conditions(weight, bias, embedding, out, low, high):
    """Some rows of what the embedding adds: out[voice, row]."""
    for v in range(out.shape[0]):
        for r in range(low, high):
            out[v, r] = bias[r]
        for dim in range(embedding.shape[1]):
            told = embedding[v, dim]
            for r in range(low, high):
                out[v, r] += weight[dim, r] * told


@_inlined
@no_type_check
def open_first(w, s, sums, low, high):
    """Layer 0's gates: its convolution of the start convolution of the last few levels."""
    for v in range(s.level.shape[0]):
        heard = min(s.age[v], w.first_bias.shape[0] - 1)
        for r in range(low, high):
            sums[r] = s.condition[0, v, r] + w.first_bias[heard, r]
        for lag in range(w.first.shape[0]):
            level = s.level[v, lag]
            for r in range(low, high):
                sums[r] += w.first[lag, r] * level
        gate_rows(sums, low, high, s.gated, v * w.start.shape[1])


@_inlined
@no_type_check
def look_back(w, s, clock, low, high):
    """The past taps of the next `batched` samples of every voice, for the layers whose turn it is.

    One product of many columns. It comes before any layer of this sample writes to its ring: the ring is
    just long enough for the past, and the newest input takes the place of the oldest.
    """
    layers, samples, voices, rows = s.ahead.shape
    taps, width = w.start.shape
    flat = s.ahead.reshape(s.ahead.size)
    for i in range(1, layers):
        if clock % s.batched[i] == 0:
            columns, to = s.batched[i] * voices, i * samples * voices * rows
            for c in range(columns):
                for r in range(low, high):
                    flat[to + c * rows + r] = 0
            inputs, panels = (taps - 1) * width, (high - low) // PANEL
            for tap in range(taps - 1):
                matrix = ((i - 1) * rows + low) * inputs + tap * width * PANEL
                x = s.ring_at[i] + (clock + tap * w.dilation[i]) % s.slots[i] * voices * width
                stride, out = inputs * PANEL, to + low
                multiply(w.past, matrix, stride, s.ring, x, width, width, flat, out, rows, columns, panels)


@_inlined
@no_type_check
def open_gates(w, s, i, clock, sums, low, high):
    """Some rows of layer i's gates."""
    voices, rows = s.condition.shape[1:]
    width = w.start.shape[1]
    for v in range(voices):
        for r in range(low, high):
            sums[v * rows + r] = 0
    x, matrix = s.ring_at[i] + clock % s.slots[i] * voices * width, ((i - 1) * rows + low) * width
    panels = (high - low) // PANEL
    multiply(w.current, matrix, width * PANEL, s.ring, x, width, width, sums, low, rows, voices, panels)
    now = clock % s.batched[i]
    for v in range(voices):
        at = v * rows
        for r in range(low, high):
            other = s.ahead[i, now, v, r] * w.past_scale[i - 1, r] + s.condition[i, v, r]
            sums[at + r] = sums[at + r] * w.current_scale[i - 1, r] + other
        gate_rows(sums[at : at + rows], low, high, s.gated, v * width)


@_inlined
@no_type_check
def carry_on(w, s, i, clock, sums, low, high):
    """Some rows of the input of layer i + 1: layer i's, plus its residual."""
    voices, width = s.level.shape[0], w.start.shape[1]
    for at in range(voices * width):
        sums[at] = 0
    panels, stride = (high - low) // PANEL, width * PANEL
    multiply(w.residual, (i * width + low) * width, stride, s.gated, 0, width, width, sums, low, width, voices, panels)
    old, to = clock % s.slots[i] * voices * width, clock % s.slots[i + 1] * voices * width
    for v in range(voices):
        before, x, sum_at = s.ring_at[i] + old + v * width, s.ring_at[i + 1] + to + v * width, v * width
        for r in range(low, high):
            s.ring[x + r] = sums[sum_at + r] * w.residual_scale[i, r] + w.residual_bias[i, r]
        if i > 0:
            for r in range(low, high):
                s.ring[x + r] += s.ring[before + r]
        else:
            for lag in range(w.start.shape[0]):
                for r in range(low, high):
                    s.ring[x + r] += w.start[lag, r] * s.level[v, lag]


@_inlined
@no_type_check
def speak(w, s, i, sums, low, high):
    """Some rows of what layer i, and before the first the start, says to the output."""
    voices, skip, width = s.level.shape[0], w.said.shape[1], w.start.shape[1]
    for at in range(voices * skip):
        sums[at] = 0
    panels, stride = (high - low) // PANEL, width * PANEL
    multiply(w.skip, (i * skip + low) * width, stride, s.gated, 0, width, width, sums, low, skip, voices, panels)
    for v in range(voices):
        at = v * skip
        if i == 0:
            for r in range(low, high):
                s.said[at + r] = w.said_bias[r]
            for lag in range(w.start.shape[0]):
                for r in range(low, high):
                    s.said[at + r] += w.said[lag, r] * s.level[v, lag]
        for r in range(low, high):
            s.said[at + r] += sums[at + r] * w.skip_scale[i, r]


@_jit
@no_type_check
def rectify(x, size, low, high):
    """ReLU of some rows of every voice."""
    for v in range(x.size // size):
        for at in range(v * size + low, v * size + high):
            x[at] = max(x[at], x.dtype.type(0))


@_jit
@no_type_check
def conclude(matrix, bias, x, inputs, out, low, high):
    """Some rows of a layer of the output: `bias` is [voice, row], or [1, row] for all."""
    size = bias.shape[1]
    voices = out.size // size
    for v in range(voices):
        for r in range(low, high):
            out[v * size + r] = bias[min(v, bias.shape[0] - 1), r]
    panels, stride = (high - low) // PANEL, inputs * PANEL
    multiply(matrix, low * inputs, stride, x, 0, inputs, inputs, out, low, size, voices, panels)


@_inlined
@no_type_check
def hear(s, frame, t, odds, share):
    """Draw this thread's voices' codes, or take those that are forced, and hear them."""
    voices, lags = s.level.shape
    for v in range(share.thread, voices, share.threads):
        at = v * odds.size
        if frame.forced:
            for code in range(odds.size):
                frame.logits[t, v, code] = s.logits[at + code]
        else:
            frame.code[v, t] = draw(s.logits, at, frame.uniform[v, t], frame.temperature, frame.top_p, odds)
        for lag in range(lags - 1, 0, -1):
            s.level[v, lag] = s.level[v, lag - 1]
        real = s.level.dtype.type
        s.level[v, 0] = real(frame.code[v, t] - SILENCE) / real(SILENCE)
        s.age[v] += 1


@_inlined
@no_type_check
def step(w, s, clock, sums, met, share):
    """From what was heard to the logits of the next sample; returns how often the threads have met."""
    layers, width, skip = w.condition.shape[0], w.start.shape[1], w.said.shape[1]
    n, of = share.thread, share.threads
    low, high = first_row(2 * width, n, of), first_row(2 * width, n + 1, of)
    if w.start.shape[0] > 1:
        look_back(w, s, clock, low, high)
    for i in range(layers):
        if i == 0:
            open_first(w, s, sums, low, high)
        else:
            open_gates(w, s, i, clock, sums, low, high)
        met = meet(s.meetings, met, share)
        residual = width if i + 1 < layers else 0  # rows of the residual and of the skip are shared out as one
        first, beyond = first_row(residual + skip, n, of), first_row(residual + skip, n + 1, of)
        if first < residual:
            carry_on(w, s, i, clock, sums, first, min(beyond, residual))
        if beyond > residual:
            speak(w, s, i, sums, max(first, residual) - residual, beyond - residual)
        if i + 1 < layers:
            met = meet(s.meetings, met, share)
    low, high = first_row(skip, n, of), first_row(skip, n + 1, of)
    rectify(s.said, skip, low, high)  # the last layer has no residual: a thread's share of the skip is the same here
    met = meet(s.meetings, met, share)
    conclude(w.out, s.out_condition, s.said, skip, s.hidden, low, high)
    rectify(s.hidden, skip, low, high)
    met = meet(s.meetings, met, share)
    codes = w.logits_bias.shape[1]
    low, high = first_row(codes, n, of), first_row(codes, n + 1, of)
    conclude(w.logits, w.logits_bias, s.hidden, skip, s.logits, low, high)
    return meet(s.meetings, met, share)


def _compile(sources: int) -> Any:
    """The entry, kept on disk."""

    @numba.njit(nogil=True, error_model="numpy")
    @no_type_check
    def run(w, s, frame, share):
        """One frame of every voice; each thread calls it with its own share. Returns that number."""
        rows = s.condition.shape[2]
        sums = np.empty(s.level.shape[0] * max(rows, w.said.shape[1]), s.level.dtype)
        odds = np.empty(w.logits_bias.shape[1], np.float64)
        low, high = first_row(rows, share.thread, share.threads), first_row(rows, share.thread + 1, share.threads)
        for i in range(s.condition.shape[0]):
            conditions(w.condition[i], w.condition_bias[i], frame.embedding, s.condition[i], low, high)
        if share.thread == 0:
            conditions(w.out_condition, w.out_bias, frame.embedding, s.out_condition, 0, len(w.out_bias))
        met = meet(s.meetings, 0, share)
        for t in range(frame.code.shape[1]):
            if load_acquire(s.meetings, ABANDONED) != 0:
                break
            met = step(w, s, frame.clock + t, sums, met, share)
            hear(s, frame, t, odds, share)
            met = meet(s.meetings, met, share)
        return sources

    return keep(run)


run = _compile(checksum(SOURCES))

"""Where a note can be repeated for as long as its key is held, and the joint made smooth."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from torch import Tensor, from_numpy

from wavenet_ae import audio

_WINDOW, _HOP = 1024, 256  # 64 ms, over a period of the lowest key of a piano, every 16 ms
_STEADY_S = 0.5  # the part that must be steady; a third of a note shorter than three times that
_SHORTEST_S = 0.15  # of it
_FALL_DB_PER_S = 3.0  # what falls faster was struck or plucked
_QUIET_DB = 12.0  # below the note's loudest: too late to hold
_NEAR_DB = 2.0  # around the steady part's level: may be looped too
_LONGEST_S = 2.0
_SHORTEST_LOOP = 1600  # samples: a shorter one buzzes
_ENDS = 24  # ends of a loop that are tried
_AS_GOOD, _GOOD = 2.0, 2e-3  # times the best's unlikeness, and good in any case: of these the longest loop is taken
_FADE = 512  # samples either side of the joint
_CLOSING = 160  # samples of the wave's last fade: 10 ms


class Loop(NamedTuple):
    """Samples `start` to `stop` - 1 are repeated; `likeness`, at most 1, is how alike the sound is at both."""

    start: int
    stop: int
    likeness: float


def find(wave: Float[Tensor, " samples"]) -> Loop | None:
    """The loop in the sustained part of a 16 kHz note; None if it has none, as what is struck or plucked.

    The steadiest half second is sought and widened as long as the level stays within 2 dB. In it, 64 ms around
    each of some upward zero crossings are compared with the sound at every earlier one; what is most alike lies
    whole periods apart, whatever the pitch. Among the best joints that of the longest loop is taken.
    """
    samples = wave.detach().cpu().double().numpy()
    samples = samples - samples.mean()  # a constant offset would hide the zero crossings
    part = _sustained(samples)
    if part is None:
        return None
    first, last = part
    crossings = first + np.flatnonzero((samples[first : last - 1] < 0) & (samples[first + 1 : last] >= 0)) + 1
    half = _WINDOW // 2
    crossings = crossings[(crossings >= max(half, _FADE)) & (crossings <= len(samples) - half)]
    ends = crossings[crossings >= first + max(_SHORTEST_LOOP, (last - first) // 2)]
    if len(ends) == 0:
        return None
    found = []
    for stop in ends[np.linspace(0, len(ends) - 1, min(_ENDS, len(ends))).astype(int)]:
        starts = crossings[crossings <= stop - _SHORTEST_LOOP]
        if len(starts):
            found.append((int(stop), starts, _likeness(samples, int(stop), first)[starts - first]))
    if not found:
        return None
    best = max(likeness.max() for _, _, likeness in found)
    good = min(1 - _AS_GOOD * (1 - best), 1 - _GOOD)
    earliest = ((stop, starts, likeness, int((likeness >= good).argmax())) for stop, starts, likeness in found)
    loops = [Loop(int(starts[n]), stop, float(like[n])) for stop, starts, like, n in earliest if like[n] >= good]
    return max(loops, key=lambda loop: loop.stop - loop.start)


def smooth(wave: Float[Tensor, " samples"], loop: Loop | None) -> Float[Tensor, " samples"]:
    """The wave as a sampler may play it: no click where it loops, where it leaves the loop, or at its end.

    Up to 32 ms before the loop's end go over into what comes before its start, and up to 32 ms after it go on
    from the loop's start into the rest, at even power for what is as alike as the two are. The last 10 ms fade.
    """
    samples = wave.detach().cpu().double().numpy().copy()
    if loop is not None:
        start, stop, likeness = loop
        fade = min(_FADE, start, stop - start)
        samples[stop - fade : stop] = _blend(samples[stop - fade : stop], samples[start - fade : start], likeness)
        fade = min(_FADE, len(samples) - stop, stop - start)
        samples[stop : stop + fade] = _blend(samples[start : start + fade], samples[stop : stop + fade], likeness)
    closing = min(_CLOSING, len(samples))
    samples[len(samples) - closing :] *= np.linspace(1, 0, closing)
    return from_numpy(samples).to(wave.dtype)


def _sustained(samples: np.ndarray) -> tuple[int, int] | None:
    """The part, first and last sample, that is loud and steady enough to be held."""
    wanted_s = min(_STEADY_S, len(samples) / audio.SAMPLE_RATE / 3)
    frames = round(wanted_s * audio.SAMPLE_RATE / _HOP)
    level = _level_db(samples)
    if wanted_s < _SHORTEST_S or len(level) < frames or not samples.any():
        return None
    sums = np.concatenate([[0.0], np.cumsum(level)])
    half = frames // 2
    means = (sums[half:] - sums[:-half]) / half
    before, after = means[: len(means) - half], means[half:]
    change = np.abs(after - before) / (half * _HOP / audio.SAMPLE_RATE)
    change[(before + after) / 2 < level.max() - _QUIET_DB] = np.inf
    at = int(change.argmin())
    if change[at] > _FALL_DB_PER_S:
        return None
    near = np.abs(level - (before[at] + after[at]) / 2) <= _NEAR_DB
    first, last = at, at + 2 * half
    longest = _LONGEST_S * audio.SAMPLE_RATE / _HOP
    while first > 0 and near[first - 1] and last - first < longest:
        first -= 1
    while last < len(near) and near[last] and last - first < longest:
        last += 1
    return first * _HOP + _WINDOW // 2, (last - 1) * _HOP + _WINDOW // 2


def _level_db(samples: np.ndarray) -> np.ndarray:
    """The level of 64 ms every 16 ms, no less than -100 dB."""
    energy = np.concatenate([[0.0], np.cumsum(samples**2)])
    power = (energy[_WINDOW:] - energy[:-_WINDOW])[::_HOP] / _WINDOW
    return 10 * np.log10(np.maximum(power, 1e-10))


def _likeness(samples: np.ndarray, stop: int, first: int) -> np.ndarray:
    """2 x.y / (x.x + y.y) of the 64 ms around `stop` and around every sample from `first` on, up to `stop`."""
    half = _WINDOW // 2
    here = samples[stop - half : stop + half]
    begin = max(first - half, 0)
    heard = np.concatenate([np.zeros(begin - first + half), samples[begin : stop + half]])
    size = 1 << (len(heard) + _WINDOW).bit_length()
    product = np.fft.irfft(np.fft.rfft(heard, size) * np.fft.rfft(here, size).conj(), size)
    energy = np.concatenate([[0.0], np.cumsum(heard**2)])
    energy = energy[_WINDOW:] - energy[:-_WINDOW]
    return 2 * product[: len(energy)] / np.maximum(energy + (here**2).sum(), 1e-12)


def _blend(old: np.ndarray, new: np.ndarray, likeness: float) -> np.ndarray:
    """From `old` to `new`; the weights' power is even for two sounds of this correlation."""
    weight = np.arange(1, len(old) + 1) / (len(old) + 1)
    power = (1 - weight) ** 2 + weight**2 + 2 * max(likeness, 0.0) * weight * (1 - weight)
    return ((1 - weight) * old + weight * new) / np.sqrt(power)

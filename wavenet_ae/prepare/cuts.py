"""Where a long recording is cut into notes: at its onsets, or in fixed lengths."""

import numpy as np
from jaxtyping import Float
from torch import Tensor

_HOP, _WINDOW = 160, 512  # samples: 10 ms and 32 ms
_BLOCK = 3000  # frames in memory at once: half a minute
_AROUND = 30  # frames either side that a rise must stand out from
_APART = 8  # frames: onsets nearer than 80 ms are one
_RISE = 0.12  # of log magnitude, averaged over frequencies; a steady tone's beats stay below half of it
_AUDIBLE = 1e-3  # of the loudest frame: 60 dB down is silence
_LEAD = 80  # samples before an onset that belong to it


def pieces(wave: Float[Tensor, " samples"], *, cut: str, length: int) -> list[tuple[int, int]]:
    """(start, stop) of each note of a wave: the whole of it up to `length` samples; of a longer one several.

    `cut` is `none`: the whole wave all the same; `fixed`: `length` after `length`; `onsets`: from each onset to the
    next one, at most `length`.
    """
    if cut == "none" or len(wave) <= length:
        return [(0, len(wave))]
    if cut == "fixed":
        return [(start, min(start + length, len(wave))) for start in range(0, len(wave), length)]
    starts = onsets(wave)
    return [(a, min(b, a + length)) for a, b in zip(starts, [*starts[1:], len(wave)], strict=True)]


def onsets(wave: Float[Tensor, " samples"]) -> list[int]:
    """The samples at which sounds begin, by rises of the spectrum; the first sound counts as one."""
    flux, level = _flux(wave.numpy())
    audible = level > _AUDIBLE * max(level.max(), 1e-9)
    if not audible.any():
        return [0]
    padded = np.pad(flux, _AROUND, mode="edge")
    around = np.lib.stride_tricks.sliding_window_view(padded, 2 * _AROUND + 1)
    peaks = np.flatnonzero((flux >= around.max(axis=1)) & (flux > np.median(around, axis=1) + _RISE) & audible)
    peaks = peaks[peaks * _HOP + _WINDOW <= len(wave)]  # a sound cut short at the end is not one that begins
    found = [int(audible.argmax())]
    for frame in peaks:
        if frame - found[-1] >= _APART:
            found.append(int(frame))
    return [max(frame * _HOP - _LEAD, 0) for frame in found]


def _flux(wave: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each frame, how much its log magnitudes rise above those 20 ms before; and its level."""
    padded = np.pad(wave, (_WINDOW // 2, _WINDOW))
    frames = np.lib.stride_tricks.sliding_window_view(padded, _WINDOW)[::_HOP]
    window = np.hanning(_WINDOW).astype(np.float32)
    before = np.zeros((2, _WINDOW // 2 + 1), dtype=np.float32)
    rises, levels = [], []
    for start in range(0, len(frames), _BLOCK):
        magnitude = np.abs(np.fft.rfft(frames[start : start + _BLOCK] * window, axis=1)).astype(np.float32)
        logs = np.concatenate([before, np.log1p(10 * magnitude)])
        rises.append(np.maximum(logs[2:] - logs[:-2], 0).mean(axis=1))
        levels.append(np.sqrt((magnitude**2).mean(axis=1)))
        before = logs[-2:]
    return np.concatenate(rises), np.concatenate(levels)

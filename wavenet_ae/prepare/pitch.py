"""The pitch a wave sounds at, in MIDI semitones (69 is 440 Hz), by YIN; none where nothing repeats."""

import numpy as np
from jaxtyping import Float
from torch import Tensor

from wavenet_ae import audio

_FINER = 4  # times 16 kHz: a period of pitch 108 is 3.8 samples at 16 kHz, too few to find a minimum between
_WINDOW, _HOP = 2048, 2048  # at 16 kHz
_LONGEST = 800  # samples at 16 kHz of the longest period looked for: 20 Hz
_SHORTEST = 3.2  # and of the shortest: 5 kHz
_CLEAR, _PASSABLE = 0.12, 0.3  # of YIN's aperiodicity: take the first dip below one, or the deepest below the other
_HEARD_S = 1.5  # seconds that are measured: later a struck note has lost its partials
_LOUD = 1e-3  # of the loudest frame's power, -30 dB: what comes before the first such frame is not the note
HIGHEST = 110  # pitch up to which what is heard can be told from the octave below


def measure(wave: Float[Tensor, " samples"]) -> float | None:
    """The pitch of a 16 kHz wave: the median over its loud frames, if at least a third of them repeat.

    It is heard from the first loud frame on: silence or hum before the note is passed over.

    A missing fundamental counts as heard. Good to 5 cents from pitch 28 to 108 on steady tones.
    """
    start = _beginning(wave.numpy())
    samples = wave[start : start + int(_HEARD_S * audio.SAMPLE_RATE)].double().numpy()
    if len(samples) < _WINDOW or not samples.any():
        return None
    frames = _frames(samples)
    loudness = (frames**2).mean(axis=1)
    pitches = [_yin(frame) for frame in frames[loudness > _LOUD * loudness.max()]]
    clear = [pitch for pitch in pitches if pitch is not None]
    return float(np.median(clear)) if 3 * len(clear) >= len(pitches) else None


def _beginning(samples: np.ndarray) -> int:
    power = [float(np.square(samples[at : at + _WINDOW]).mean()) for at in range(0, len(samples), _WINDOW)]
    return _WINDOW * int((np.array(power) >= _LOUD * max(power)).argmax()) if power else 0


def _frames(samples: np.ndarray) -> np.ndarray:
    """Overlapping frames at four times the rate, each a window and the longest period after it."""
    finer = np.fft.irfft(np.fft.rfft(samples), _FINER * len(samples)) * _FINER
    length = min(_FINER * (_WINDOW + _LONGEST), len(finer))
    starts = range(0, max(len(finer) - length, 0) + 1, _FINER * _HOP)
    return np.stack([finer[start : start + length] for start in starts])


def _yin(frame: np.ndarray) -> float | None:
    """De Cheveigné and Kawahara 2002, steps 2 to 5."""
    lags = min(_FINER * _LONGEST, len(frame) // 2)
    window = len(frame) - lags
    size = 1 << (len(frame) + window).bit_length()
    spectrum = np.fft.rfft(frame, size) * np.fft.rfft(frame[:window], size).conj()
    correlation = np.fft.irfft(spectrum, size)[:lags]
    total = np.concatenate([[0.0], np.cumsum(frame**2)])
    energy = total[window : window + lags] - total[:lags]
    difference = np.maximum(energy[0] + energy - 2 * correlation, 0)
    sums = np.cumsum(difference[1:])
    if sums[-1] <= 0:
        return None
    aperiodicity = np.ones(lags)
    aperiodicity[1:] = difference[1:] * np.arange(1, lags) / np.maximum(sums, 1e-12 * sums[-1])
    lag = _first_dip(aperiodicity, int(_FINER * _SHORTEST))
    if lag is None:
        return None
    before, at, after = aperiodicity[lag - 1 : lag + 2]
    curve = before - 2 * at + after
    period = lag + (0.5 * (before - after) / curve if curve > 0 else 0.0)
    return float(69 + 12 * np.log2(_FINER * audio.SAMPLE_RATE / period / 440))


def _first_dip(aperiodicity: np.ndarray, shortest: int) -> int | None:
    inner = aperiodicity[1:-1]
    dips = 1 + np.flatnonzero((inner <= aperiodicity[:-2]) & (inner < aperiodicity[2:]))
    dips = dips[dips >= shortest]
    if len(dips) == 0:
        return None
    clear = dips[aperiodicity[dips] < _CLEAR]
    best = clear[0] if len(clear) else dips[aperiodicity[dips].argmin()]
    return int(best) if aperiodicity[best] < _PASSABLE else None

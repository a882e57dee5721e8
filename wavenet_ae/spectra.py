"""Waves to spectrograms and back: STFT, log magnitude, mel, constant-Q, instantaneous frequency, Griffin-Lim.

Pure functions of tensors on any device with any leading dimensions, by librosa's conventions: frame t is centred on
sample t * hop, silence surrounds the sound, and n samples make 1 + n // hop frames.
"""

import functools
import math
from typing import Any

import librosa
import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Complex, Float
from torch import Tensor

from wavenet_ae.audio import SAMPLE_RATE

N_FFT, HOP = 1024, 256  # 64 and 16 ms: NSynth's baseline
RANGE_DB = 120.0
SILENT = 1e-6  # a sound is silent if no magnitude of its STFT is above; one step of 16 bits gives 3e-5
C2 = 440 * 2 ** (-33 / 12)  # Hz


def stft(
    wave: Float[Tensor, "*batch samples"], *, n_fft: int = N_FFT, hop: int = HOP
) -> Complex[Tensor, "*batch bins frames"]:
    """Short-time Fourier transform through a periodic Hann window, n_fft / 2 + 1 bins.

    Raises:
        ValueError: there are no samples, or n_fft is odd.
    """
    _check_samples(wave.shape[-1])
    _check_window(n_fft, hop, overlap=1)
    flat = wave.reshape(-1, wave.shape[-1])
    window = _hann(n_fft, wave)
    spectrum = torch.stft(flat, n_fft, hop, window=window, center=True, pad_mode="constant", return_complex=True)
    return spectrum.reshape(*wave.shape[:-1], *spectrum.shape[-2:])


def istft(
    spectrum: Complex[Tensor, "*batch bins frames"], *, samples: int, hop: int = HOP
) -> Float[Tensor, "*batch samples"]:
    """The wave of `samples` samples whose STFT is nearest; frames beyond its end are cut, missing ones are silent.

    Raises:
        ValueError: there are no samples, or n_fft, 2 (bins - 1), is less than four hops.
    """
    _check_samples(samples)
    n_fft = 2 * (spectrum.shape[-2] - 1)
    _check_window(n_fft, hop, overlap=4)
    flat = _fit(spectrum, 1 + samples // hop).reshape(-1, spectrum.shape[-2], 1 + samples // hop)
    wave = torch.istft(flat, n_fft, hop, window=_hann(n_fft, spectrum.real), center=True, length=samples)
    return wave.reshape(*spectrum.shape[:-2], samples)


def log_magnitude(
    magnitude: Float[Tensor, "*batch bins frames"], *, range_db: float = RANGE_DB
) -> tuple[Float[Tensor, "*batch bins frames"], Float[Tensor, "*batch"]]:
    """The level from 0 (`range_db` below the sound's own peak, or more) to 1 (the peak), and the peaks.

    It is what NSynth's baseline reads, except that a silent sound has level 0 and peak 0; there it is level 1.
    """
    peak = magnitude.amax((-2, -1))
    peak = torch.where(peak > SILENT, peak, 0)
    relative = magnitude / torch.where(peak > 0, peak, math.inf)[..., None, None]
    return 1 + decibels(relative, least=10 ** (-range_db / 20)) / range_db, peak


def linear_magnitude(
    level: Float[Tensor, "*batch bins frames"], peak: Float[Tensor, "*batch"], *, range_db: float = RANGE_DB
) -> Float[Tensor, "*batch bins frames"]:
    """Undo `log_magnitude`; what lies at or below the range is 0."""
    relative = torch.where(level > 0, 10 ** ((level - 1) * (range_db / 20)), 0)
    return relative * peak[..., None, None]


def decibels(magnitude: Float[Tensor, "*any"], *, least: float = 1e-5) -> Float[Tensor, "*any"]:
    """20 log10 of magnitudes; `least` stands for all below it, so that silence is finite."""
    return 20 * magnitude.clamp(min=least).log10()


def mel(
    wave: Float[Tensor, "*batch samples"],
    *,
    bands: int = 128,
    low: float = 0.0,
    high: float = SAMPLE_RATE / 2,
    n_fft: int = N_FFT,
    hop: int = HOP,
) -> Float[Tensor, "*batch bands frames"]:
    """Magnitude in mel bands from `low` to `high` Hz: the root of the power (Slaney's scale, bands of equal area).

    Raises:
        ValueError: as `stft`, or a band is so narrow that it holds no bin.
    """
    filters = torch.from_numpy(_mel_filters(bands, low, high, n_fft)).to(wave)
    return (filters @ stft(wave, n_fft=n_fft, hop=hop).abs().square()).sqrt()


def constant_q(
    wave: Float[Tensor, "*batch samples"],
    *,
    hop: int = HOP,
    low: float = C2,
    octaves: int = 6,
    bins_per_octave: int = 40,
    filter_scale: float = 0.8,
) -> Complex[Tensor, "*batch bins frames"]:
    """Constant-Q transform (Brown and Puckette 1992): bins in equal steps of pitch from `low` Hz, scaled as librosa's.

    The defaults are the scale of NSynth's rainbowgrams. Each octave is read from windows as long as its filters,
    multiplied with the filters' spectra; nothing is resampled.

    Raises:
        ValueError: there are no samples, or the highest filter reaches beyond half the sample rate.
    """
    _check_samples(wave.shape[-1])
    parts = []
    for octave in range(octaves):
        filters, first, n_fft = _cq_filters(low * 2.0**octave, bins_per_octave, filter_scale)
        windows = F.pad(wave, (n_fft // 2, n_fft // 2)).unfold(-1, n_fft, hop)
        spectra = torch.fft.rfft(windows)[..., first : first + filters.shape[-1]]
        parts.append(torch.from_numpy(filters).to(spectra) @ spectra.mT)
    return torch.cat(parts, dim=-2)


def instantaneous_frequency(
    spectrum: Complex[Tensor, "*batch bins frames"],
) -> Float[Tensor, "*batch bins frames"]:
    """How far each bin's phase turns from frame to frame, in half turns: from -1 to 1 (Engel et al. 2019, GANSynth).

    The first frame holds its phase itself, so the running sum times pi is the phase, up to a silence. Where there is
    no sound, or was none a frame before, it is 0.
    """
    before = F.pad(spectrum, (1, 0), value=1)[..., :-1]
    turned = spectrum * before.conj()
    return torch.where(turned != 0, turned.angle() / math.pi, 0)  # the angle of minus zero is pi


def griffin_lim(
    magnitude: Float[Tensor, "*batch bins frames"],
    phase: Float[Tensor, "*batch bins frames"],
    *,
    samples: int,
    iterations: int,
    momentum: float = 0.99,
    hop: int = HOP,
) -> Float[Tensor, "*batch samples"]:
    """A wave of `samples` samples whose STFT has nearly this magnitude, from a first guess of its phase in radians.

    Each iteration keeps the phase of the wave there is and puts the magnitude back (Griffin and Lim 1984, which is
    `momentum=0`), going a little further than that (Perraudin et al. 2013). Frames beyond the end are cut, missing
    ones are silent.

    Raises:
        ValueError: as `istft`, or iterations is below 0, or momentum is not in [0, 1].
    """
    check_griffin_lim(iterations, momentum)
    magnitude, phase = (_fit(each, 1 + samples // hop) for each in (magnitude, phase))
    spectrum, before = torch.polar(magnitude, phase), None
    for _ in range(iterations):
        consistent = stft(istft(spectrum, samples=samples, hop=hop), n_fft=2 * (magnitude.shape[-2] - 1), hop=hop)
        ahead = consistent if before is None else consistent - momentum / (1 + momentum) * before
        spectrum, before = magnitude * ahead.sgn(), consistent
    return istft(spectrum, samples=samples, hop=hop)


def check_griffin_lim(iterations: int, momentum: float) -> None:
    """Refuse settings of `griffin_lim` that mean nothing.

    Raises:
        ValueError: iterations is below 0, or momentum is not in [0, 1].
    """
    if iterations < 0 or not 0 <= momentum <= 1:
        raise ValueError(
            f"iterations is {iterations} and momentum {momentum}: expected at least 0, and from 0 (plain) to 1"
        )


def _fit(frames: Tensor, count: int) -> Tensor:
    """So many frames: cut, or followed by silent ones."""
    return F.pad(frames[..., :count], (0, max(0, count - frames.shape[-1])))


def _check_samples(samples: int) -> None:
    if samples < 1:
        raise ValueError("0 samples have no spectrum: expected at least one")


def _check_window(n_fft: int, hop: int, *, overlap: int) -> None:
    if n_fft % 2 or not 0 < overlap * hop <= n_fft:
        raise ValueError(f"n_fft is {n_fft} and hop {hop}: expected an even n_fft of at least {overlap} x hop")


def _hann(n_fft: int, like: Tensor) -> Float[Tensor, " n_fft"]:
    """In the precision of `like`, rounded from double: torch's own in float32 errs where its slope is small."""
    return torch.hann_window(n_fft, dtype=torch.float64).to(like)


@functools.lru_cache(maxsize=16)
def _mel_filters(bands: int, low: float, high: float, n_fft: int) -> Float[np.ndarray, "bands bins"]:
    edges = librosa.mel_frequencies(bands + 2, fmin=low, fmax=high)
    bins = np.searchsorted(librosa.fft_frequencies(sr=SAMPLE_RATE, n_fft=n_fft), edges)
    if not 0 <= low < high <= SAMPLE_RATE / 2 or (bins[2:] == bins[:-2]).any():
        raise ValueError(
            f"{bands} mel bands from {low:g} to {high:g} Hz do not fit {n_fft // 2 + 1} bins up to "
            f"{SAMPLE_RATE / 2:g} Hz: expected each band to hold a bin (fewer bands or a longer n_fft)"
        )
    return librosa.filters.mel(sr=SAMPLE_RATE, n_fft=n_fft, n_mels=bands, fmin=low, fmax=high, dtype=np.float64)


@functools.lru_cache(maxsize=64)
def _cq_filters(
    low: float, bins_per_octave: int, filter_scale: float
) -> tuple[Complex[np.ndarray, "filters band"], int, int]:
    """The spectra of an octave's filters in the band where any is not small, the band's first bin, and n_fft."""
    ratio = 4 ** (1 / bins_per_octave)
    options: dict[str, Any] = {"sr": SAMPLE_RATE, "filter_scale": filter_scale, "alpha": (ratio - 1) / (ratio + 1)}
    pitches = low * 2 ** (np.arange(bins_per_octave) / bins_per_octave)
    lengths, highest = librosa.filters.wavelet_lengths(freqs=pitches, **options)
    if highest > SAMPLE_RATE / 2:
        raise ValueError(
            f"the highest constant-Q filter reaches {highest:,.0f} Hz: expected at most {SAMPLE_RATE / 2:,.0f} Hz "
            "(fewer octaves or a lower first)"
        )
    filters, _ = librosa.filters.wavelet(freqs=pitches, dtype=np.complex128, **options)
    n_fft = filters.shape[-1]
    spectra = np.fft.fft(filters * np.sqrt(lengths)[:, None] / n_fft)[:, : n_fft // 2 + 1]
    heard = np.flatnonzero((abs(spectra) > 1e-5 * abs(spectra).max(axis=1, keepdims=True)).any(axis=0))
    return np.ascontiguousarray(spectra[:, heard[0] : heard[-1] + 1]), int(heard[0]), n_fft

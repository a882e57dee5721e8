"""Spectrograms are librosa's, and waves come back from them; silence and short sounds are safe."""

import math

import librosa
import numpy as np
import pytest
import torch
from conftest import tone
from hypothesis import given, settings
from hypothesis import strategies as st

from wavenet_ae import spectra

DEVICES = ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu])]


def noise(*shape, seed=0):
    return 0.3 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def sine(hz, samples=16_000):
    return torch.sin(2 * math.pi * hz * torch.arange(samples, dtype=torch.float64) / 16_000)


def assert_close(ours, theirs, atol):
    torch.testing.assert_close(ours, torch.from_numpy(np.ascontiguousarray(theirs)), atol=atol, rtol=0)


# --- librosa's


@pytest.mark.parametrize(("n_fft", "hop", "samples"), [(1024, 256, 16_000), (512, 200, 3001), (1024, 512, 1100)])
def test_stft_equals_librosas(n_fft, hop, samples):
    wave = noise(samples)
    theirs = librosa.stft(wave.numpy(), n_fft=n_fft, hop_length=hop)
    ours = spectra.stft(wave, n_fft=n_fft, hop=hop)
    assert ours.shape[-1] == 1 + samples // hop
    assert_close(ours, theirs, atol=1e-4)


def test_level_equals_librosas_decibels():
    magnitude = spectra.stft(tone(60)).abs()
    level, peak = spectra.log_magnitude(magnitude)
    assert_close(level, librosa.amplitude_to_db(magnitude.numpy(), ref=np.max, top_db=120) / 120 + 1, atol=1e-5)
    assert peak == magnitude.max()
    quiet, quiet_peak = spectra.log_magnitude(magnitude * 1e-2)
    torch.testing.assert_close(quiet, level, atol=1e-5, rtol=0)
    torch.testing.assert_close(quiet_peak, peak * 1e-2)


@pytest.mark.parametrize("bands", [40, 128])
def test_mel_equals_librosas(bands):
    wave = tone(60) + noise(16_000)
    theirs = librosa.feature.melspectrogram(y=wave.numpy(), sr=16_000, n_fft=1024, hop_length=256, n_mels=bands)
    assert_close(spectra.mel(wave, bands=bands), np.sqrt(theirs), atol=1e-4)


def test_constant_q_equals_librosas_up_to_its_resampling():
    wave = tone(40, 1.5, partials=30)
    options = {"bins_per_octave": 40, "filter_scale": 0.8, "sparsity": 0, "sr": 16_000, "hop_length": 256}
    theirs = librosa.cqt(wave.numpy(), n_bins=240, fmin=spectra.C2, **options)
    ours = spectra.constant_q(wave)
    assert ours.shape == theirs.shape
    assert np.abs(theirs).max() > 0.5
    assert_close(ours[-40:], theirs[-40:], atol=1e-4)  # the octave that librosa does not resample
    assert_close(ours, theirs, atol=0.015 * np.abs(theirs).max())


def test_constant_q_is_the_product_with_its_wavelets():
    wave, middle = noise(40_000, seed=4).double(), 20_000
    bins = np.array([0, 1, 57, 130])
    ratio = 4 ** (1 / 40)
    wavelets, lengths = librosa.filters.wavelet(
        freqs=spectra.C2 * 2 ** (bins / 40),
        sr=16_000,
        filter_scale=0.8,
        alpha=np.full(4, (ratio - 1) / (ratio + 1)),
        dtype=np.complex128,
    )
    half = wavelets.shape[1] // 2
    heard = wave[middle - half : middle + half].numpy()
    expected = (wavelets.conj() @ heard) * np.sqrt(lengths)
    assert_close(spectra.constant_q(wave, hop=middle)[bins, 1], expected, atol=5e-3 * np.abs(expected).max())


@pytest.mark.parametrize("momentum", [0.0, 0.99])
def test_griffin_lim_equals_librosas(momentum):
    magnitude = spectra.stft(tone(50, 0.5).double()).abs()
    options = {
        "n_fft": 1024,
        "hop_length": 256,
        "length": 8000,
        "momentum": momentum,
        "init": None,
        "dtype": np.float64,
    }
    theirs = librosa.griffinlim(magnitude.numpy(), n_iter=6, **options)
    ours = spectra.griffin_lim(magnitude, torch.zeros_like(magnitude), samples=8000, iterations=6, momentum=momentum)
    assert np.abs(theirs).max() > 0.1
    assert_close(ours, theirs, atol=1e-6)


# --- there and back


@settings(max_examples=25, deadline=None)
@given(samples=st.integers(1, 3000), hop=st.sampled_from([40, 64]), batch=st.sampled_from([(), (1,), (2, 3)]))
def test_a_wave_survives_its_stft(samples, hop, batch):
    wave = noise(*batch, samples, seed=samples).double()
    back = spectra.istft(spectra.stft(wave, n_fft=256, hop=hop), samples=samples, hop=hop)
    torch.testing.assert_close(back, wave, atol=1e-9, rtol=0)


def test_a_level_survives_within_its_range():
    magnitude = torch.tensor([[10.0, 1.0], [1e-3, 1e-9]])
    level, peak = spectra.log_magnitude(magnitude, range_db=100.0)
    torch.testing.assert_close(level, torch.tensor([[1.0, 0.8], [0.2, 0.0]]), atol=1e-6, rtol=0)
    back = spectra.linear_magnitude(level, peak, range_db=100.0)
    torch.testing.assert_close(back, torch.tensor([[10.0, 1.0], [1e-3, 0.0]]), atol=0, rtol=1e-4)


def test_what_is_below_the_least_step_of_any_file_is_silence():
    for peak in (0.0, 1e-7):
        level, found = spectra.log_magnitude(torch.full((3, 2), peak))
        assert not bool(level.any())
        assert found == 0


def test_the_true_phase_gives_the_wave_back():
    wave = tone(57).double()
    spectrum = spectra.stft(wave)
    for iterations in (0, 3):
        back = spectra.griffin_lim(spectrum.abs(), spectrum.angle(), samples=16_000, iterations=iterations)
        torch.testing.assert_close(back, wave, atol=1e-6, rtol=0)


def test_griffin_lim_converges_and_faster_with_momentum():
    magnitude = spectra.stft(tone(57)).abs()
    phase = math.pi * (2 * torch.rand(magnitude.shape, generator=torch.Generator().manual_seed(0)) - 1)

    def error(iterations, momentum):
        wave = spectra.griffin_lim(magnitude, phase, samples=16_000, iterations=iterations, momentum=momentum)
        return float((spectra.stft(wave).abs() - magnitude).norm() / magnitude.norm())

    errors = [error(iterations, 0.0) for iterations in (1, 4, 16, 32)]
    assert errors == sorted(errors, reverse=True)
    assert error(32, 0.99) < 0.8 * errors[-1]


def test_griffin_lim_makes_as_many_samples_as_are_asked_for():
    magnitude = spectra.stft(tone(57)).abs()
    for samples in (1, 5000, 16_000, 20_000):
        wave = spectra.griffin_lim(magnitude, torch.zeros_like(magnitude), samples=samples, iterations=1)
        assert wave.shape == (samples,)
    assert bool(wave[:15_000].any())
    assert not bool(wave[16_600:].any()), "frames that are missing are silent"


# --- known answers


def test_instantaneous_frequency_of_a_tone_is_its_frequency():
    hz = 1000.0
    turn = spectra.instantaneous_frequency(spectra.stft(sine(hz)))[64, 4:-4]  # bin 64 is 1000 Hz
    half_turns = 2 * hz * 256 / 16_000  # 32: back where it was
    torch.testing.assert_close(turn, torch.full_like(turn, (half_turns + 1) % 2 - 1), atol=1e-6, rtol=0)
    turn = spectra.instantaneous_frequency(spectra.stft(sine(hz + 10)))[64, 4:-4]
    torch.testing.assert_close(turn, torch.full_like(turn, 2 * 10 * 256 / 16_000), atol=1e-4, rtol=0)


def test_instantaneous_frequency_adds_up_to_the_phase():
    spectrum = spectra.stft(noise(4000).double())
    turn = spectra.instantaneous_frequency(spectrum)
    assert turn.abs().max() <= 1
    torch.testing.assert_close(torch.polar(spectrum.abs(), turn.cumsum(-1) * math.pi), spectrum, atol=1e-9, rtol=0)


def test_instantaneous_frequency_is_zero_in_and_after_silence():
    wave = torch.cat([noise(3000), torch.zeros(4000), noise(3000, seed=1)])
    spectrum = spectra.stft(wave)
    silent = (spectrum == 0).all(dim=0)
    assert 8 < silent.sum() < 16
    turn = spectra.instantaneous_frequency(spectrum)
    assert not bool(turn[:, silent | silent.roll(1)].any())
    assert bool(turn[:, ~(silent | silent.roll(1))].any())


@pytest.mark.parametrize("pitch", [38, 60, 81, 107])
def test_a_tone_lies_in_the_constant_q_bin_of_its_pitch(pitch):
    hz = 440 * 2 ** ((pitch - 69) / 12)
    level = spectra.constant_q(sine(hz)).abs()[:, 30]
    assert level.argmax() == round((pitch - 36) * 40 / 12)


def test_decibels_of_a_tenth_and_of_nothing():
    torch.testing.assert_close(spectra.decibels(torch.tensor([1.0, 0.1, 0.0])), torch.tensor([0.0, -20.0, -100.0]))


# --- anything that is a sound


@pytest.mark.parametrize(
    "wave",
    [torch.zeros(5000), torch.zeros(1), torch.ones(1), noise(2, 300)],
    ids=["silence", "nothing", "click", "short"],
)
def test_silence_and_short_sounds_give_finite_numbers(wave):
    spectrum = spectra.stft(wave)
    level, peak = spectra.log_magnitude(spectrum.abs())
    everything = [
        level,
        spectra.linear_magnitude(level, peak),
        spectra.mel(wave),
        spectra.constant_q(wave).abs(),
        spectra.instantaneous_frequency(spectrum),
        spectra.griffin_lim(spectrum.abs(), spectrum.angle(), samples=wave.shape[-1], iterations=2),
    ]
    for values in everything:
        assert bool(values.isfinite().all())
        assert bool(values.any()) == bool(wave.any()), "silence stays silence"


def test_leading_dimensions_do_not_matter():
    waves = noise(2, 3, 2000)
    magnitude = spectra.stft(waves).abs()
    level, peak = spectra.log_magnitude(magnitude)
    again = spectra.griffin_lim(magnitude, torch.zeros_like(magnitude), samples=2000, iterations=2)
    alone = waves[1, 2]
    torch.testing.assert_close(spectra.mel(waves)[1, 2], spectra.mel(alone))
    torch.testing.assert_close(spectra.constant_q(waves)[1, 2], spectra.constant_q(alone))
    torch.testing.assert_close(level[1, 2], spectra.log_magnitude(magnitude[1, 2])[0])
    torch.testing.assert_close(peak[1, 2], magnitude[1, 2].max())
    by_itself = spectra.griffin_lim(magnitude[1, 2], torch.zeros_like(magnitude[1, 2]), samples=2000, iterations=2)
    torch.testing.assert_close(again[1, 2], by_itself, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("device", DEVICES)
def test_every_device_and_both_precisions_agree(device):
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device here")
    wave = tone(60).double()
    moved = wave.float().to(device)
    for measure in (spectra.mel, lambda wave: spectra.constant_q(wave).abs(), lambda wave: spectra.stft(wave).abs()):
        there = measure(moved)
        assert there.device == moved.device
        torch.testing.assert_close(there.cpu().double(), measure(wave), atol=2e-3, rtol=1e-3)


def test_what_is_no_sound_or_no_transform_is_refused():
    for transform in (spectra.stft, spectra.mel, spectra.constant_q):
        with pytest.raises(ValueError, match="0 samples have no spectrum: expected at least one"):
            transform(torch.zeros(0))
    wave, magnitude = noise(2000), spectra.stft(noise(2000)).abs()
    with pytest.raises(ValueError, match="n_fft is 255 and hop 64: expected an even n_fft of at least 1 x hop"):
        spectra.stft(wave, n_fft=255, hop=64)
    with pytest.raises(ValueError, match="n_fft is 1024 and hop 512: expected an even n_fft of at least 4 x hop"):
        spectra.istft(spectra.stft(wave, hop=512), samples=2000, hop=512)
    with pytest.raises(ValueError, match="the highest constant-Q filter reaches 8,362 Hz: expected at most 8,000 Hz"):
        spectra.constant_q(wave, octaves=7)
    with pytest.raises(ValueError, match="400 mel bands from 0 to 8000 Hz do not fit 513 bins up to 8000 Hz"):
        spectra.mel(wave, bands=400)
    with pytest.raises(ValueError, match=r"iterations is 1 and momentum -0\.5: expected at least 0"):
        spectra.griffin_lim(magnitude, magnitude, samples=2000, iterations=1, momentum=-0.5)

"""Measurements of sounds have known answers: for copies, tones off by a semitone, noise, silence and chance."""

import math

import numpy as np
import pytest
import torch
from conftest import tone
from hypothesis import given, settings
from hypothesis import strategies as st

from wavenet_ae import mulaw
from wavenet_ae.metrics import constant_q, likelihood, pitch, spectral

DISTANCES = [spectral.distance, constant_q.error]


def noise(samples, level=0.1):
    torch.manual_seed(0)
    return level * torch.randn(samples)


@pytest.mark.parametrize("measure", DISTANCES)
@pytest.mark.parametrize("samples", [1, 700, 16_000])
def test_a_copy_scores_zero_at_any_length_silent_or_not(measure, samples):
    for wave in (noise(samples), torch.zeros(samples)):
        assert measure(wave, wave.clone()) == 0


@pytest.mark.parametrize("measure", DISTANCES)
def test_white_noise_is_worse_than_a_detuned_copy_which_is_worse_than_a_quieter_one(measure):
    original = tone(57)
    quieter, detuned = 0.9 * original, tone(57.3)
    loud_noise = noise(len(original), float(original.square().mean().sqrt()))
    assert 0 < measure(original, quieter) < measure(original, detuned) < measure(original, loud_noise)


def test_half_the_level_is_6_dB_at_every_scale_and_half_the_magnitude():
    original = noise(8000)
    assert spectral.distance(original, original / 2) == pytest.approx(20 * math.log10(2), rel=0.01)
    assert constant_q.error(original, original / 2) == pytest.approx(0.5, rel=1e-5)


def test_silence_in_place_of_a_sound_and_a_sound_in_place_of_silence():
    sound, silence = tone(57), torch.zeros(16_000)
    assert constant_q.error(sound, silence) == pytest.approx(1.0)
    assert math.isnan(constant_q.error(silence, sound))
    assert 10 < spectral.distance(sound, silence) <= spectral.RANGE_DB
    assert math.isfinite(spectral.distance(silence, sound))
    assert spectral.distance(silence, sound) > 10


@pytest.mark.parametrize("measure", DISTANCES)
def test_sounds_of_other_lengths_are_refused(measure):
    with pytest.raises(ValueError, match="a sound of 5 samples cannot be compared with one of 7: expected as many"):
        measure(torch.zeros(7), torch.zeros(5))


# --- pitch


@pytest.fixture(scope="module")
def tracks():
    return {p: pitch.track(tone(p, seconds=0.5)) for p in (57, 58, 69)}


def test_a_tone_one_semitone_off_is_100_cents_off_and_an_octave_1200(tracks):
    assert pitch.cents(tracks[57], tracks[57]) == 0
    assert pitch.cents(tracks[57], tracks[58]) == pytest.approx(100, abs=10)
    assert pitch.cents(tracks[69], tracks[57]) == pytest.approx(1200, abs=10)
    assert np.median(tracks[69].cents[tracks[69].voiced]) == pytest.approx(6900, abs=10)


def test_voicing_agrees_with_itself_and_not_with_silence(tracks):
    silent = pitch.track(torch.zeros(8000))
    assert not silent.voiced.any()
    assert tracks[57].voiced.mean() > 0.8
    assert pitch.voicing(tracks[57], tracks[58]) > 0.85
    assert pitch.voicing(tracks[57], silent) == pytest.approx(1 - tracks[57].voiced.mean())
    assert pitch.voicing(silent, silent) == 1
    assert math.isnan(pitch.cents(tracks[57], silent)), "nothing to compare"


@pytest.mark.parametrize("samples", [1, 511, 512, 2000])
def test_short_sounds_have_a_track_too(samples):
    track = pitch.track(noise(samples))
    assert track.cents.shape == track.voiced.shape == (1 + samples // 512,)
    with pytest.raises(ValueError, match="0 samples have no pitch"):
        pitch.track(torch.zeros(0))


# --- likelihood


def test_nats_of_certainty_ignorance_and_what_lies_between():
    code = torch.randint(mulaw.CODES, (2, 50))
    ignorant = torch.zeros(2, mulaw.CODES, 50).log_softmax(dim=1)
    torch.testing.assert_close(likelihood.nats(ignorant, code), torch.full((2, 50), math.log(256)).double())
    np.testing.assert_allclose(likelihood.bits(np.log([256.0, 2.0])), [8, 1])
    certain = torch.full((2, mulaw.CODES, 50), -1e4).scatter(1, code.unsqueeze(1), 0.0)
    assert likelihood.nats(certain, code).abs().max() == 0


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**31), samples=st.integers(1, 40))
def test_nats_are_torch_s_cross_entropy(seed, samples):
    torch.manual_seed(seed)
    logits, code = torch.randn(3, 7, samples), torch.randint(7, (3, samples))
    expected = torch.nn.functional.cross_entropy(logits, code, reduction="none")
    torch.testing.assert_close(likelihood.nats(logits.log_softmax(dim=1), code).float(), expected)

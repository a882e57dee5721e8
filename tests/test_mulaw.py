"""The one quantiser, over its whole alphabet and every 16-bit input."""

from pathlib import Path

import numpy as np
import pytest
import torch

from wavenet_ae import mulaw

GOLDEN = Path(__file__).parent / "data" / "magenta_wavenet" / "golden.npz"
EVERY_CODE = torch.arange(256)
EVERY_16_BIT = torch.arange(-32768, 32768) / 32768


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_every_code_survives_a_round_trip(dtype):
    wave = mulaw.decode(EVERY_CODE, dtype)
    assert wave.dtype == dtype
    assert torch.equal(mulaw.encode(wave), EVERY_CODE)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_louder_is_never_a_lower_code(dtype):
    code = mulaw.encode(EVERY_16_BIT.to(dtype))
    assert (code.diff() >= 0).all()
    assert code[0] == 0
    assert code[-1] == 255
    assert code.unique().numel() == 256, "every code is reached"
    assert (mulaw.decode(EVERY_CODE, dtype).diff() > 0).all()


def test_the_ends_and_beyond_are_clipped_and_silence_is_128():
    assert mulaw.encode(torch.tensor([-2.0, -1.0, 0.0, 1.0, 2.0])).tolist() == [0, 0, 128, 255, 255]
    assert mulaw.decode(torch.tensor([128])).tolist() == [0.0], "silence is exactly zero"


def test_steps_are_floored_not_rounded():
    """Just below zero is the code below silence: rounding, as torchaudio does, would say silence."""
    assert mulaw.encode(torch.tensor([-1e-6, 1e-6])).tolist() == [127, 128]


def test_what_is_decoded_is_near_what_was_encoded():
    error = (mulaw.decode(mulaw.encode(EVERY_16_BIT.double()), torch.float64) - EVERY_16_BIT).abs()
    assert (error <= 0.0005 + 0.025 * EVERY_16_BIT.abs()).all(), "half a step: about 2% of the level"


def test_levels_are_the_codes_on_a_line_from_minus_one():
    assert mulaw.level(torch.tensor([0, 128, 192, 255])).tolist() == [-1.0, 0.0, 0.5, 127 / 128]


def test_codes_are_magenta_s():
    golden = np.load(GOLDEN)
    assert np.unique(golden["quantized"]).size > 100, "too few codes: this test would prove nothing"
    ours = mulaw.encode(torch.from_numpy(golden["audio"])) - mulaw.SILENCE
    assert np.array_equal(ours.numpy(), golden["quantized"])

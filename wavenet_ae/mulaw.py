"""Mu-law codes: the 256 classes the decoder reads and writes; the only quantiser.

wave   float in [-1, 1]     what an audio file holds
code   int64 in [0, 255]    what the decoder predicts; 128 is silence
level  float in [-1, 1)     what the networks read: (code - 128) / 128

NSynth: the quantiser floors to 128 steps a side. torchaudio's rounds instead, and the two disagree
on 41% of 16-bit inputs.
"""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

CODES = 256
SILENCE = CODES // 2
_MU = CODES - 1


def encode(wave: Float[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
    """Wave to code, floor(128 f(x)) + 128 with f the mu-law of G.711 (mu = 255).

    Deviation: clipped to [-1, 1], and +1.0 is code 255; the original gives class 256 of 256.
    """
    wave = wave.clamp(-1.0, 1.0)
    companded = wave.sign() * torch.log(1 + _MU * wave.abs()) / math.log(1 + _MU)
    return (companded * SILENCE).floor().long().clamp(max=SILENCE - 1) + SILENCE


def decode(code: Int[Tensor, "*shape"], dtype: torch.dtype = torch.float32) -> Float[Tensor, "*shape"]:
    """Code to wave: the centre of each step, except that silence is exactly 0."""
    step = (code - SILENCE).to(dtype)
    companded = (step + 0.5) / SILENCE
    wave = companded.sign() * torch.expm1(companded.abs() * math.log(1 + _MU)) / _MU
    return torch.where(step == 0, torch.zeros_like(wave), wave)


def level(code: Int[Tensor, "*shape"], dtype: torch.dtype = torch.float32) -> Float[Tensor, "*shape"]:
    """Code to level, the linear scale the networks read."""
    return (code - SILENCE).to(dtype) / SILENCE

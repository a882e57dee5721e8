"""Pitch error: cents, 0 upwards, lower is better; voicing agreement: 0 to 1, higher is better. Both by pYIN.

Mauch and Dixon 2014, as librosa has it, every 32 ms from A0 to C8, in steps of 10 cents.
"""

import math
from typing import NamedTuple

import librosa
import numpy as np
from jaxtyping import Bool, Float
from torch import Tensor

from wavenet_ae.audio import SAMPLE_RATE

LOWEST, HIGHEST = 21, 108  # MIDI: NSynth's notes
HOP = 512
_WINDOW = 2048  # two periods of A0, nearly
_SHORTEST = 2 * _WINDOW


class Track(NamedTuple):
    """The pitch in each frame, in cents above MIDI pitch 0, and whether there is one; without one it is a guess."""

    cents: Float[np.ndarray, " frames"]
    voiced: Bool[np.ndarray, " frames"]


def track(wave: Float[Tensor, " samples"]) -> Track:
    """The pitch of a sound over time: a frame every 32 ms, the last centred on its end or up to 32 ms before.

    Raises:
        ValueError: there are no samples.
    """
    if not wave.numel():
        raise ValueError("0 samples have no pitch: expected at least one")
    samples = wave.detach().cpu().double().numpy()
    frames = 1 + len(samples) // HOP
    if not samples.any():
        return Track(np.full(frames, np.nan), np.zeros(frames, dtype=bool))
    hz, voiced, _ = librosa.pyin(
        np.pad(samples, (0, max(0, _SHORTEST - len(samples)))),
        fmin=float(librosa.midi_to_hz(LOWEST)),
        fmax=float(librosa.midi_to_hz(HIGHEST)),
        sr=SAMPLE_RATE,
        frame_length=_WINDOW,
        hop_length=HOP,
    )
    return Track(100 * librosa.hz_to_midi(hz[:frames]), voiced[:frames])


def cents(original: Track, made: Track) -> float:
    """The median distance over the frames in which both have a pitch; NaN if there is none."""
    both = original.voiced & made.voiced
    return float(np.median(np.abs(original.cents - made.cents)[both])) if both.any() else math.nan


def voicing(original: Track, made: Track) -> float:
    """The share of frames in which both have a pitch or neither has."""
    return float((original.voiced == made.voiced).mean())

"""A small convolutional network that hears pitch, family and source of a note: an ear to measure other models by."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from wavenet_ae import notes, spectra
from wavenet_ae.models.autoencoder import PITCHES

_RANGE_DB = 80.0  # below a sound's own peak; what is weaker is silence


class Answers(NamedTuple):
    """Logits of each pitch, of each of NSynth's families and of each of its sources."""

    pitch: Float[Tensor, "batch 128"]
    family: Float[Tensor, "batch families"]
    source: Float[Tensor, "batch sources"]


class Classifier(nn.Module):
    """Log-mel spectrogram, convolutions of stride 2, a mean over time weighted by level, a linear head each.

    Levels are relative to the sound's own peak, so loudness does not count; nor do silent stretches.
    """

    def __init__(self, *, bands: int, n_fft: int, hop: int, widths: Sequence[int], features: int):
        super().__init__()
        if not widths or bands % 2 ** len(widths):
            raise ValueError(f"{bands} bands cannot be halved {len(widths)} times: expected a multiple, and one width")
        self.bands, self.n_fft, self.hop = bands, n_fft, hop
        inputs = [1, *widths[:-1]]
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(i, o, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(o), nn.ReLU())
            for i, o in zip(inputs, widths, strict=True)
        )
        self.mix = nn.Linear(widths[-1] * (bands >> len(widths)), features)
        self.pitch = nn.Linear(features, PITCHES)
        self.family = nn.Linear(features, len(notes.FAMILIES))
        self.source = nn.Linear(features, len(notes.SOURCES))

    def level(self, wave: Float[Tensor, "batch samples"]) -> Float[Tensor, "batch bands frames"]:
        """What is heard: 1 is the sound's loudest point, 0 lies 80 dB below it or deeper; silence is 0."""
        mel = spectra.mel(wave, bands=self.bands, n_fft=self.n_fft, hop=self.hop)
        return spectra.log_magnitude(mel, range_db=_RANGE_DB)[0]

    def features(self, wave: Float[Tensor, "batch samples"]) -> Float[Tensor, "batch features"]:
        """A sound of any length as a few numbers, all 0 or more; their distances are timbre's and pitch's."""
        level = self.level(wave)
        x = level.unsqueeze(1)
        for block in self.blocks:
            x = block(x)
        x = self.mix(x.flatten(1, 2).mT).relu()
        loudness = F.adaptive_avg_pool1d(level.mean(dim=1, keepdim=True), x.shape[1]).mT + 1e-6
        return (x * loudness).sum(dim=1) / loudness.sum(dim=1)

    def forward(self, wave: Float[Tensor, "batch samples"]) -> Answers:
        """What is heard of each sound, as logits."""
        heard = self.features(wave)
        return Answers(self.pitch(heard), self.family(heard), self.source(heard))


def labels(pitch: Tensor, names: Sequence[str]) -> Answers:
    """The class of each note by its NSynth name, -1 where it has none: pitch 0, or a family that is not NSynth's."""
    kinds = [notes.parse(name).instrument.rsplit("_", 2) for name in names]
    family = [notes.FAMILIES.index(f) if f in notes.FAMILIES else -1 for f, *_ in kinds]
    source = [notes.SOURCES.index(s) if s in notes.SOURCES else -1 for _, s, _ in kinds]
    there = torch.where(pitch > 0, pitch, -1)
    return Answers(there, *(torch.tensor(each, device=pitch.device) for each in (family, source)))

"""What the classifier minimises: the cost of not knowing a note's pitch, family and source."""

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from wavenet_ae import notes
from wavenet_ae.models.autoencoder import PITCHES
from wavenet_ae.models.classifier import Answers, Classifier, labels
from wavenet_ae.notes import Batch
from wavenet_ae.sampler import dice
from wavenet_ae.training.descent import Descent

SEMITONES = 6  # up or down, how far crops are transposed while learning: corpora leave pitches out
NOISE_DB = -60.0, 0.0  # beside a crop's own level: what models make is noisier than recordings


class Recognition(Descent[Classifier]):
    """Name each note's pitch, family and source. Measured in nats a note: the sum of the three cross-entropies.

    While learning, the crops of a step are transposed together by up to half an octave, and each hears white noise
    beside itself, from inaudible to as loud as itself: functions of seed and step.
    """

    unit, per, digits = "nats", "nats a note", ".3f"
    knowing_nothing = math.log(PITCHES * len(notes.FAMILIES) * len(notes.SOURCES))
    exploded = 100 * knowing_nothing

    def __init__(self, *args: Any, seed: int, **options: Any):
        super().__init__(*args, **options)
        self.seed = seed

    def _cost(self, model: Classifier, batch: Batch, step: int | None) -> tuple[Tensor, Mapping[str, Tensor]]:
        semitones = 0 if step is None else self._semitones(step)
        wave = transposed(batch.wave.to(self.device, non_blocking=True), semitones)
        if step is not None:
            wave = wave + self._noise(step, wave)
        truth = labels(batch.pitch.to(self.device), batch.names)
        pitch = torch.where(truth.pitch > 0, (truth.pitch + semitones).clamp(1, PITCHES - 1), -1)
        said, truth = model(wave), truth._replace(pitch=pitch)
        costs = [F.cross_entropy(s, t, ignore_index=-1, reduction="sum") for s, t in zip(said, truth, strict=True)]
        counts = [(t >= 0).sum().clamp(min=1) for t in truth]
        nats = torch.stack([cost / count for cost, count in zip(costs, counts, strict=True)]).sum()
        right = [(s.argmax(dim=-1) == t).sum() / n for s, t, n in zip(said, truth, counts, strict=True)]
        return nats, {"nats": nats} | dict(zip(Answers._fields, right, strict=True))

    def _noise(self, step: int, wave: Float[Tensor, "batch samples"]) -> Float[Tensor, "batch samples"]:
        low, high = NOISE_DB
        gain = 10 ** ((low + (high - low) * dice.throw(self.seed, step, 1, len(wave))) / 20)
        noise = dice.normal(self.seed, step, 1 + len(wave), wave.numel()).view(wave.shape)
        return (gain[:, None] * noise).to(wave) * wave.square().mean(dim=1, keepdim=True).sqrt()

    def _semitones(self, step: int) -> int:
        return math.floor(float(dice.throw(self.seed, step, 0, 1)) * (2 * SEMITONES + 1)) - SEMITONES


def transposed(wave: Float[Tensor, "batch samples"], semitones: int) -> Float[Tensor, "batch transposed"]:
    """The sounds played faster (and so higher) or slower, by linear interpolation: rough, but enough to learn from."""
    if semitones == 0:
        return wave
    return F.interpolate(wave.unsqueeze(1), scale_factor=2 ** (-semitones / 12), mode="linear").squeeze(1)

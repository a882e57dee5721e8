"""What is minimised: of the WaveNet autoencoder the cost of a code, of the spectral one the error of a spectrogram."""

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from wavenet_ae import mulaw
from wavenet_ae.audio import SAMPLE_RATE
from wavenet_ae.models.spectral import Reading, SpectralAutoencoder
from wavenet_ae.models.wavenet import WaveNetAutoencoder
from wavenet_ae.notes import Batch
from wavenet_ae.sampler import dice
from wavenet_ae.training.descent import Descent

UNKNOWN_PITCH = 0  # of a note whose pitch nobody knows
LOW_WEIGHT, EVEN_FROM = 10.0, 4000.0  # what an error at 0 Hz costs, and from where in Hz all cost 1


class Likelihood(Descent[WaveNetAutoencoder]):
    """Make the next code likely (section 2.1 of Engel et al. 2017). Measured in nats per sample.

    `skip` leaves the first samples of each crop out of the loss: they see zero padding, not sound. `restart` does the
    reverse: every other crop of a step has the decoder begin anew every so many samples. A decoder that hears a
    note goes on with it, and asks its embedding for the pitch only where it begins. Of a model that reads the
    pitch off its embedding, reading it wrong costs `pitch_weight` for each nat; a note of unknown pitch costs nothing.
    """

    unit, per, digits = "nats", "nats a sample", ".3f"
    knowing_nothing = math.log(mulaw.CODES)
    # The attack of a note after crops of its silent tail may cost 40 for a step or two of a healthy training. What
    # diverges passes thousands within steps.
    exploded = 100 * knowing_nothing

    def __init__(self, *args: Any, skip: int, restart: int = 0, pitch_weight: float = 0.0, **options: Any):
        super().__init__(*args, **options)
        if pitch_weight < 0 or (pitch_weight and self.model.reader is None):
            raise ValueError(
                f"pitch_weight is {pitch_weight}: expected 0, or more of a model that reads the pitch "
                "(model.pitch_reading=true)"
            )
        self.skip, self.restart, self.pitch_weight = skip, restart, pitch_weight
        self.is_recordable = self.model.pitch is None  # pitches are looked at before they are looked up

    def _cost(self, model: WaveNetAutoencoder, batch: Batch, step: int | None) -> tuple[Tensor, Mapping[str, Tensor]]:
        code, pitch = mulaw.encode(batch.wave.to(self.device, non_blocking=True)), batch.pitch.to(self.device)
        narrow = self.autocast is not None  # without a cache, which a graph could not have
        with torch.autocast(self.device.type, dtype=self.autocast, enabled=narrow, cache_enabled=False):
            said = model(code, pitch, restart=0 if step is None else self.restart, read=self.pitch_weight > 0)
        logits, read = said if isinstance(said, tuple) else (said, None)
        nats = F.cross_entropy(logits[:, :, self.skip :].float(), code[:, self.skip :])
        if read is None:
            return nats, {"nats": nats}
        pitches = pitch[:, None].expand(-1, read.shape[-1])
        wrong = F.cross_entropy(read.float(), pitches, ignore_index=UNKNOWN_PITCH, reduction="none").mean()
        return nats + self.pitch_weight * wrong, {"nats": nats, "pitch_nats": wrong}


def check_crops(model: WaveNetAutoencoder, *, crop: int, skip: int, restart: int, at_once: int) -> None:
    """Refuse lengths that a WaveNet cannot learn from; `at_once` is the number of crops that pass together.

    Raises:
        ValueError: one does not fit; the message says what would.
    """
    hop = model.hop
    if crop < 1 or crop % hop:
        raise ValueError(f"crop is {crop}: expected a multiple of the model's hop, {hop}")
    if not 0 <= skip < crop:
        raise ValueError(f"skip is {skip}: expected at least 0 and less than the crop, {crop}")
    if restart and (restart < 0 or restart % hop or crop % restart or skip or at_once % 2):
        raise ValueError(
            f"restart is {restart}: expected 0, or a multiple of the model's hop, {hop}, that divides the crop, "
            f"{crop}, with skip=0 and an even number of crops at a time (here {at_once})"
        )


class Reconstruction(Descent[SpectralAutoencoder]):
    """Make the spectrogram come back (section 3 of Engel et al. 2017). Measured as its weighted squared error.

    Levels run from 0 to 1 over 120 dB. A variational model pays `kl_weight` beside for each nat by which its Gaussians
    differ from the prior (Higgins et al. 2017, beta-VAE); its noise is a function of the seed and the step.
    """

    unit, per, digits = "error", "of weighted squared error", ".5f"
    knowing_nothing = 0.81  # at most: a level of one half everywhere errs by a quarter, at a mean weight of 3.25
    exploded = 1e4

    def __init__(self, *args: Any, kl_weight: float, seed: int, **options: Any):
        super().__init__(*args, **options)
        if kl_weight < 0:
            raise ValueError(f"kl_weight is {kl_weight}: expected 0 or more")
        self.kl_weight, self.seed = kl_weight, seed

    def _cost(self, model: SpectralAutoencoder, batch: Batch, step: int | None) -> tuple[Tensor, Mapping[str, Tensor]]:
        wave = batch.wave.to(self.device, non_blocking=True)
        noise = None if step is None else self._noise(model, wave, step)
        with torch.autocast(self.device.type, dtype=self.autocast, enabled=self.autocast is not None):
            reading = model(wave, batch.pitch.to(self.device), noise)
        error = spectral_error(reading)
        if reading.log_variance is None:
            return error, {"error": error}
        nats = divergence(reading.mean.float(), reading.log_variance.float())
        return error + self.kl_weight * nats, {"error": error, "kl_nats": nats}

    def _noise(self, model: SpectralAutoencoder, wave: Tensor, step: int) -> Float[Tensor, "pieces latent"] | None:
        if model.encoder.log_variance is None:
            return None
        shape = (len(wave) * -(-wave.shape[-1] // model.hop), model.embedding_dims - 1)
        return dice.normal(self.seed, step, 0, math.prod(shape)).reshape(shape).to(wave)


def spectral_error(reading: Reading) -> Float[Tensor, ""]:
    """The mean squared error of levels, of low frequencies above all; piecewise linear, as the original."""
    bins = reading.level.shape[-2]
    even = math.ceil(EVEN_FROM * 2 * bins / SAMPLE_RATE)  # the first bin from there on
    falling = torch.linspace(LOW_WEIGHT, 1, even, device=reading.level.device)
    weight = F.pad(falling, (0, bins - even), value=1.0)
    return (weight[:, None] * (reading.level - reading.again.float()).square()).mean()


def divergence(mean: Float[Tensor, "pieces latent"], log_variance: Float[Tensor, "pieces latent"]) -> Float[Tensor, ""]:
    """Nats a piece from the Gaussians to the standard one (Kingma and Welling 2014, appendix B)."""
    return (mean.square() + log_variance.exp() - 1 - log_variance).sum(dim=1).mean() / 2

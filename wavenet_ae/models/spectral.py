"""The baseline spectral autoencoder, top to bottom as in section 3 of Engel et al. 2017 (Magenta's `nfft_1024`).

A note's log-magnitude spectrogram, [batch, 1, bins, frames], is halved in both directions until one column is left, and
grown again from it. Layers follow TensorFlow's 'SAME' padding, which is asymmetric where a kernel and its stride differ
by an odd number.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from wavenet_ae import spectra
from wavenet_ae.models.autoencoder import PITCHES, Autoencoder

PITCH_WIDTH = 128
_LEAK = 0.1
_LOUD = 0.4  # the amplitude of the sine that a prior's sounds are as loud as


class BatchNorm(nn.Module):
    """Batch normalisation with an offset but no scale, by the batch in training, by running statistics after it."""

    def __init__(self, channels: int, *, momentum: float):
        super().__init__()
        self.momentum = momentum
        self.offset = nn.Parameter(torch.zeros(channels))
        self.mean: Tensor
        self.variance: Tensor
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("variance", torch.ones(channels))

    def forward(self, x: Float[Tensor, "batch channels *shape"]) -> Float[Tensor, "batch channels *shape"]:
        """Each channel with mean 0 and variance 1, plus its offset."""
        statistics = {"running_mean": self.mean, "running_var": self.variance}
        return F.batch_norm(x, **statistics, bias=self.offset, training=self.training, momentum=self.momentum, eps=1e-3)


class Shrink(nn.Module):
    """A strided convolution and its normalisation: [bins, frames] become [bins / stride, frames / stride]."""

    def __init__(self, inputs: int, outputs: int, *, kernel: int, stride: tuple[int, int], momentum: float):
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, bias=False)
        self.norm = BatchNorm(outputs, momentum=momentum)
        self.margins = [side for each in reversed(stride) for side in same_padding(kernel, each)]

    def forward(self, x: Float[Tensor, "batch inputs bins frames"]) -> Float[Tensor, "batch outputs less fewer"]:
        """Without the nonlinearity."""
        return self.norm(self.conv(F.pad(x, self.margins)))


class Grow(nn.Module):
    """A transposed convolution and its normalisation: [bins, frames] become [bins * stride, frames * stride]."""

    def __init__(self, inputs: int, outputs: int, *, kernel: int, stride: tuple[int, int], momentum: float):
        super().__init__()
        self.conv = nn.ConvTranspose2d(inputs, outputs, kernel, stride, bias=False)
        self.norm = BatchNorm(outputs, momentum=momentum)
        (self.above, _), (self.left, _) = (same_padding(kernel, each) for each in stride)

    def forward(self, x: Float[Tensor, "batch inputs bins frames"]) -> Float[Tensor, "batch outputs more further"]:
        """Without the nonlinearity."""
        bins, frames = (size * stride for size, stride in zip(x.shape[-2:], self.conv.stride, strict=True))
        whole = self.conv(x)[..., self.above : self.above + bins, self.left : self.left + frames]
        return self.norm(whole)


class Encoder(nn.Module):
    """A spectrogram as a column of `latent` numbers, or as a Gaussian over such columns."""

    def __init__(self, *, channels: Sequence[int], latent: int, variational: bool, momentum: float):
        super().__init__()
        *halving, last = channels
        inputs = [1, *halving]
        self.layers = nn.ModuleList(
            Shrink(inputs[i], halving[i], kernel=kernel, stride=stride, momentum=momentum)
            for i, (kernel, stride) in enumerate(_shrinking(len(halving)))
        )
        self.layers.append(Shrink(halving[-1], last, kernel=1, stride=(1, 1), momentum=momentum))
        self.mean = (
            nn.Conv2d(last, latent, 1)
            if variational  # a normalised mean could not come near the prior's
            else Shrink(last, latent, kernel=1, stride=(1, 1), momentum=momentum)
        )
        self.log_variance = nn.Conv2d(last, latent, 1) if variational else None

    def forward(
        self, level: Float[Tensor, "batch bins frames"]
    ) -> tuple[Float[Tensor, "batch latent"], Float[Tensor, "batch latent"] | None]:
        """The latent's mean and, of a variational encoder, the logarithm of its variance."""
        x = level.unsqueeze(1)
        for layer in self.layers:
            x = F.leaky_relu(layer(x), _LEAK)
        log_variance = None if self.log_variance is None else self.log_variance(x).flatten(1)
        return self.mean(x).flatten(1), log_variance


class Decoder(nn.Module):
    """What it reads, [latent, level, pitch vector] in each column, as a spectrogram of `frames` frames a column."""

    def __init__(self, *, channels: Sequence[int], latent: int, told: int, momentum: float):
        super().__init__()
        self.latent = latent
        self.n_fft = 2 ** len(channels)
        self.frames = self.n_fft // 4  # made of one column
        self.hop = self.frames * (self.n_fft // 4)  # samples a column
        outputs = [channels[-1], *reversed(channels[:-2]), channels[0]]
        self.layers = nn.ModuleList([Grow(latent + told, outputs[0], kernel=1, stride=(1, 1), momentum=momentum)])
        self.layers.extend(
            Grow(outputs[i], outputs[i + 1], kernel=kernel, stride=stride, momentum=momentum)
            for i, (kernel, stride) in enumerate(_growing(len(channels) - 1))
        )
        self.out = nn.Conv2d(outputs[-1], 1, 1)

    def forward(self, read: Float[Tensor, "batch read columns"]) -> Float[Tensor, "batch columns bins frames"]:
        """Levels from 0 to 1 relative to each column's peak, as `spectra.log_magnitude` gives them, without Nyquist."""
        columns = read.shape[-1]
        flat = read.transpose(1, 2).flatten(0, 1)
        x = torch.cat([flat[:, : self.latent], flat[:, self.latent + 1 :]], dim=1)[..., None, None]
        for layer in self.layers:
            x = F.leaky_relu(layer(x), _LEAK)
        return self.out(x).sigmoid().squeeze(1).unflatten(0, (-1, columns))

    def magnitude(self, read: Float[Tensor, "batch read columns"]) -> Float[Tensor, "batch bins_nyquist all_frames"]:
        """The magnitudes of whole sounds, at the level that is read too; ready for `spectra.griffin_lim`."""
        linear = spectra.linear_magnitude(self(read), _peak(read[:, self.latent]))
        return F.pad(linear, (0, 0, 0, 1)).transpose(1, 2).flatten(2)


class Reading(NamedTuple):
    """What the model saw, what it made of it, and, of a variational one, the Gaussian it passed through."""

    level: Float[Tensor, "batch columns bins frames"]
    again: Float[Tensor, "batch columns bins frames"]
    mean: Float[Tensor, "pieces latent"]
    log_variance: Float[Tensor, "pieces latent"] | None


class SpectralAutoencoder(Autoencoder):
    """The baseline: one column of an embedding for 256 frames of spectrogram, 4.096 s of sound; 64,000 samples are one.

    The original normalises each note by its own peak and forgets it; here the peak is the embedding's last number,
    on the scale of the spectrogram: 0 is silence, 1 a magnitude of 1, each 1/120 more a decibel. A longer sound is
    a row of pieces, each with its own column.

    Args:
        channels: of each layer of the encoder; n of them make an n_fft of 2 ** n, hop n_fft / 4, as each but the last
            halves the bins.
        latent: numbers of a column but the level.
        pitch_conditioning: the decoder is told the pitch, as published.
        variational: the encoder gives a Gaussian instead of a column (Kingma and Welling 2014).
        momentum: of the running statistics of batch normalisation. NSynth's 0.001 needs thousands of steps.
    """

    decoder: Decoder

    def __init__(
        self, *, channels: Sequence[int], latent: int, pitch_conditioning: bool, variational: bool, momentum: float
    ):
        super().__init__()
        if len(channels) < 4 or min(*channels, latent) < 1 or not 0 < momentum <= 1:
            raise ValueError(
                f"channels are {list(channels)}, latent {latent} and momentum {momentum}: expected at least four "
                "layers, each of one channel or more, a latent of one or more, and a momentum above 0, at most 1"
            )
        told = PITCH_WIDTH if pitch_conditioning else 0
        self.encoder = Encoder(channels=channels, latent=latent, variational=variational, momentum=momentum)
        self.decoder = Decoder(channels=channels, latent=latent, told=told, momentum=momentum)
        self.pitch = nn.Embedding(PITCHES, PITCH_WIDTH) if pitch_conditioning else None
        self.hop, self.embedding_dims = self.decoder.hop, latent + 1
        self._initialise()

    @property
    def context(self) -> int:
        """Half a window: pieces are apart but for the spectrum."""
        return self.decoder.n_fft // 2

    def spectrogram(
        self, wave: Float[Tensor, "batch samples"]
    ) -> tuple[Float[Tensor, "batch columns bins frames"], Float[Tensor, "batch columns"]]:
        """Levels relative to the peak of each piece, without the bin of Nyquist, and the peaks as levels."""
        columns, n_fft = -(-wave.shape[-1] // self.hop), self.decoder.n_fft
        magnitude = spectra.stft(wave, n_fft=n_fft, hop=n_fft // 4).abs()
        missing = columns * self.decoder.frames - magnitude.shape[-1]  # -1 where the last frame begins a next piece
        pieces = F.pad(magnitude, (0, missing)).unflatten(-1, (columns, -1)).transpose(1, 2)
        level, peak = spectra.log_magnitude(pieces)
        return level[..., :-1, :], _loudness(peak)

    def embed(self, wave: Float[Tensor, "batch samples"]) -> Float[Tensor, "batch dims columns"]:
        """The latent (of a variational model its mean), and beneath it the level."""
        level, peak = self.spectrogram(wave)
        mean, _ = self.encoder(level.flatten(0, 1))
        return torch.cat([mean.unflatten(0, (len(wave), -1)).mT, peak.unsqueeze(1)], dim=1)

    def condition(
        self, embedding: Float[Tensor, "batch dims columns"], pitch: Int[Tensor, " batch"] | None
    ) -> Float[Tensor, "batch read columns"]:
        """The embedding, and beneath it the pitch's vector if the model is told the pitch."""
        vectors = self.pitch_vectors(pitch)
        if vectors is None:
            return embedding
        return torch.cat([embedding, vectors.expand(-1, -1, embedding.shape[-1])], dim=1)

    def prior(self, noise: Float[Tensor, "batch latent columns"]) -> Float[Tensor, "batch dims columns"]:
        """Embeddings of sounds that never were, from standard normal noise.

        Raises:
            ValueError: the model is not variational, so that nothing is known of where its latents lie.
        """
        if self.encoder.log_variance is None:
            raise ValueError("this model has no prior to sample from: train one with model.variational=true")
        peak = torch.full_like(noise[:, :1], _LOUD * self.decoder.n_fft / 4)  # a Hann window adds up to n_fft / 2
        return torch.cat([noise, _loudness(peak)], dim=1)

    def forward(
        self,
        wave: Float[Tensor, "batch samples"],
        pitch: Int[Tensor, " batch"] | None = None,
        noise: Float[Tensor, "pieces latent"] | None = None,
    ) -> Reading:
        """Through the latent and back; `noise`, standard normal, draws from a variational encoder's Gaussian."""
        level, peak = self.spectrogram(wave)
        mean, log_variance = self.encoder(level.flatten(0, 1))
        drawn = mean if log_variance is None or noise is None else mean + noise * (log_variance / 2).exp()
        embedding = torch.cat([drawn.unflatten(0, (len(wave), -1)).mT, peak.unsqueeze(1)], dim=1)
        return Reading(level, self.decoder(self.condition(embedding, pitch)), mean, log_variance)

    def _initialise(self) -> None:
        """As the original: Glorot's uniform weights, no offsets, standard normal vectors of pitch."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)


def same_padding(kernel: int, stride: int) -> tuple[int, int]:
    """TensorFlow's 'SAME' margins before and after, where the stride divides the length: the odd one is after."""
    total = max(kernel - stride, 0)
    return total // 2, total - total // 2


def _shrinking(layers: int) -> Iterable[tuple[int, tuple[int, int]]]:
    """Kernel and stride of each layer that halves: the last leaves time as it is."""
    return ((5 if i == 0 else 4, (2, 1 if i == layers - 1 else 2)) for i in range(layers))


def _growing(layers: int) -> Iterable[tuple[int, tuple[int, int]]]:
    """Kernel and stride of each layer that doubles: the last leaves time as it is."""
    return ((5 if i >= layers - 2 else 4, (2, 1 if i == layers - 1 else 2)) for i in range(layers))


def _loudness(peak: Float[Tensor, "*any"]) -> Float[Tensor, "*any"]:
    """The level of a magnitude: 0 for silence, 1 for 1, each 1/120 more a decibel."""
    return 1 + spectra.decibels(peak, least=spectra.SILENT) / spectra.RANGE_DB


def _peak(level: Float[Tensor, "*any"]) -> Float[Tensor, "*any"]:
    """The magnitude of a level of loudness; silence for 0 and below."""
    return torch.where(level > 0, 10 ** ((level - 1) * (spectra.RANGE_DB / 20)), 0)

"""The WaveNet autoencoder, top to bottom as in figure 1b of Engel et al. 2017 (NSynth).

Tensors are [batch, channels, time]. One embedding frame covers `hop` samples. Both halves read mu-law
levels, (code - 128) / 128, not linear audio, as the original does.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from wavenet_ae import mulaw
from wavenet_ae.models.autoencoder import PITCHES, Autoencoder


class Conv1d(nn.Conv1d):
    """A dilated convolution that keeps the length: as many zeros stand before the sound as after it.

    Speed: computed as one matrix product over all taps, on copies of the input moved by their delays.
    """

    def delays(self) -> list[int]:
        """By how many steps each tap looks back; a negative delay looks ahead."""
        return [self.dilation[0] * (self.kernel_size[0] // 2 - tap) for tap in range(self.kernel_size[0])]

    def product(self, x: Float[Tensor, "batch inputs time"]) -> Float[Tensor, "batch outputs time"]:
        """The convolution before its bias is added."""
        return torch.bmm(_matrix(self, x), self._taps(x))

    def forward(self, x: Float[Tensor, "batch inputs time"]) -> Float[Tensor, "batch outputs time"]:
        """Same length out as in."""
        assert self.bias is not None, "ours all have one"
        return torch.baddbmm(self.bias.unsqueeze(-1), _matrix(self, x), self._taps(x))

    def _taps(self, x: Tensor) -> Tensor:
        if self.kernel_size[0] == 1:
            return x
        time = x.shape[-1]  # a tap that reaches further than all there is reads zeros only
        delays = (max(-time, min(delay, time)) for delay in self.delays())
        return torch.cat([F.pad(x, (delay, -delay)) if delay else x for delay in delays], dim=1)


class CausalConv1d(Conv1d):
    """A dilated convolution that reads the present and the past, never the future.

    The missing past is zeros, in every layer, as in the original.
    """

    @property
    def past(self) -> int:
        """How many earlier steps the filter reaches."""
        return (self.kernel_size[0] - 1) * self.dilation[0]

    def delays(self) -> list[int]:
        """By how many steps each tap looks back; the last reads the present."""
        return [self.dilation[0] * tap for tap in reversed(range(self.kernel_size[0]))]


class EncoderBlock(nn.Module):
    """ReLU, dilated convolution over past and future, ReLU, 1x1 convolution, added to the input."""

    def __init__(self, *, width: int, kernel_size: int, dilation: int):
        super().__init__()
        self.dilated = Conv1d(width, width, kernel_size, dilation=dilation)
        self.residual = Conv1d(width, width, 1)

    def forward(self, x: Float[Tensor, "batch width samples"]) -> Float[Tensor, "batch width samples"]:
        """The input plus what the block learned."""
        return add_product(x, self.residual, self.dilated(x.relu()).relu())


class Encoder(nn.Module):
    """A sound as `embedding_dims` numbers every `hop` samples (section 2.1 of the paper)."""

    blocks: Sequence[EncoderBlock]  # an nn.ModuleList, which forgets what it holds

    def __init__(self, *, layers: int, stages: int, width: int, kernel_size: int, embedding_dims: int, hop: int):
        super().__init__()
        _check_sizes(
            layers=layers, stages=stages, width=width, kernel_size=kernel_size, embedding_dims=embedding_dims, hop=hop
        )
        if kernel_size % 2 == 0:
            raise ValueError(f"the encoder's kernel_size is {kernel_size}: expected an odd number (it has a centre)")
        self.hop, self.embedding_dims = hop, embedding_dims
        self.start = Conv1d(1, width, kernel_size)
        self.blocks = nn.ModuleList(  # type: ignore[assignment]
            EncoderBlock(width=width, kernel_size=kernel_size, dilation=2 ** (layer % stages))
            for layer in range(layers)
        )
        self.bottleneck = Conv1d(width, embedding_dims, 1)

    @property
    def context(self) -> int:
        """How many samples either side of one change its features (3,070 for NSynth: 6,141 in all)."""
        convs = [self.start, *(block.dilated for block in self.blocks)]
        return sum(conv.dilation[0] * (conv.kernel_size[0] - 1) // 2 for conv in convs)

    def forward(self, code: Int[Tensor, "batch samples"]) -> Float[Tensor, "batch dims frames"]:
        """The mean of each hop's features; `samples` must be a multiple of the hop.

        Raises:
            ValueError: it is not.
        """
        samples = code.shape[-1]
        if samples % self.hop or not samples:
            raise ValueError(f"{samples} samples are not whole frames of {self.hop}: pad to a multiple of the hop")
        x = self.start(mulaw.level(code, self.start.weight.dtype).unsqueeze(1))
        return F.avg_pool1d(self.bottleneck(self.through(x)), self.hop)

    def through(self, x: Float[Tensor, "batch width samples"]) -> Float[Tensor, "batch width samples"]:
        """All blocks, one after another."""
        for block in self.blocks:
            x = block(x)
        return x


class DecoderBlock(nn.Module):
    """A gated dilated convolution, told the embedding, with a residual and a skip output."""

    def __init__(self, *, width: int, skip_width: int, kernel_size: int, dilation: int, embedding_dims: int):
        super().__init__()
        self.dilated = CausalConv1d(width, 2 * width, kernel_size, dilation=dilation)
        self.condition = Conv1d(embedding_dims, 2 * width, 1)
        self.residual = Conv1d(width, width, 1)
        self.skip = Conv1d(width, skip_width, 1)  # the decoder computes those of all blocks at once

    def forward(
        self, x: Float[Tensor, "batch width samples"], embedding: Float[Tensor, "batch dims frames"]
    ) -> tuple[Float[Tensor, "batch width samples"], Float[Tensor, "batch width samples"]]:
        """The block's input plus what it learned, and the gated features that its skip output is made of."""
        assert self.dilated.bias is not None
        condition = self.condition(embedding) + self.dilated.bias.unsqueeze(-1)
        sigmoid, tanh = add_held(self.dilated.product(x), condition).chunk(2, dim=1)
        gated = sigmoid.sigmoid() * tanh.tanh()
        return add_product(x, self.residual, gated), gated


class Decoder(nn.Module):
    """Predicts every sample from the samples before it and the embedding above it (section 2.1)."""

    blocks: Sequence[DecoderBlock]

    def __init__(
        self,
        *,
        layers: int,
        stages: int,
        width: int,
        skip_width: int,
        kernel_size: int,
        embedding_dims: int,
        hop: int,
    ):
        super().__init__()
        _check_sizes(layers=layers, stages=stages, width=width, skip_width=skip_width)
        _check_sizes(kernel_size=kernel_size, embedding_dims=embedding_dims, hop=hop)
        self.hop, self.embedding_dims = hop, embedding_dims
        self.start = CausalConv1d(1, width, kernel_size)
        self.start_skip = Conv1d(width, skip_width, 1)
        self.blocks = nn.ModuleList(  # type: ignore[assignment]
            DecoderBlock(
                width=width,
                skip_width=skip_width,
                kernel_size=kernel_size,
                dilation=2 ** (layer % stages),
                embedding_dims=embedding_dims,
            )
            for layer in range(layers)
        )
        self.out = Conv1d(skip_width, skip_width, 1)
        self.out_condition = Conv1d(embedding_dims, skip_width, 1)
        self.logits = Conv1d(skip_width, mulaw.CODES, 1)

    @property
    def receptive_field(self) -> int:
        """How many earlier samples can change a prediction (6,141 for NSynth's decoder)."""
        return 1 + self.start.past + sum(block.dilated.past for block in self.blocks)

    def forward(
        self, code: Int[Tensor, "batch samples"], embedding: Float[Tensor, "batch dims frames"]
    ) -> Float[Tensor, "batch 256 samples"]:
        """Logits: [b, q, t] scores code q at time t, having read code[b, :t] and frame t // hop.

        Raises:
            ValueError: the lengths do not fit.
        """
        samples, frames = code.shape[-1], embedding.shape[-1]
        if samples != frames * self.hop:
            raise ValueError(
                f"{samples} samples do not match {frames} embedding frames of hop {self.hop}: "
                f"expected {frames * self.hop} samples (crop or pad the audio to a multiple of the hop)"
            )
        heard = F.pad(code, (1, 0), value=mulaw.SILENCE)[:, :-1]
        x = self.start(mulaw.level(heard, self.start.weight.dtype).unsqueeze(1))
        said = self.through(x, embedding)
        said = add_held(self.out(said.relu()), self.out_condition(embedding))
        return self.logits(said.relu())

    def through(
        self, x: Float[Tensor, "batch width samples"], embedding: Float[Tensor, "batch dims frames"]
    ) -> Float[Tensor, "batch skip samples"]:
        """All blocks, one after another: the sum of what they and the start say to the output."""
        heard_by_skips = [x]
        for block in self.blocks:
            x, gated = block(x, embedding)
            heard_by_skips.append(gated)
        return sum_of([self.start_skip, *(block.skip for block in self.blocks)], heard_by_skips)


class WaveNetAutoencoder(Autoencoder):
    """Encoder and decoder, trained together to make the next sample likely.

    With `pitch_conditioning`, a learned vector for each MIDI pitch is added to every frame the decoder
    reads, so that the embedding need not carry the pitch (section 4.2.2 of the paper). With `pitch_reading`, a
    linear layer reads the pitch off every frame, so that training can ask of the embedding that it carries it.
    """

    encoder: Encoder
    decoder: Decoder

    def __init__(self, *, encoder: Encoder, decoder: Decoder, pitch_conditioning: bool, pitch_reading: bool = False):
        super().__init__()
        for name in ("hop", "embedding_dims"):
            ours, theirs = getattr(encoder, name), getattr(decoder, name)
            if ours != theirs:
                raise ValueError(f"encoder and decoder disagree on {name}: {ours} and {theirs}; make them equal")
        self.hop, self.embedding_dims = encoder.hop, encoder.embedding_dims
        self.encoder = encoder
        self.decoder = decoder
        self.pitch = nn.Embedding(PITCHES, encoder.embedding_dims) if pitch_conditioning else None
        self.reader = nn.Conv1d(encoder.embedding_dims, PITCHES, 1) if pitch_reading else None

    @property
    def context(self) -> int:
        """What the encoder sees either side of a sample."""
        return self.encoder.context

    def embed(self, wave: Float[Tensor, "batch samples"]) -> Float[Tensor, "batch dims frames"]:
        """Embeddings of waves of one length, padded with silence to whole frames."""
        code = mulaw.encode(wave)
        return self.encoder(F.pad(code, (0, -code.shape[-1] % self.hop), value=mulaw.SILENCE))

    def condition(
        self, embedding: Float[Tensor, "batch dims frames"], pitch: Int[Tensor, " batch"] | None
    ) -> Float[Tensor, "batch dims frames"]:
        """What the decoder reads: the embedding, with the pitch's vector added if the model was trained so.

        Raises:
            ValueError: the model is conditioned on pitch and none, or one outside 0 to 127, was given.
        """
        vectors = self.pitch_vectors(pitch)
        return embedding if vectors is None else embedding + vectors

    def forward(
        self,
        code: Int[Tensor, "batch samples"],
        pitch: Int[Tensor, " batch"] | None = None,
        restart: int = 0,
        *,
        read: bool = False,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Logits [batch, 256, samples] of every sample given the ones before it and the whole sound's embedding.

        With `restart`, a multiple of the hop, the decoder begins anew every so many samples of every other sound, from
        the first of an even number: what it heard before tells it nothing there, and the embedding has to. With `read`
        a model that reads the pitch returns beside it the logits of every frame's, [batch, 128, frames].

        Raises:
            ValueError: lengths that do not fit, or an odd number of sounds of which every other is to begin anew.
        """
        if restart and len(code) % 2:
            raise ValueError(f"{len(code)} sounds, every other of which begins anew: expected an even number")
        embedding = self.encoder(code)
        told = self.condition(embedding, pitch)
        logits = self._anew(code, told, restart) if restart else self.decoder(code, told)
        return (logits, self.reader(embedding)) if read and self.reader else logits

    def _anew(self, code: Tensor, told: Tensor, restart: int) -> Float[Tensor, "batch 256 samples"]:
        pieces = _pieces(code[::2], restart), _pieces(told[::2], restart // self.hop)
        anew = self.decoder(*pieces).unflatten(0, (len(code) // 2, -1)).transpose(1, 2).flatten(2)
        return torch.stack([anew, self.decoder(code[1::2], told[1::2])], dim=1).flatten(0, 1)


def _pieces(x: Tensor, length: int) -> Tensor:
    """Pieces of `length` steps as a batch of their own, those of one sound side by side."""
    return x.unflatten(-1, (-1, length)).movedim(-2, 1).flatten(0, 1)


def add_held(
    x: Float[Tensor, "batch channels samples"], condition: Float[Tensor, "batch channels frames"]
) -> Float[Tensor, "batch channels samples"]:
    """Add to every sample the condition of its frame, held until the next."""
    frames = condition.shape[-1]
    return (x.unflatten(-1, (frames, -1)) + condition.to(x.dtype).unsqueeze(-1)).flatten(-2)


def add_product(
    x: Float[Tensor, "batch outputs samples"], conv: Conv1d, features: Float[Tensor, "batch inputs samples"]
) -> Float[Tensor, "batch outputs samples"]:
    """`x + conv(features)` for a 1x1 convolution. Speed: the product is added to x as it is computed."""
    assert conv.bias is not None
    total = torch.baddbmm(x, _matrix(conv, features), features)
    return total + conv.bias.to(total.dtype).unsqueeze(-1)  # in 16 bits a bias of 32 would widen everything


def sum_of(
    convs: Sequence[Conv1d], features: Sequence[Float[Tensor, "batch _ samples"]]
) -> Float[Tensor, "batch outputs samples"]:
    """The sum of 1x1 convolutions, each of its own features. Speed: one product over all of them side by side."""
    weight = torch.cat([conv.weight.squeeze(-1) for conv in convs], dim=1)
    bias = sum(conv.bias for conv in convs if conv.bias is not None)  # stacked, their gradients would share memory
    assert isinstance(bias, Tensor)
    together = torch.cat(list(features), dim=1)
    return torch.baddbmm(bias.unsqueeze(-1), weight.expand(len(together), -1, -1), together)


def _matrix(conv: nn.Conv1d, x: Tensor) -> Tensor:
    """A convolution's weight for each of x's batch, [batch, outputs, taps * inputs], the taps in order."""
    return conv.weight.mT.flatten(1).expand(len(x), -1, -1)


def _check_sizes(**sizes: int) -> None:
    wrong = [f"{name} is {size}" for name, size in sizes.items() if size < 1]
    if wrong:
        raise ValueError(f"{', '.join(wrong)}: expected at least 1")

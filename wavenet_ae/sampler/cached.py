"""The readable fast path: each layer remembers its own past, so a sample costs one pass over the weights."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from wavenet_ae import mulaw
from wavenet_ae.models.wavenet import CausalConv1d, Decoder
from wavenet_ae.sampler import check_shapes
from wavenet_ae.sampler.dice import draw


def unavailable(decoder: Decoder, precision: str) -> str | None:
    """Why this engine cannot run the decoder, or None if it can."""
    return None if precision == "fp32" else f"it computes in the decoder's own format, not {precision}"


class Voices:
    """One ring of past inputs for every causal convolution, beside a decoder that is left as it is."""

    def __init__(self, decoder: Decoder, batch: int, *, precision: str = "fp32", threads: int | None = None):
        self.decoder = decoder
        self.start = Past(decoder.start, batch)
        self.pasts = [Past(block.dilated, batch) for block in decoder.blocks]
        self.heard = torch.full((batch,), mulaw.SILENCE, device=decoder.start.weight.device)

    @torch.inference_mode()
    def generate(
        self,
        embedding: Float[Tensor, "batch dims frames"],
        uniform: Float[Tensor, "batch samples"],
        temperature: float = 1.0,
        top_p: float = 1.0,
    ) -> Int[Tensor, "batch samples"]:
        """The reference's codes, from one step of every layer per sample."""
        check_shapes(self.decoder, len(self.heard), embedding, uniform)
        home = "cpu" if embedding.device.type == "mps" else embedding.device  # Apple's has no float64 to draw in
        uniform = uniform.to(home)
        code = torch.empty_like(uniform, dtype=torch.long)
        conditions = self._conditions(embedding)
        for t in range(code.shape[-1]):
            logits = self._step(conditions, t // self.decoder.hop)
            code[:, t] = draw(logits.to(home), uniform[:, t], temperature, top_p)
            self.heard = code[:, t].to(embedding.device)
        return code

    @torch.inference_mode()
    def score(
        self, embedding: Float[Tensor, "batch dims frames"], code: Int[Tensor, "batch samples"]
    ) -> Float[Tensor, "batch 256 samples"]:
        """Log-probabilities, each step hearing the code it is given."""
        check_shapes(self.decoder, len(self.heard), embedding, code)
        conditions = self._conditions(embedding)
        scores = embedding.new_empty(len(code), mulaw.CODES, code.shape[-1])
        for t in range(code.shape[-1]):
            scores[:, :, t] = F.log_softmax(self._step(conditions, t // self.decoder.hop), dim=-1)
            self.heard = code[:, t]
        return scores

    def restart(self, voice: int) -> None:
        """Zeros in the rings are the zero padding the decoder begins with."""
        self.heard = self.heard.clone()  # it may be a column of codes already handed out
        self.heard[voice] = mulaw.SILENCE
        for past in (self.start, *self.pasts):
            past.ring[:, voice] = 0

    def _conditions(self, embedding: Tensor) -> list[Tensor]:
        """What each layer, and the output, adds in each frame: [batch, channels, frames]."""
        return [conv(embedding) for conv in (*(b.condition for b in self.decoder.blocks), self.decoder.out_condition)]

    def _step(self, conditions: list[Tensor], frame: int) -> Float[Tensor, "batch 256"]:
        decoder = self.decoder
        x = self.start.step(mulaw.level(self.heard, decoder.start.weight.dtype).unsqueeze(1))
        said = _at_once(decoder.start_skip, x)
        for block, past, condition in zip(decoder.blocks, self.pasts, conditions, strict=False):
            sigmoid, tanh = (past.step(x) + condition[:, :, frame]).chunk(2, dim=1)
            gated = sigmoid.sigmoid() * tanh.tanh()
            x, said = x + _at_once(block.residual, gated), said + _at_once(block.skip, gated)
        said = _at_once(decoder.out, said.relu()) + conditions[-1][:, :, frame]
        return _at_once(decoder.logits, said.relu())


class Past:
    """The last inputs of one causal convolution, in a ring [time, batch, channels] just long enough."""

    def __init__(self, conv: CausalConv1d, batch: int):
        self.weight = conv.weight.detach().permute(0, 2, 1).flatten(1)  # [outputs, taps * inputs], oldest tap first
        self.bias, self.dilation, self.taps = conv.bias, conv.dilation[0], conv.kernel_size[0]
        self.ring = conv.weight.new_zeros(conv.past + 1, batch, conv.in_channels)
        self.now = 0

    def step(self, x: Float[Tensor, "batch inputs"]) -> Float[Tensor, "batch outputs"]:
        """Remember this input and return the convolution's output at it."""
        self.ring[self.now] = x
        oldest_first = [self.ring[self.now - k * self.dilation] for k in reversed(range(self.taps))]
        self.now = (self.now + 1) % len(self.ring)
        return F.linear(torch.cat(oldest_first, dim=-1), self.weight, self.bias)


def _at_once(conv: nn.Conv1d, x: Float[Tensor, "batch inputs"]) -> Float[Tensor, "batch outputs"]:
    """A 1x1 convolution at one instant."""
    return F.linear(x, conv.weight.squeeze(-1), conv.bias)

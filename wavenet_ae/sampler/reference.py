"""The definition of sampling: rerun the whole decoder for every sample. Slow, obviously right."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from wavenet_ae import mulaw
from wavenet_ae.models.wavenet import Decoder
from wavenet_ae.sampler import check_shapes
from wavenet_ae.sampler.dice import draw


def unavailable(decoder: Decoder, precision: str) -> str | None:
    """Why this engine cannot run the decoder, or None if it can."""
    return None if precision == "fp32" else f"it computes in the decoder's own format, not {precision}"


class Voices:
    """Every voice keeps all it was told and all it said, and the decoder itself is asked about the rest."""

    def __init__(self, decoder: Decoder, batch: int, *, precision: str = "fp32", threads: int | None = None):
        self.decoder = decoder
        weight = decoder.start.weight
        self.said = [torch.empty(0, dtype=torch.long, device=weight.device) for _ in range(batch)]
        self.told = [weight.new_empty(decoder.embedding_dims, 0) for _ in range(batch)]

    @torch.inference_mode()
    def generate(
        self,
        embedding: Float[Tensor, "batch dims frames"],
        uniform: Float[Tensor, "batch samples"],
        temperature: float = 1.0,
        top_p: float = 1.0,
    ) -> Int[Tensor, "batch samples"]:
        """Codes, drawn one at a time; uniform[b, t] decides code[b, t]."""
        check_shapes(self.decoder, len(self.said), embedding, uniform)
        uniform = uniform.to(embedding.device)
        for voice in range(len(self.said)):
            code = self._grow(voice, embedding[voice], torch.full_like(uniform[voice], mulaw.SILENCE).long())
            for t in range(-uniform.shape[-1], 0):
                logits = self.decoder(code[None], self.told[voice][None])[:, :, t]
                code[t] = draw(logits, uniform[voice, t, None], temperature, top_p)[0]
        return torch.stack([code[-uniform.shape[-1] :] for code in self.said])

    @torch.inference_mode()
    def score(
        self, embedding: Float[Tensor, "batch dims frames"], code: Int[Tensor, "batch samples"]
    ) -> Float[Tensor, "batch 256 samples"]:
        """Log-probabilities from one run of the decoder over everything said."""
        check_shapes(self.decoder, len(self.said), embedding, code)
        scores = []
        for voice in range(len(self.said)):
            said = self._grow(voice, embedding[voice], code[voice])
            scores.append(self.decoder(said[None], self.told[voice][None])[0, :, -code.shape[-1] :])
        return F.log_softmax(torch.stack(scores), dim=1)

    def restart(self, voice: int) -> None:
        """Forget one voice's past."""
        self.said[voice] = self.said[voice][:0]
        self.told[voice] = self.told[voice][:, :0]

    def _grow(self, voice: int, embedding: Tensor, code: Tensor) -> Tensor:
        self.told[voice] = torch.cat([self.told[voice], embedding], dim=-1)
        self.said[voice] = torch.cat([self.said[voice], code])
        return self.said[voice]

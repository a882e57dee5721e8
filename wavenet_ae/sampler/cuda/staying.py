"""Voices that a kernel continues, a few frames at each launch: what the engines that have such a kernel share."""

import struct
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from wavenet_ae.models.wavenet import Decoder
from wavenet_ae.mulaw import CODES
from wavenet_ae.sampler import check_shapes
from wavenet_ae.sampler.cuda.device import Launched

FRAMES = 2  # of one launch: between two, an interrupt is heard and what is done can be handed out
CALL = struct.Struct("<14Q3q2d")  # a kernel's `Call`

Launch = Callable[[bytes], None]


@runtime_checkable
class Machine(Protocol):
    """What runs a kernel: a GPU, or a test's stand-in for one."""

    device: torch.device
    blocks: int  # that can be there at the same time
    shared: int  # bytes of shared memory that each may have

    def load(self, plan: Launched) -> Launch:
        """The kernel for these sizes: called with a `Call` it runs to its end, or at least in order."""
        ...


class Staying:
    """A kernel's launches, one after another; it may have more voices than were asked for, which say nothing.

    `memory` is all that the kernel's `Call` begins with, weights and state in its order.
    """

    def __init__(self, decoder: Decoder, batch: int, *, voices: int, launch: Launch, memory: Iterable[Tensor]):
        self.memory = list(memory)
        self.decoder, self.batch, self.voices, self.launch = decoder, batch, voices, launch
        self.device = self.memory[0].device
        self.lost = torch.zeros(2, dtype=torch.int32, device=self.device)
        self.clock, self.intact = 0, True

    @torch.inference_mode()
    def generate(
        self,
        embedding: Float[Tensor, "batch dims frames"],
        uniform: Float[Tensor, "batch samples"],
        temperature: float = 1.0,
        top_p: float = 1.0,
    ) -> Int[Tensor, "batch samples"]:
        """The reference's codes, as far as float32 decides; a few frames at a time, so that an interrupt is heard."""
        check_shapes(self.decoder, self.batch, embedding, uniform)
        codes = []
        for told, die in self._chunks(embedding, uniform, torch.float64):
            code = torch.empty(die.shape, dtype=torch.long, device=self.device)
            self._run(told, code, die=die, settings=(temperature, top_p))
            codes.append(code[: self.batch])
        return torch.cat(codes, dim=-1).to(embedding.device)

    @torch.inference_mode()
    def score(
        self, embedding: Float[Tensor, "batch dims frames"], code: Int[Tensor, "batch samples"]
    ) -> Float[Tensor, "batch 256 samples"]:
        """Log-probabilities, each step hearing the code it is given."""
        check_shapes(self.decoder, self.batch, embedding, code)
        scores = []
        for told, forced in self._chunks(embedding, code, torch.long):
            logits = torch.empty(forced.shape[1], self.voices, CODES, device=self.device)
            self._run(told, forced, logits=logits)
            scores.append(logits[:, : self.batch].permute(1, 2, 0))
        return F.log_softmax(torch.cat(scores, dim=-1), dim=1).to(embedding.device)

    def _chunks(self, embedding: Tensor, samples: Tensor, dtype: torch.dtype) -> Iterator[tuple[Tensor, Tensor]]:
        """A launch's frames, [frame, voice, dims], and their samples, [voice, sample], of all the kernel's voices."""
        told = embedding.permute(2, 0, 1).to(self.device, torch.float32)
        silent = self.voices - self.batch
        for frames, some in zip(told.split(FRAMES), samples.split(FRAMES * self.decoder.hop, dim=-1), strict=True):
            padded = F.pad(some.to(self.device, dtype), (0, 0, 0, silent))
            yield F.pad(frames, (0, 0, 0, silent)).contiguous(), padded.contiguous()

    def _run(
        self,
        told: Tensor,
        code: Tensor,
        *,
        die: Tensor | None = None,
        logits: Tensor | None = None,
        settings: tuple[float, float] = (1.0, 1.0),
    ) -> None:
        """One launch; the codes are forced where there are no dice."""
        if not self.intact:
            raise RuntimeError("these voices were broken off inside a launch and cannot go on: open new ones")
        self.intact = False
        known = [tensor.data_ptr() for tensor in (*self.memory, self.lost, told)]
        traffic = [0 if each is None else each.data_ptr() for each in (die, code, logits)]
        self.launch(CALL.pack(*known, *traffic, self.clock, len(told), die is None, *settings))
        if self.lost[0].item():  # waits for the launch
            raise RuntimeError(
                f"blocks of the GPU waited in vain for each other near sample {self.clock}: is another program holding "
                "part of it? Open new voices, or use engine='batched'"
            )
        self.clock += code.shape[-1]
        self.intact = True

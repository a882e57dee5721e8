"""A few voices on a GPU, by one kernel that stays: blocks that own channels and tell each other numbers."""

import math
import struct
from collections.abc import Callable, Mapping
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from wavenet_ae.models.wavenet import Decoder
from wavenet_ae.mulaw import CODES
from wavenet_ae.sampler import check_shapes
from wavenet_ae.sampler.cuda import compiling, device, layout, packing

FRAMES = 2  # of one launch: between two, an interrupt is heard and what is done can be handed out
CALL = struct.Struct("<14Q3q2d")  # the kernel's `Call`

Launch = Callable[[bytes], None]


@runtime_checkable
class Machine(Protocol):
    """What runs the kernel: a GPU, or a test's stand-in for one."""

    device: torch.device
    blocks: int  # that can be there at the same time
    shared: int  # bytes of shared memory that each may have

    def load(self, plan: layout.Plan) -> Launch:
        """The kernel for these sizes: called with a `Call` it runs to its end, or at least in order."""
        ...


def unavailable(decoder: Decoder, precision: str) -> str | None:
    """Why this engine cannot run the decoder, or None if it can."""
    if precision not in layout.BYTES:
        return f"it stores weights in {', '.join(layout.BYTES)}, not {precision}"
    if precision == "fp32" and decoder.start.weight.dtype == torch.float64:
        return "it computes in float32, and the decoder is float64: use decoder.float()"
    return device.unavailable(decoder.start.weight.device) or compiling.unavailable()


class Voices:
    """Blocks' weights, mail and memory on one GPU, and a kernel compiled for just these sizes.

    With `fp32`, products are as exact as float32's. `fp16`, `bf16` and `int8` are how the large matrices are stored,
    and what is multiplied by them is rounded to 16 bits (of float16 for `int8`); sums, the residual, gates and the
    output layers are float32. The order of every sum depends on the decoder and the precision alone: neither the
    number of voices, nor the chunks, nor the number of blocks changes a code. `changed` sizes are for measurements.
    """

    def __init__(
        self,
        decoder: Decoder,
        batch: int,
        *,
        precision: str = "fp32",
        threads: int | None = None,
        machine: Machine | None = None,
        changed: Mapping[str, int] | None = None,
    ):
        if not 1 <= batch <= layout.MOST_VOICES:
            raise ValueError(
                f"{batch} voices: the cuda engine has 1 to {layout.MOST_VOICES}; engine='batched' has more"
            )
        machine = machine or device.Gpu(decoder.start.weight.device)
        self.decoder, self.device, self.clock, self.intact = decoder, machine.device, 0, True
        self.plan = layout.plan(
            decoder, batch, precision=precision, blocks=machine.blocks, shared=machine.shared, **(changed or {})
        )
        self.launch = machine.load(self.plan)
        self.weights = packing.to_device(packing.pack(decoder, self.plan), self.device)
        plan = self.plan
        self.mail = torch.zeros(layout.size(plan.mail), dtype=torch.int32, device=self.device)
        self.ahead = torch.zeros(plan.blocks, plan.ahead, batch, 2 * plan.channels, device=self.device)
        self.memory = torch.zeros(batch, 2 * plan.taps, device=self.device)
        self.lost = torch.zeros(2, dtype=torch.int32, device=self.device)

    @torch.inference_mode()
    def generate(
        self,
        embedding: Float[Tensor, "batch dims frames"],
        uniform: Float[Tensor, "batch samples"],
        temperature: float = 1.0,
        top_p: float = 1.0,
    ) -> Int[Tensor, "batch samples"]:
        """The reference's codes, as far as float32 decides; a few frames at a time, so that an interrupt is heard."""
        check_shapes(self.decoder, self.plan.voices, embedding, uniform)
        codes = []
        for told, die in self._chunks(embedding, uniform):
            die = die.to(self.device, torch.float64).contiguous()
            code = torch.empty(die.shape, dtype=torch.long, device=self.device)
            self._run(told, code, die=die, settings=(temperature, top_p))
            codes.append(code)
        return torch.cat(codes, dim=-1).to(embedding.device)

    @torch.inference_mode()
    def score(
        self, embedding: Float[Tensor, "batch dims frames"], code: Int[Tensor, "batch samples"]
    ) -> Float[Tensor, "batch 256 samples"]:
        """Log-probabilities, each step hearing the code it is given."""
        check_shapes(self.decoder, self.plan.voices, embedding, code)
        scores = []
        for told, forced in self._chunks(embedding, code):
            forced = forced.to(self.device, torch.long).contiguous()
            logits = torch.empty(forced.shape[1], len(forced), CODES, device=self.device)
            self._run(told, forced, logits=logits)
            scores.append(logits.permute(1, 2, 0))
        return F.log_softmax(torch.cat(scores, dim=-1), dim=1).to(embedding.device)

    def restart(self, voice: int) -> None:
        """Forget what one voice heard, what was computed from it ahead of time, and its mail."""
        self.ahead[:, :, voice] = 0
        self.memory[voice] = 0
        shape = self.plan.mail["channels"]
        told = self.mail[: math.prod(shape)].view(-1, *shape[-2:])[:, voice]
        told &= 1  # the number, not whose turn it is

    def _chunks(self, embedding: Tensor, samples: Tensor) -> list[tuple[Tensor, Tensor]]:
        """A launch's frames, [frame, voice, dims], and their samples."""
        told = embedding.permute(2, 0, 1).to(self.device, torch.float32).contiguous()
        return list(zip(told.split(FRAMES), samples.split(FRAMES * self.decoder.hop, dim=-1), strict=True))

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
        weights = [self.weights[name].data_ptr() for name in packing.Packed._fields]
        state = [tensor.data_ptr() for tensor in (self.mail, self.ahead, self.memory, self.lost, told)]
        traffic = [0 if die is None else die.data_ptr(), code.data_ptr(), 0 if logits is None else logits.data_ptr()]
        self.launch(CALL.pack(*weights, *state, *traffic, self.clock, len(told), die is None, *settings))
        if self.lost[0].item():  # waits for the launch
            raise RuntimeError(
                f"blocks of the GPU waited in vain for each other near sample {self.clock}: is another program holding "
                "part of it? Open new voices, or use engine='batched'"
            )
        self.clock += code.shape[-1]
        self.intact = True

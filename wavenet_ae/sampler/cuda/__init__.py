"""A few voices on a GPU, by one kernel that stays: blocks that own channels and tell each other numbers."""

import math
from collections.abc import Mapping

import torch

from wavenet_ae.models.wavenet import Decoder
from wavenet_ae.sampler.cuda import compiling, dealing, device, layout, packing
from wavenet_ae.sampler.cuda.staying import Machine, Staying


def unavailable(decoder: Decoder, precision: str) -> str | None:
    """Why this engine cannot run the decoder, or None if it can."""
    if precision not in layout.BYTES:
        return f"it stores weights in {', '.join(layout.BYTES)}, not {precision}"
    if precision == "fp32" and decoder.start.weight.dtype == torch.float64:
        return "it computes in float32, and the decoder is float64: use decoder.float()"
    return device.unavailable(decoder.start.weight.device) or compiling.unavailable()


class Voices(Staying):
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
        plan = layout.plan(
            decoder, batch, precision=precision, blocks=machine.blocks, shared=machine.shared, **(changed or {})
        )
        launch, where = machine.load(plan), machine.device
        weights = dealing.to_device(packing.pack(decoder, plan)._asdict(), where)
        self.plan = plan
        self.mail = torch.zeros(layout.size(plan.mail), dtype=torch.int32, device=where)
        self.ahead = torch.zeros(plan.blocks, plan.ahead, batch, 2 * plan.channels, device=where)
        self.heard = torch.zeros(batch, 2 * plan.taps, device=where)
        memory = [*weights.values(), self.mail, self.ahead, self.heard]
        super().__init__(decoder, batch, voices=batch, launch=launch, memory=memory)

    def restart(self, voice: int) -> None:
        """Forget what one voice heard, what was computed from it ahead of time, and its mail."""
        self.ahead[:, :, voice] = 0
        self.heard[voice] = 0
        shape = self.plan.mail["channels"]
        told = self.mail[: math.prod(shape)].view(-1, *shape[-2:])[:, voice]
        told &= 1  # the number, not whose turn it is

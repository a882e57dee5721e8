"""Many voices on a GPU, by clusters of blocks that stay: each is a choir, and sings some of the voices by itself.

Needs a GPU whose blocks can reach into each other's shared memory (compute capability 9.0 or later).
"""

import math
from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import torch

from wavenet_ae.models.wavenet import Decoder
from wavenet_ae.sampler import DoesNotFit, cuda
from wavenet_ae.sampler.clusters import layout, packing
from wavenet_ae.sampler.cuda import dealing, device, staying


@runtime_checkable
class Machine(staying.Machine, Protocol):
    """What runs the kernel, and knows of clusters."""

    def together(self, plan: layout.Plan) -> int:
        """How many choirs can be there at the same time."""
        ...


def unavailable(decoder: Decoder, precision: str) -> str | None:
    """Why this engine cannot run the decoder, or None if it can."""
    reason = cuda.unavailable(decoder, precision)
    return reason or device.unavailable(decoder.start.weight.device, oldest=(9, 0))


class Voices(staying.Staying):
    """Blocks' weights and memory on one GPU, and a kernel compiled for just these sizes.

    With `fp32`, products are as exact as float32's. `fp16`, `bf16` and `int8` are how the large matrices are stored,
    and what is multiplied by them is rounded to 16 bits (of float16 for `int8`); sums, the residual, gates and the
    output layers are float32. The order of every sum depends on the decoder, the precision and the size of a choir
    alone: neither the number of voices nor the chunks change a code. `changed` sizes are for measurements.
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
        machine = machine or device.Gpu(decoder.start.weight.device)
        self.plan = plan = _plan(decoder, batch, precision, machine, dict(changed or {}))
        launch, where = machine.load(plan), machine.device
        weights = dealing.to_device(packing.pack(decoder, plan)._asdict(), where)
        number = torch.float32 if precision == "fp32" else torch.int16
        self.history = torch.zeros(plan.choirs, plan.history, plan.voices, plan.width, dtype=number, device=where)
        self.heard = torch.zeros(plan.choirs, plan.voices, 2 * plan.taps, device=where)
        blocks, gates = plan.choirs * plan.size, 2 * plan.channels
        ahead = torch.empty(blocks, plan.ahead, plan.voices, gates, device=where)
        conditions = torch.empty(blocks, plan.voices, plan.layers * gates + plan.says, device=where)
        memory = [*weights.values(), self.history, ahead, conditions, self.heard]
        super().__init__(decoder, batch, voices=plan.choirs * plan.voices, launch=launch, memory=memory)

    def restart(self, voice: int) -> None:
        """Forget what one voice heard: nothing else outlives a frame."""
        choir, place = divmod(voice, self.plan.voices)
        self.history[choir, :, place] = 0
        self.heard[choir, place] = 0


def _plan(decoder: Decoder, batch: int, precision: str, machine: Machine, changed: dict[str, int]) -> layout.Plan:
    """Sizes that the machine has room for: smaller choirs where it knows no large ones, fewer where fewer fit."""
    together = max(1, machine.blocks // changed.get("size", layout.SIZE))
    while True:
        plan = layout.plan(decoder, batch, precision=precision, together=together, shared=machine.shared, **changed)
        there = machine.together(plan)
        if there == 0 and plan.size > device.PORTABLE:
            changed["size"] = device.PORTABLE
            together = max(1, machine.blocks // device.PORTABLE)
        elif there == 0:
            raise DoesNotFit(
                f"{plan.size} blocks of {plan.shared_bytes} bytes of shared memory cannot reach into each other's "
                "here: use engine='batched'"
            )
        elif there >= min(plan.choirs, together) or math.ceil(batch / there) <= plan.voices:
            return plan
        else:
            together = there

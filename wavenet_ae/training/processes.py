"""Many processes that train as one: whose share is whose, what all of them measured, and when all of them stop."""

import contextlib
import os
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel


@dataclass(frozen=True)
class Group:
    """The processes of one training and this one's number among them.

    All of them make the same calls in the same order, or wait for each other in vain.
    """

    rank: int
    count: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        """Whether this one writes and speaks for all."""
        return self.rank == 0

    def share(self, batch: int) -> tuple[int, int]:
        """The crops of a step that are this process's: the first and the one after the last.

        Raises:
            ValueError: the batch cannot be shared evenly.
        """
        if batch % self.count:
            raise ValueError(f"batch is {batch}: expected a multiple of the {self.count} processes that share it")
        own = batch // self.count
        return self.rank * own, (self.rank + 1) * own

    def spread(self, model: nn.Module) -> nn.Module:
        """The model with its gradients averaged over all processes as they are computed."""
        if self.count == 1:
            return model
        devices = [self.device] if self.device.type == "cuda" else None
        return DistributedDataParallel(model, device_ids=devices, find_unused_parameters=True)  # the last residual is

    def holding_back(self, network: nn.Module) -> AbstractContextManager[None]:
        """Within it gradients gather here alone; the next ones computed outside of it take them along."""
        return network.no_sync() if isinstance(network, DistributedDataParallel) else contextlib.nullcontext()

    def mean(self, values: Mapping[str, float]) -> dict[str, float]:
        """The mean of each over all processes, the same to the bit in all of them."""
        if self.count == 1:
            return dict(values)
        total = torch.tensor(list(values.values()), dtype=torch.float64, device=self.device)
        distributed.all_reduce(total)
        return dict(zip(values, (total / self.count).tolist(), strict=True))

    def gathered(self, own: Any) -> list[Any]:
        """What every process has, by rank."""
        if self.count == 1:
            return [own]
        every: list[Any] = [None] * self.count
        distributed.all_gather_object(every, own)
        return every

    def agreed(self, ended: str | None) -> str | None:
        """Why to stop, if any process has a reason to."""
        if self.count == 1 or not self.mean({"ended": float(ended is not None)})["ended"]:
            return ended
        return next(reason for reason in self.gathered(ended) if reason is not None)

    def wait(self) -> None:
        """Until all are here."""
        self.gathered(None)


ALONE = Group(0, 1, torch.device("cpu"))


@contextlib.contextmanager
def joined(device: str) -> Iterator[Group]:
    """Meet the other processes that torchrun started, if it did; gloo on a CPU, NCCL on GPUs, one for each process."""
    rank, count = (int(os.environ.get(name, default)) for name, default in (("RANK", "0"), ("WORLD_SIZE", "1")))
    if count == 1:
        yield Group(0, 1, torch.device(device))
        return
    on_gpu = device.startswith("cuda")
    own = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if on_gpu else torch.device(device)
    if on_gpu:
        torch.cuda.set_device(own)
    distributed.init_process_group("nccl" if on_gpu else "gloo")
    try:
        yield Group(rank, count, own)
    finally:
        distributed.destroy_process_group()


def restarted() -> bool:
    """Whether torchrun starts this again after a process was lost."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0


def started_by_torchrun() -> bool:
    """Whether this process is one of torchrun's, even if the only one."""
    return "TORCHELASTIC_RUN_ID" in os.environ

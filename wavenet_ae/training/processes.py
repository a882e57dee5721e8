"""Many processes that train as one: whose share is whose, what all of them measured, and when all of them stop.

A model is spread in one of two ways, which give the same losses. `ddp`: every process holds all of it and gradients
are averaged. `fsdp`: each holds its share of every weight, of its gradient and of all that is kept of it, and they lend
each other the whole of a part of the model while that part computes (Zhao et al. 2023, arXiv:2304.11277).
"""

import atexit
import contextlib
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

DDP, FSDP = WAYS = "ddp", "fsdp"


@dataclass(frozen=True)
class Group:
    """The processes of one training and this one's number among them.

    All of them make the same calls in the same order, or wait for each other in vain.
    """

    rank: int
    count: int
    device: torch.device
    parallel: str = DDP

    def __post_init__(self) -> None:
        """Refuse a way that there is not."""
        if self.parallel not in WAYS:
            raise ValueError(f"parallel is {self.parallel!r}: expected one of {', '.join(WAYS)}")

    @property
    def is_first(self) -> bool:
        """Whether this one writes and speaks for all."""
        return self.rank == 0

    @property
    def shards(self) -> bool:
        """Whether each process holds a share of every weight only."""
        return self.count > 1 and self.parallel == FSDP

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
        """The model with its gradients averaged over all processes as they are computed.

        In shards its weights are others than before, and each of its parts computes by being called, or not at all.
        """
        if self.count == 1:
            return model
        if self.shards:
            mesh = init_device_mesh(self.device.type, (self.count,))
            for part in (*model.children(), model):
                fully_shard(part, mesh=mesh)
            return model
        devices = [self.device] if self.device.type == "cuda" else None
        return DistributedDataParallel(model, device_ids=devices, find_unused_parameters=True)  # the last residual is

    @contextlib.contextmanager
    def holding_back(self, network: nn.Module) -> Iterator[None]:
        """Within it gradients gather here alone; the next ones computed outside of it take them along."""
        if isinstance(network, FSDPModule):
            network.set_requires_gradient_sync(False)
            yield
            network.set_requires_gradient_sync(True)
            return
        with network.no_sync() if isinstance(network, DistributedDataParallel) else contextlib.nullcontext():
            yield

    def collected(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The tensors in one piece; those that are in shards come to the first process alone, one after another."""
        found: dict[str, Tensor] = {}
        for name, tensor in tensors.items():
            piece = whole(tensor)
            if piece is tensor:
                found[name] = tensor
            elif self.is_first:
                found[name] = piece.cpu()
        return found

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
def joined(device: str, parallel: str) -> Iterator[Group]:
    """Meet the other processes that torchrun started, if it did; gloo on a CPU, NCCL on GPUs, one for each process."""
    rank, count = (int(os.environ.get(name, default)) for name, default in (("RANK", "0"), ("WORLD_SIZE", "1")))
    if count == 1:
        yield Group(0, 1, torch.device(device), parallel)
        return
    on_gpu = device.startswith("cuda")
    own = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if on_gpu else torch.device(device)
    if on_gpu:
        torch.cuda.set_device(own)
    store, _, _ = next(distributed.rendezvous("env://"))
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    # torchrun keeps its store over restarts: where the processes before listened must not be found by these
    fresh = distributed.PrefixStore(f"attempt-{attempt}-of-{count}", store)
    distributed.init_process_group("nccl" if on_gpu else "gloo", store=fresh, rank=rank, world_size=count)
    try:
        yield Group(rank, count, own, parallel)
    finally:
        distributed.destroy_process_group()


def leave() -> None:
    """End this process, all being done, if it is one of torchrun's.

    A thread of gloo may still be about to let go of a tensor; where it does so while Python ends, Python aborts the
    process. So Python's own end is left out but for what was to be done at exit.
    """
    if started_by_torchrun():
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


def whole(tensor: Tensor) -> Tensor:
    """A tensor in one piece, in every process; all of them ask for it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def own(tensor: Tensor) -> Tensor:
    """What this process holds of a tensor; what is done to it is done to the tensor."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def shared_as(like: Tensor | None, tensor: Tensor) -> Tensor:
    """Of a tensor that every process has, what this one holds of it if it is shared out as another of its shape is."""
    if not isinstance(like, DTensor) or like.shape != tensor.shape:
        return tensor
    there = tensor.detach().to(like.device, like.dtype)
    return distribute_tensor(there, like.device_mesh, like.placements, src_data_rank=None)


def restarted() -> bool:
    """Whether torchrun starts this again after a process was lost."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0


def started_by_torchrun() -> bool:
    """Whether this process is one of torchrun's, even if the only one."""
    return "TORCHELASTIC_RUN_ID" in os.environ

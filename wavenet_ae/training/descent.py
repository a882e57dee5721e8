"""One update of any model: gradient, clipping, learning rate, moving average, and the refusal to keep what diverged."""

import contextlib
import functools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Generic

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from wavenet_ae.notes import Batch
from wavenet_ae.training.processes import ALONE, Group, shared_as, whole
from wavenet_ae.training.recording import Recorder, Recording
from wavenet_ae.training.schedule import MovingAverage, Network

_COST = "minimised"


class Diverged(RuntimeError):
    """The loss or its gradient is no longer a number, or has exploded."""


class Descent(ABC, Generic[Network]):
    """What objectives have in common; one says in `_cost` what a batch costs, and the rest follows.

    `unit` names the measurement to show, the cost itself or a part of it; `per` says it in words and `digits` how it
    is printed. `knowing_nothing` is what it is without learning, and `exploded` what no healthy training reaches.
    `is_recordable` says whether a step does the same to any crops, never asking for a number on the way.
    """

    unit: str
    per: str
    digits: str
    knowing_nothing: float
    exploded: float
    is_recordable = False

    def __init__(
        self,
        model: Network,
        optimizer: torch.optim.Optimizer,
        rate: Callable[[int], float],
        *,
        ema_decay: float,
        max_grad_norm: float,
        autocast: torch.dtype | None,
    ):
        self.model, self.optimizer, self.rate = model, optimizer, rate
        self.average = MovingAverage(model, decay=ema_decay)
        if not max_grad_norm > 0:
            raise ValueError(f"max_grad_norm is {max_grad_norm}: expected a positive number (.inf to leave gradients)")
        self.max_grad_norm, self.autocast = max_grad_norm, autocast
        self.device = next(model.parameters()).device
        self.group, self.accumulate = ALONE, 1
        self.network: Any = model  # what computes gradients: the model, perhaps compiled, perhaps one of many
        self.weights = list(model.parameters())
        self.recording: Recording | None = None

    def arrange(
        self,
        group: Group,
        *,
        accumulate: int = 1,
        compiled: bool = False,
        recompute: bool = False,
        by_stretches: bool | None = False,
        recorder: Recorder | None = None,
    ) -> None:
        """Say how gradients are computed; all ways of it give the same losses, up to rounding.

        `accumulate` is the number of parts that a batch passes in, one after another; `compiled` fuses by
        torch.compile, which takes a minute and a C++ compiler; `recompute` forgets what is inside a block until
        its gradient needs it (Chen et al. 2016, arXiv:1604.06174); `by_stretches` is what `training.stretches` does on
        a CPU, or None to do it where it can be done; a `recorder` takes the gradient of one step down and does the same
        to those that follow.

        Raises:
            ValueError: the model, or another of these ways, does not allow of one that is asked for.
        """
        if compiled and group.shards:
            raise ValueError("compile=true and parallel=fsdp: expected one of the two; parallel=ddp can be compiled")
        if recorder and not (self.is_recordable and group.count == 1 and not compiled and not recompute):
            raise ValueError(
                "graph=true: expected one process without compile or recompute, and a WaveNet that is not told the "
                "pitch; leave it out"
            )
        self.group, self.accumulate = group, accumulate
        if by_stretches is not False:
            others = {"compile": compiled, "recompute": recompute, "parallel=fsdp": group.shards}
            self._take_stretches([name for name, is_asked in others.items() if is_asked], must=by_stretches is True)
        blocks = [block for name, block in self.model.named_modules() if name.rpartition(".")[0].endswith("blocks")]
        if recompute and not blocks:
            raise ValueError(f"recompute=true: a {type(self.model).__name__} has no blocks to recompute; leave it out")
        for block in blocks if recompute else []:
            block.forward = functools.partial(checkpoint, block.forward, use_reentrant=False)
        self.network = group.spread(torch.compile(self.model) if compiled else self.model)  # type: ignore[arg-type]
        if group.shards:
            self._take_shares()
        if recorder:
            self.recording = Recording(functools.partial(self._gradient, step=0), self.weights, recorder)

    def _take_stretches(self, others: list[str], *, must: bool) -> None:
        """Have the model's blocks computed stretch by stretch, if it is possible beside other ways."""
        from wavenet_ae.training import stretches  # numba with it, which nobody else here needs

        why_not = stretches.unavailable(self.model)
        if self.autocast is not None:
            why_not = f"they compute in float32, not in {str(self.autocast).removeprefix('torch.')}"
        if others:
            why_not = f"{' and '.join(others)} computes them in another way"
        if why_not and must:
            raise ValueError(f"stretches=true: the blocks cannot be computed so: {why_not}; leave out one or the other")
        if not why_not:
            stretches.replace(self.model)  # type: ignore[arg-type]

    def _take_shares(self) -> None:
        """Learn by what this process holds of the weights, which the model has just been given in their stead."""
        shares = dict(zip(self.weights, self.model.parameters(), strict=True))
        self.weights = list(shares.values())
        for group in self.optimizer.param_groups:
            group["params"] = [shares[weight] for weight in group["params"]]
        self.average.share_as(self.model)

    @abstractmethod
    def _cost(self, model: Network, batch: Batch, step: int | None) -> tuple[Tensor, Mapping[str, Tensor]]:
        """What is minimised, and measurements by name, `unit` among them; `step` is None outside of learning."""

    def learn(self, batch: Batch, step: int) -> dict[str, float]:
        """One update; returns what was measured on the way.

        Raises:
            Diverged: the update was not made, so the weights are still those of the step before.
        """
        self.model.train()
        if self.recording:
            found = self.recording(batch)
        else:
            self.optimizer.zero_grad(set_to_none=True)
            found = self._gradient(batch, step)
        gradients = [weight.grad for weight in self.weights if weight.grad is not None]
        norm = whole(nn.utils.get_total_norm(gradients))
        nn.utils.clip_grads_with_norm_(self.weights, self.max_grad_norm, norm)
        *values, grad_norm = _floats([*found.values(), norm])
        measured = self.group.mean(dict(zip(found, values, strict=True)))
        self._stop_if_diverged(batch, step, measured.pop(_COST), grad_norm)
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate(step)
        self.optimizer.step()
        self.average.update(self.model, step)
        return {**measured, "grad_norm": grad_norm, "rate": self.rate(step)}

    def _gradient(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """Leave the gradient of the whole step's mean cost with the weights; return this process's measurements."""
        total: dict[str, Tensor] = {}
        for number, part in enumerate(batch.parts(self.accumulate), 1):
            is_last = number == self.accumulate
            with contextlib.nullcontext() if is_last else self.group.holding_back(self.network):
                cost, measured = self._cost(self.network, part, step)
                (cost / self.accumulate).backward()
            for name, value in {**measured, _COST: cost}.items():
                total[name] = total.get(name, 0.0) + value.detach() / self.accumulate
        return total

    @torch.no_grad()
    def measure(self, batch: Batch) -> dict[str, float]:
        """What a batch costs the averaged weights, without learning from it."""
        measured = self._cost(self.average.model, batch, None)[1]
        return dict(zip(measured, _floats(measured.values()), strict=True))

    @torch.no_grad()
    def check(self, batch: Batch, step: int) -> None:
        """Measure the weights as they are after `step` updates, before they are kept as good ones.

        Raises:
            Diverged: the last update spoilt them.
        """
        self.model.eval()  # it leaves no trace: batch normalisation learns from what passes in training
        cost, _ = self._cost(self.model, batch, None)
        self._stop_if_diverged(batch, step, self.group.mean({_COST: float(cost)})[_COST], 0.0)

    @contextlib.contextmanager
    def assembled(self) -> Iterator[None]:
        """Within it the averaged model is in one piece, to be measured, heard or kept; all processes enter together."""
        with self.average.assembled():
            yield

    def state(self) -> dict[str, Tensor]:
        """All that the next update depends on, as flat names and tensors; all processes ask, the first is told."""
        state = {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()}
        for index, values in self.optimizer.state_dict()["state"].items():
            state |= {f"optimizer.{index}.{key}": torch.as_tensor(value) for key, value in values.items()}
        with self.assembled():
            state |= {f"ema.{name}": tensor for name, tensor in self.average.model.state_dict().items()}
        return self.group.collected(state)

    def restore(self, state: dict[str, Tensor]) -> None:
        """Undo `state`.

        Raises:
            ValueError: the state is of another model.
        """
        try:
            held = self.model.state_dict()
            self.model.load_state_dict(
                {name: shared_as(held.get(name), tensor) for name, tensor in _under("model.", state).items()}
            )
            self.average.restore(_under("ema.", state))
        except RuntimeError as error:
            raise ValueError(f"the run's state is of another model: {error}") from None
        weights = [weight for group in self.optimizer.param_groups for weight in group["params"]]
        values: dict[int, dict[str, Tensor]] = {}
        for name, tensor in _under("optimizer.", state).items():
            index, _, key = name.partition(".")
            values.setdefault(int(index), {})[key] = shared_as(weights[int(index)], tensor)
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": values})

    def _stop_if_diverged(self, batch: Batch, step: int, cost: float, grad_norm: float) -> None:
        if cost <= self.exploded and math.isfinite(grad_norm):
            return
        raise Diverged(
            f"training diverged after {step} steps: loss {cost:.4g} {self.unit} (knowing nothing costs "
            f"{self.knowing_nothing:.2f}), gradient norm {grad_norm:.4g}; lower the learning rate "
            f"({self.rate(step):.2g}) or max_grad_norm ({self.max_grad_norm:g}), "
            f"or look at the notes {', '.join(batch.names[:4])}"
        )


def _floats(values: Iterable[Tensor]) -> list[float]:
    """The numbers that tensors hold. Speed: a GPU is waited for once, not once for each."""
    return torch.stack([value.detach().float() for value in values]).tolist()


def _under(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}

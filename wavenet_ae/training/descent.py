"""One update of any model: gradient, clipping, learning rate, moving average, and the refusal to keep what diverged."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Generic

import torch
from torch import Tensor, nn

from wavenet_ae.notes import Batch
from wavenet_ae.training.schedule import MovingAverage, Network


class Diverged(RuntimeError):
    """The loss or its gradient is no longer a number, or has exploded."""


class Descent(ABC, Generic[Network]):
    """What objectives have in common; one says in `_cost` what a batch costs, and the rest follows.

    `unit` names the measurement to show, the cost itself or a part of it; `per` says it in words and `digits` how it
    is printed. `knowing_nothing` is what it is without learning, and `exploded` what no healthy training reaches.
    """

    unit: str
    per: str
    digits: str
    knowing_nothing: float
    exploded: float

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
        self.max_grad_norm, self.autocast = max_grad_norm, autocast
        self.device = next(model.parameters()).device

    @abstractmethod
    def _cost(self, model: Network, batch: Batch, step: int | None) -> tuple[Tensor, Mapping[str, Tensor]]:
        """What is minimised, and measurements by name, `unit` among them; `step` is None outside of learning."""

    def learn(self, batch: Batch, step: int) -> dict[str, float]:
        """One update; returns what was measured on the way.

        Raises:
            Diverged: the update was not made, so the weights are still those of the step before.
        """
        self.model.train()
        cost, measured = self._cost(self.model, batch, step)
        self.optimizer.zero_grad(set_to_none=True)
        cost.backward()
        norm = float(nn.utils.clip_grad_norm_(self.model.parameters(), self.max_grad_norm))
        self._stop_if_diverged(batch, step, float(cost.detach()), norm)
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate(step)
        self.optimizer.step()
        self.average.update(self.model, step)
        return {**_floats(measured), "grad_norm": norm, "rate": self.rate(step)}

    @torch.no_grad()
    def measure(self, batch: Batch) -> dict[str, float]:
        """What a batch costs the averaged weights, without learning from it."""
        return _floats(self._cost(self.average.model, batch, None)[1])

    @torch.no_grad()
    def check(self, batch: Batch, step: int) -> None:
        """Measure the weights as they are after `step` updates, before they are kept as good ones.

        Raises:
            Diverged: the last update spoilt them.
        """
        self.model.eval()  # it leaves no trace: batch normalisation learns from what passes in training
        cost, _ = self._cost(self.model, batch, None)
        self._stop_if_diverged(batch, step, float(cost), 0.0)

    def state(self) -> dict[str, Tensor]:
        """All that the next update depends on, as flat names and tensors."""
        state = {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()}
        state |= {f"ema.{name}": tensor for name, tensor in self.average.model.state_dict().items()}
        for index, values in self.optimizer.state_dict()["state"].items():
            state |= {f"optimizer.{index}.{key}": torch.as_tensor(value) for key, value in values.items()}
        return state

    def restore(self, state: dict[str, Tensor]) -> None:
        """Undo `state`.

        Raises:
            ValueError: the state is of another model.
        """
        try:
            self.model.load_state_dict(_under("model.", state))
            self.average.model.load_state_dict(_under("ema.", state))
        except RuntimeError as error:
            raise ValueError(f"the run's state is of another model: {error}") from None
        values: dict[int, dict[str, Tensor]] = {}
        for name, tensor in _under("optimizer.", state).items():
            index, _, key = name.partition(".")
            values.setdefault(int(index), {})[key] = tensor
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


def _floats(measured: Mapping[str, Tensor]) -> dict[str, float]:
    return {name: float(value.detach()) for name, value in measured.items()}


def _under(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}

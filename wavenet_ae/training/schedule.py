"""How fast to learn: learning rates by step, and the moving average of the weights."""

import contextlib
import copy
from collections.abc import Iterator, Mapping
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

from wavenet_ae.training.processes import own, shared_as, whole

Network = TypeVar("Network", bound=nn.Module)


class Steps:
    """A learning rate for each stretch of steps, as NSynth was trained; `warmup` steps rise to it linearly."""

    def __init__(self, *, table: Mapping[int, float], warmup: int):
        """Take a table from first step to learning rate.

        Raises:
            ValueError: it does not begin at step 0, or a rate is not positive.
        """
        self.table = {int(step): float(rate) for step, rate in sorted(table.items())}
        self.warmup = warmup
        if 0 not in self.table or min(self.table.values()) <= 0 or min(self.table) < 0:
            raise ValueError(f"the learning rates are {self.table}: expected positive rates, the first from step 0")

    def __call__(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""
        rate = next(rate for first, rate in reversed(self.table.items()) if step >= first)
        return rate * min(1.0, (step + 1) / (self.warmup + 1))

    def check(self, steps: int) -> None:
        """Refuse a table whose last rates are never reached.

        Raises:
            ValueError: a stretch begins after the last step.
        """
        late = [first for first in self.table if first >= max(steps, 1)]
        if late:
            raise ValueError(
                f"the learning rates of schedule.table from step {late[0]:,} are never used in {steps:,} steps: "
                f"train longer, or leave them out by '~schedule.table' '+schedule.table={{0:{self.table[0]:g}}}'"
            )


class MovingAverage(Generic[Network]):
    """An exponential moving average of a model's weights: what is validated, heard and shipped.

    NSynth: the decay is at most (1 + step) / (10 + step), so that a young average forgets its random start.
    """

    def __init__(self, model: Network, *, decay: float):
        if not 0 <= decay < 1:
            raise ValueError(f"ema_decay is {decay}: expected at least 0 and below 1 (0.9999 for NSynth)")
        self.decay = decay
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.weights: list[Tensor] = list(self.model.parameters())

    @torch.no_grad()
    def update(self, model: Network, step: int) -> None:
        """Move towards the weights as they are after `step`, counted from 0."""
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_([*map(own, self.weights)], [*map(own, model.parameters())], 1 - decay)
        for average, value in zip(self.model.buffers(), model.buffers(), strict=True):
            average.copy_(value)

    @torch.no_grad()
    def share_as(self, model: nn.Module) -> None:
        """Keep from here on no more than this process's share, as of a model that was shared out."""
        self.weights = [shared_as(like, weight) for like, weight in zip(model.parameters(), self.weights, strict=True)]
        self._part()

    @contextlib.contextmanager
    def assembled(self) -> Iterator[None]:
        """Within it the averaged model is in one piece; all processes that share it enter together."""
        for place, weight in zip(self.model.parameters(), self.weights, strict=True):
            if place is not weight:
                place.data = whole(weight)
        try:
            yield
        finally:
            self._part()

    @torch.no_grad()
    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Take up an average in one piece.

        Raises:
            RuntimeError: it is of another model.
        """
        with self.assembled():
            self.model.load_state_dict(state)
            for place, weight in zip(self.model.parameters(), self.weights, strict=True):
                own(weight).copy_(own(shared_as(weight, place)))

    def _part(self) -> None:
        for place, weight in zip(self.model.parameters(), self.weights, strict=True):
            if place is not weight:
                place.data = place.data.new_empty(0)

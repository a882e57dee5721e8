"""The only loop: steps, validation, states, logs. It knows no model."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor

from wavenet_ae.notes import Batch
from wavenet_ae.training import memory
from wavenet_ae.training.clock import Clock, Plan
from wavenet_ae.training.processes import ALONE, Group
from wavenet_ae.training.run import Run


@runtime_checkable
class Objective(Protocol):
    """What is minimised; see objectives.py. `unit` names the measurement to show."""

    unit: str

    def learn(self, batch: Batch, step: int) -> dict[str, float]:
        """One update."""

    def measure(self, batch: Batch) -> dict[str, float]:
        """What a batch costs."""

    def check(self, batch: Batch, step: int) -> None:
        """Refuse weights that are spoilt, before they are kept."""

    def state(self) -> dict[str, Tensor]:
        """All that the next update depends on; every process asks, the first is told."""

    def assembled(self) -> AbstractContextManager[None]:
        """Within it what is measured, kept and heard is in one piece; every process enters."""


@dataclass(frozen=True)
class Hooks:
    """What the loop calls at its own pace, each with the step: log elsewhere too, keep the model, listen to it."""

    log: Callable[[int, dict[str, float]], None] = lambda step, values: None
    keep: Callable[[int], None] = lambda step: None
    listen: Callable[[int], None] = lambda step: None


@dataclass(frozen=True)
class Loop:
    """What to learn from what, where to keep it, and at which pace."""

    objective: Objective
    batches: Iterator[Batch]
    validation: Sequence[Batch]
    run: Run
    plan: Plan
    hooks: Hooks
    group: Group = ALONE

    def train(self, first: int = 0) -> tuple[int, str]:
        """Learn from step `first` on; return the last step and how it ended, in words.

        SIGINT and SIGTERM end it after the step under way, its state saved.

        Raises:
            Diverged: the last good state is untouched.
        """
        step, batch, unit = first, None, self.objective.unit
        with Clock(self.plan, first, quiet=not self.group.is_first) as clock:
            self._validate(step)
            clock.begin()
            ended = self.group.agreed(clock.ended(step))
            while ended is None:
                batch = next(self.batches)
                measured = self.objective.learn(batch, step)
                step += 1
                clock.tick(step, self.group.count * batch.wave.numel(), f"{measured[unit]:.3g} {unit}")
                if _due(step, self.plan.log_every):
                    self._log(step, measured | clock.rates() | memory.used(self.group.device))
                ended = self.group.agreed(clock.ended(step))
                if ended is None:
                    self._chores(step, batch)
            self._save(step, batch)
        if not any(self.group.gathered(clock.interrupted)):
            self._validate(step, last=True)
            if self.plan.listen_every:
                self._listen(step)
        return step, ended

    def _chores(self, step: int, batch: Batch) -> None:
        listening = _due(step, self.plan.listen_every)
        if _due(step, self.plan.checkpoint_every) or (listening and self.plan.checkpoint_every):
            self._save(step, batch)  # listening takes longer than the grace before a preempted job is killed
        self._validate(step)
        if listening:
            self._listen(step)

    def _listen(self, step: int) -> None:
        with self.objective.assembled():
            if self.group.is_first:
                self.hooks.listen(step)
            self.group.wait()

    def _save(self, step: int, batch: Batch | None) -> None:
        if batch is not None:
            self.objective.check(batch, step)
        state = self.objective.state()
        with self.objective.assembled():
            if self.group.is_first:
                self.run.save(step, state)
                if not self.plan.keep_best:
                    self.hooks.keep(step)
            self.group.wait()

    def _validate(self, step: int, last: bool = False) -> None:
        due = _due(step, self.plan.validate_every) or (last and self.plan.validate_every)
        done = due and any(
            f"valid_{self.objective.unit}" in line for line in self.run.metrics() if line["step"] == step
        )
        if not due or self.group.gathered(done)[0] or not self.validation:
            return
        own = self.validation[self.group.rank :: self.group.count]
        with self.objective.assembled():
            shares = self.group.gathered([self.objective.measure(batch) for batch in own])
            each = [share[i] for i in range(len(shares[0])) for share in shares if i < len(share)]  # in order
            measured = {f"valid_{name}": sum(batch[name] for batch in each) / len(each) for name in each[0]}
            if self.plan.keep_best:
                self._keep_if_best(step, measured[f"valid_{self.objective.unit}"])
        self._log(step, measured)

    def _keep_if_best(self, step: int, cost: float) -> None:
        """Before it is logged: what is logged is not measured again."""
        if self.group.is_first:
            before = self.run.best(self.objective.unit)
            if before is None or cost < before[1]:
                self.hooks.keep(step)
        self.group.wait()

    def _log(self, step: int, values: dict[str, float]) -> None:
        """Everywhere alike; `<x>nats` gets its `<x>bits` beside it."""
        bits = {name[:-4] + "bits": value / math.log(2) for name, value in values.items() if name.endswith("nats")}
        if self.group.is_first:
            self.run.log(step, values | bits)
            self.hooks.log(step, values | bits)


def _due(step: int, every: int) -> bool:
    return bool(every) and step % every == 0

"""A run's clock: its progress bar, its rates, and when to stop."""

import math
import signal
import sys
import time
from dataclasses import dataclass
from types import FrameType
from typing import Any

from tqdm import tqdm


@dataclass(frozen=True)
class Plan:
    """How long to train and what to do how often, in steps; 0 is never. `minutes` may end it earlier.

    Of these `spent` seconds are over before it begins. With `keep_best` the model that is kept is the one that held-out
    notes cost least, not the last.
    """

    steps: int
    minutes: float | None
    log_every: int
    validate_every: int
    checkpoint_every: int
    listen_every: int
    keep_best: bool = False
    spent: float = 0.0

    def __post_init__(self) -> None:
        """Refuse numbers that mean nothing."""
        for name, value in vars(self).items():
            least = 1 if name in ("steps", "log_every") else 0
            if value is not None and value < least:
                raise ValueError(f"{name} is {value}: expected {least} or more")
        if self.keep_best and not self.validate_every:
            raise ValueError(
                "keep_best=true and validate_every=0: nothing says which is best; validate every so many steps"
            )


class Clock:
    """Shows progress over steps or, where `minutes` end the run, over time; catches SIGINT and SIGTERM."""

    def __init__(self, plan: Plan, first: int, *, quiet: bool = False):
        self.plan, self.first, self.quiet = plan, first, quiet
        self.seconds = None if plan.minutes is None else max(0.0, plan.minutes * 60 - plan.spent)
        self.steps = self.samples = 0
        self.interrupted = ""
        self._handlers: dict[signal.Signals, Any] = {}
        self.started = time.monotonic()
        self.bar: tqdm | None = None

    def __enter__(self) -> "Clock":
        """From here a signal is noted rather than obeyed. A second one acts as usual."""
        for number in (signal.SIGINT, signal.SIGTERM):
            self._handlers[number] = signal.signal(number, self._note)
        return self

    def begin(self) -> None:
        """Time counts from here."""
        self.started = time.monotonic()
        terminal = sys.stderr.isatty()
        self.bar = tqdm(
            desc="train",
            disable=self.quiet,
            initial=self.first if self.seconds is None else 0,
            total=self.plan.steps if self.seconds is None else math.ceil(self.seconds),
            unit="step" if self.seconds is None else "s",
            mininterval=0.5 if terminal else 20,
            maxinterval=1 if terminal else 30,
            dynamic_ncols=terminal,
            bar_format="{l_bar}{bar}| {elapsed}<{remaining}{postfix}",
        )

    def __exit__(self, *_: object) -> None:
        """Give the signals back."""
        if self.bar is not None:
            self.bar.close()
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def ended(self, step: int) -> str | None:
        """Why there is no next step, in words; None if there is one."""
        if self.interrupted:
            return self.interrupted
        if step >= self.plan.steps:
            return "all steps done"
        if self.seconds is not None and time.monotonic() - self.started >= self.seconds:
            return f"{self.plan.minutes:g} minutes over"
        return None

    def rates(self) -> dict[str, float]:
        """Steps and samples a second since the start."""
        elapsed = time.monotonic() - self.started
        return {"steps_per_s": self.steps / elapsed, "samples_per_s": self.samples / elapsed}

    def tick(self, step: int, samples: int, cost: str) -> None:
        """One more step is done, at a cost in words."""
        assert self.bar is not None, "begin() comes first"
        self.steps, self.samples = self.steps + 1, self.samples + samples
        rates = self.rates()
        text = f"{cost}, {rates['steps_per_s']:.3g} steps/s, {rates['samples_per_s']:,.0f} samples/s"
        self.bar.set_postfix_str(f"step {step:,}, {text}", refresh=False)
        elapsed = time.monotonic() - self.started
        self.bar.update(1 if self.seconds is None else min(elapsed, self.seconds) - self.bar.n)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.interrupted = f"{signal.Signals(number).name} received"
        signal.signal(number, self._handlers[signal.Signals(number)])

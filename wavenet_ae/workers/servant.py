"""What stands in a process that does jobs for another one, and how the two speak."""

import logging
import os
import pickle
import platform
import traceback
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch

log = logging.getLogger("wavenet_ae")

Start = Callable[[], Callable[[Any], Any]]


class Outcome(NamedTuple):
    """What a job came to; what was said on the way is said again where it was asked for."""

    result: Any = None
    error: Exception | None = None
    trace: str = ""
    said: Sequence[tuple[int, str]] = ()


@runtime_checkable
class Hand(Protocol):
    """A process at work, seen from the one that it works for."""

    def give(self, job: Any) -> None:
        """Let it do a job; it must have none."""

    def heard(self) -> Outcome | str:
        """What it says next: how its start went, then what each job came to; how it ended, in words, if it did."""

    def end(self) -> None:
        """Stop it, whatever it does."""


@runtime_checkable
class Crew(Protocol):
    """Where processes come from, and how many there may be."""

    size: int

    def hire(self) -> Any:
        """Start one."""

    def first(self, hands: Sequence[Any]) -> Any:
        """Wait for one that has something to say."""

    def close(self) -> None:
        """Leave nothing running."""


class Servant:
    """Does jobs in the way that `start` says, in a folder and on so many threads."""

    def __init__(self, start: Start, threads: int, folder: str):
        self._said: list[tuple[int, str]] = []
        torch.set_num_threads(threads)
        self._listen()
        self._work: Callable[[Any], Any] | None = None
        self._first = self._tried(lambda: self._begin(start, folder))

    def ready(self) -> Outcome:
        """How the start went."""
        return self._first

    def do(self, job: Any) -> Outcome:
        """What a job comes to."""
        assert self._work is not None, "it did not start"
        work = self._work
        return self._tried(lambda: work(job))

    def _begin(self, start: Start, folder: str) -> None:
        try:
            os.chdir(folder)
        except OSError as error:
            raise OSError(
                f"{folder} cannot be entered on {platform.node()} ({error.strerror}): expected the same folders on "
                "every machine of the cluster; start from a disk that they share"
            ) from None
        self._work = start()

    def _tried(self, doing: Callable[[], Any]) -> Outcome:
        self._said.clear()
        try:
            return Outcome(doing(), said=list(self._said))
        except Exception as error:
            return Outcome(error=_portable(error), trace=traceback.format_exc(), said=list(self._said))

    def _listen(self) -> None:
        log.handlers, log.propagate = [_Ear(self._said)], False
        log.setLevel(logging.INFO)


class _Ear(logging.Handler):
    """Keeps what is logged."""

    def __init__(self, said: list[tuple[int, str]]):
        super().__init__()
        self.said = said

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append((record.levelno, record.getMessage()))


def _portable(error: Exception) -> Exception:
    """The error, or one of its words where it cannot be sent to another process."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error

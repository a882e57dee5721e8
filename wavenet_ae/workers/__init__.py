"""Work shared out: in this process, in several, or on a Ray cluster.

Whoever does a job and however often it is tried, its result must be the same: then so is everything that is made of
it. A job that ends its process (a crash, a kill, no memory left) is tried again by another one, and named at last.
"""

import logging
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any, TypeVar

from wavenet_ae.workers import cluster
from wavenet_ae.workers.local import Processes
from wavenet_ae.workers.servant import Crew, Hand, Outcome

__all__ = ["FAULTS", "RAY", "TRIES", "Lost", "check", "shared"]

Job = TypeVar("Job")
Result = TypeVar("Result")

RAY = "ray"
TRIES = 3  # of a job that its process did not outlive, and of processes that do not come to life
_NAMED = (ValueError, OSError, RuntimeError)  # what a job may come to instead of a result; others are our own mistakes

log = logging.getLogger("wavenet_ae")


class Lost(RuntimeError):
    """A job without a result: every process that tried it came to its end."""


FAULTS = (ValueError, FileNotFoundError, Lost)  # of one input among many; another error concerns them all


def check(workers: object) -> None:
    """Refuse before work starts what cannot be had: 0 is this process alone, N are processes here, or `ray`.

    Raises:
        ValueError: it is none of these, or Ray is not installed.
    """
    if workers == RAY:
        cluster.installed()
    elif not isinstance(workers, int) or isinstance(workers, bool) or workers < 0:
        raise ValueError(f"workers is {workers!r}: expected 0 (this process alone), a number of processes, or ray")


def shared(
    start: Callable[[], Callable[[Job], Result]],
    jobs: Sequence[Job],
    workers: int | str,
    *,
    done: Callable[[int], object] = lambda index: None,
    gpu: bool = False,
) -> Generator[Result | Exception, None, None]:
    """What each job comes to, in the order of the jobs: its result, or a ValueError, OSError, RuntimeError or `Lost`.

    `start` is called once in each process and says how a job is done; both it and the jobs are pickled. `done` is
    told the number of each job as soon as it is over, in whatever order. `gpu` asks Ray for one for each process. On a
    cluster every machine needs the same folders: paths mean there what they mean here.

    Raises:
        Exception: what `start` raises; what a job raises that is none of the above.
        RuntimeError: no process can be started, or there is no cluster.
    """
    check(workers)
    if not workers or not jobs:
        yield from _alone(start, jobs, done)
        return
    crew: Crew = cluster.Cluster(start, gpu) if workers == RAY else Processes(start, min(int(workers), len(jobs)))
    try:
        yield from _Work(crew, jobs, done).results()
    finally:
        crew.close()


def _alone(
    start: Callable[[], Callable[[Job], Result]], jobs: Sequence[Job], done: Callable[[int], object]
) -> Iterator[Result | Exception]:
    work = start() if jobs else None
    for index, job in enumerate(jobs):
        assert work is not None
        outcome: Result | Exception
        try:
            outcome = work(job)
        except _NAMED as error:
            outcome = error
        done(index)
        yield outcome


class _Work:
    """Jobs on their way: what waits, who does what, and what is over but not yet asked for."""

    def __init__(self, crew: Crew, jobs: Sequence[Any], done: Callable[[int], object]):
        self.crew, self.jobs, self.done = crew, jobs, done
        self.waiting, self.tries = deque(range(len(jobs))), [0] * len(jobs)
        self.over = dict[int, Any]()
        self.hands = dict[Hand, int | None]()  # with the job that each has; with none it is starting
        self.stillborn = 0

    def results(self) -> Iterator[Any]:
        """In the order of the jobs; what is over too early waits for its turn."""
        try:
            for turn in range(len(self.jobs)):
                while turn not in self.over:
                    self._hire()
                    hand = self.crew.first(list(self.hands))
                    self._hear(hand, self.hands.pop(hand))
                yield self.over.pop(turn)
        finally:
            for hand in self.hands:
                hand.end()

    def _hire(self) -> None:
        starting = list(self.hands.values()).count(None)
        while len(self.hands) < self.crew.size and starting < len(self.waiting):
            self.hands[self.crew.hire()] = None
            starting += 1

    def _hear(self, hand: Hand, index: int | None) -> None:
        said = hand.heard()
        if isinstance(said, str):
            hand.end()
            self._bury(said, index)
            return
        told = _told(said, starting=index is None)
        if index is None:
            self.stillborn = 0
        else:
            self._finish(index, told)
        if self.waiting:
            following = self.waiting.popleft()
            self.hands[hand] = following
            hand.give(self.jobs[following])
        else:
            hand.end()

    def _bury(self, how: str, index: int | None) -> None:
        """Somebody else does what a process left undone, unless it costs every one of them."""
        if index is None:
            self.stillborn += 1
            if self.stillborn == TRIES:
                raise RuntimeError(f"no process for the work can be started: {how}")
            log.warning("a process was lost as it started (%s): another is started", how)
            return
        self.tries[index] += 1
        if self.tries[index] < TRIES:
            log.warning("a process was lost (%s): what it did is done again", how)
            self.waiting.appendleft(index)
        else:
            self._finish(index, Lost(f"the process that worked on it was lost {TRIES} times, at last: {how}"))

    def _finish(self, index: int, result: Any) -> None:
        self.over[index] = result
        self.done(index)


def _told(outcome: Outcome, *, starting: bool) -> Any:
    """The result or the error, once what was said with it is said."""
    for level, message in outcome.said:
        log.log(level, "%s", message)
    if outcome.error is not None and (starting or not isinstance(outcome.error, _NAMED)):
        raise outcome.error from RuntimeError(f"in another process:\n{outcome.trace}")
    return outcome.result if outcome.error is None else outcome.error

"""Threads that run one compiled function together and meet in it."""

import threading
from collections.abc import Callable
from typing import NamedTuple, no_type_check

import numba
import numpy as np

from wavenet_ae.sampler.cpu.vector import fetch_add, give_way, load_acquire, pause

ABANDONED = 8  # a place in `meetings` a cache line away from the count
SPINS = 2000  # turns of a spin, some tens of microseconds, before a waiting thread gives its core away


class Share(NamedTuple):
    """One of several threads, and how many turns it spins before it gives its core away."""

    thread: int
    threads: int
    spins: int


def begin() -> np.ndarray:
    """Nobody has come to a barrier, and nobody has left for good."""
    return np.zeros(16, np.int64)


@numba.njit(nogil=True, error_model="numpy")
@no_type_check
def meet(meetings, met, share):
    """Wait until every thread has come; returns how often they have met."""
    if share.threads > 1:
        fetch_add(meetings, 0, 1)
        spun = 0
        while load_acquire(meetings, 0) < share.threads * (met + 1) and load_acquire(meetings, ABANDONED) == 0:
            spun += 1
            if spun < share.spins:
                pause()
            else:
                give_way()
    return met + 1


def together(run: Callable[[Share], object], threads: int, spins: int, meetings: np.ndarray) -> None:
    """One call of `run` in each thread, this one among them. They live as long as that: none is lost in a fork.

    Whatever ends one of them early is raised here, and the others stop waiting for it: `meetings` says so.
    """
    faults = list[BaseException]()

    def take(share: Share) -> None:
        try:
            run(share)
        except BaseException as error:
            meetings[ABANDONED] = 1
            faults.append(error)

    others = [threading.Thread(target=take, args=(Share(n, threads, spins),)) for n in range(1, threads)]
    finished = False
    try:
        for thread in others:
            thread.start()
        run(Share(0, threads, spins))
        finished = True
    finally:
        if not finished:  # an interrupt: let nobody wait for ever
            meetings[ABANDONED] = 1
        for thread in others:
            if thread.ident is not None:
                thread.join()
    if faults:
        raise faults[0]

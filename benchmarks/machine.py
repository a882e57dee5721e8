"""What the machine allows at this moment: how fast it reads memory and multiplies, on so many threads."""

import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import no_type_check

import numba
import numpy as np
import torch

from wavenet_ae.sampler.cpu.vector import COLUMNS, multiply
from wavenet_ae.sampler.weights import PANEL, aligned

REPEATS = 5


@numba.njit(nogil=True)
@no_type_check
def _sum(words):
    """Of whole numbers, so that the compiler may add them in any order, many at once."""
    total = 0
    for i in range(words.size):
        total += words[i]
    return total


@numba.njit(nogil=True)
@no_type_check
def _read(words, times):
    """Read all of it, so many times."""
    total = 0
    for _ in range(times):
        total ^= _sum(words)
    return total


@numba.njit(nogil=True)
@no_type_check
def _multiply(weights, x, out, inputs, times):
    """One panel times eight columns, all of it in the nearest cache."""
    for _ in range(times):
        multiply(weights, 0, 0, x, 0, inputs, inputs, out, 0, PANEL, COLUMNS, 1)


def read_rate(size: int, threads: int) -> float:
    """Bytes per second read from an array of `size` bytes, each thread reading its own part over and over."""
    words = aligned(np.arange(max(size // 8, 1024 * threads)), np.dtype(np.int64))
    times = max(1, int(400e6 / words.nbytes))
    parts = [words[len(words) * n // threads : len(words) * (n + 1) // threads] for n in range(threads)]
    return times * words.nbytes / _fastest([partial(_read, part, times) for part in parts])


def multiply_rate(threads: int) -> float:
    """Multiply-adds per second in float32: the better of the engine's own inner loop and torch's matrix product."""
    inputs, times = 128, 20_000
    work = []
    for _ in range(threads):
        arrays = [
            aligned(np.zeros(size), np.dtype(np.float32))
            for size in (inputs * PANEL, inputs * COLUMNS, PANEL * COLUMNS)
        ]
        work.append(partial(_multiply, *arrays, inputs, times))
    ours = threads * times * inputs * PANEL * COLUMNS / _fastest(work)
    torch.set_num_threads(threads)
    square = torch.ones(1536, 1536)
    return max(ours, 1536**3 / _fastest([lambda: square @ square]))


def _fastest(work: Sequence[Callable[[], object]]) -> float:
    """Seconds for all of it side by side, the best of a few."""
    best = float("inf")
    for _ in range(REPEATS + 1):  # the first compiles
        threads = [threading.Thread(target=one) for one in work[1:]]
        start = time.perf_counter()
        for thread in threads:
            thread.start()
        work[0]()
        for thread in threads:
            thread.join()
        best = min(best, time.perf_counter() - start)
    return best

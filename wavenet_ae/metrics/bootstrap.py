"""How sure a number is: the mean, median or any statistic of some notes, with its 95% bootstrap interval."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

RESAMPLES = 1000
LEVEL = 0.95


class Estimate(NamedTuple):
    """A value, the interval around it (NaN where there is none) and how many notes it rests on."""

    value: float
    low: float
    high: float
    notes: int


def mean(values: Float[np.ndarray, " notes"]) -> Estimate:
    """Of the values that are numbers; NaN marks a note of which this cannot be said."""
    return _of_numbers(values, np.mean)


def median(values: Float[np.ndarray, " notes"]) -> Estimate:
    """As `mean`."""
    return _of_numbers(values, np.median)


def estimate(statistic: Callable[[Int[np.ndarray, " notes"]], float], count: int) -> Estimate:
    """A statistic of the notes with these indices: of all of them, and of resamples (Efron 1979, percentiles).

    One note tells nothing of others, so its interval is NaN.
    """
    if count == 0:
        return Estimate(np.nan, np.nan, np.nan, 0)
    value = float(statistic(np.arange(count)))
    if count == 1:
        return Estimate(value, np.nan, np.nan, 1)
    low, high = np.quantile(resampled(statistic, count, RESAMPLES), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(value, float(low), float(high), count)


def resampled(
    statistic: Callable[[Int[np.ndarray, " notes"]], float], count: int, resamples: int
) -> Float[np.ndarray, " resamples"]:
    """The statistic of so many draws of `count` notes with replacement, always the same draws."""
    dice = np.random.Generator(np.random.Philox(key=0))
    return np.array([statistic(dice.integers(count, size=count)) for _ in range(resamples)], dtype=np.float64)


def _of_numbers(values: np.ndarray, statistic: Callable[[np.ndarray], np.floating]) -> Estimate:
    there = np.sort(values[np.isfinite(values)])  # so that the order of the notes does not matter
    return estimate(lambda chosen: float(statistic(there[chosen])), len(there))

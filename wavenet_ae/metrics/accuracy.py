"""Accuracy: the share of right answers, 0 to 1, higher is better; plain, and with every class counted alike."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from wavenet_ae.metrics import bootstrap
from wavenet_ae.metrics.bootstrap import Estimate


def plain(right: Float[np.ndarray, " notes"]) -> Estimate:
    """The share of right answers; each note's is 0 or 1, or the share of its frames."""
    return bootstrap.mean(right)


def balanced(right: Float[np.ndarray, " notes"], truth: Sequence[int | str]) -> Estimate:
    """The mean over the classes that occur of the share of right answers in each: chance is 1 / classes.

    Raises:
        ValueError: there are not as many answers as notes.
    """
    if len(right) != len(truth):
        raise ValueError(f"{len(right)} answers do not fit {len(truth)} notes: expected one each")
    classes, index = np.unique(np.array(truth, dtype=str), return_inverse=True)
    order = np.lexsort((right, index))  # so that the order of the notes does not matter
    right, index = right[order], index[order]

    def recall(chosen: np.ndarray) -> float:
        there = np.bincount(index[chosen], minlength=len(classes))
        found = np.bincount(index[chosen], weights=right[chosen], minlength=len(classes))
        return float((found[there > 0] / there[there > 0]).mean())

    return bootstrap.estimate(recall, len(right))

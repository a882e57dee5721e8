"""Frechet audio distance: squared distance of two clouds of features, 0 upwards, lower is better; no unit.

Its scale belongs to the features it is measured in, so it is always reported with their name; distances in other
features, or of other numbers of notes, do not compare (Kilgour et al. 2019; Gui et al. 2024 on small samples).
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import linalg

from wavenet_ae.metrics import bootstrap
from wavenet_ae.metrics.bootstrap import Estimate

RESAMPLES = 200


class Cloud(NamedTuple):
    """A Gaussian fitted to features; `shrinkage` is the share of the covariance that is not theirs but a sphere's.

    In `unseen` further dimensions its mean is 0 and its variance `level`, which is the sphere's alone.
    """

    mean: Float[np.ndarray, " dims"]
    covariance: Float[np.ndarray, "dims dims"]
    shrinkage: float
    samples: int
    unseen: int = 0
    level: float = 0.0


def fit(features: Float[np.ndarray, "samples dims"], *, unseen: int = 0) -> Cloud:
    """The cloud of some features, its covariance shrunk as Ledoit and Wolf 2004 find best for so few samples.

    `unseen` is the number of further dimensions, in which all features are 0.

    Raises:
        ValueError: there are fewer than two samples, or a value is not finite.
    """
    if len(features) < 2 or not np.isfinite(features).all():
        raise ValueError(
            f"{len(features)} samples, {int((~np.isfinite(features)).sum())} of their values not finite, make no "
            "cloud: expected at least two, all finite"
        )
    samples, dims = len(features), features.shape[1] + unseen
    mean = features.mean(axis=0, dtype=np.float64)
    centred = features.astype(np.float64) - mean
    covariance = centred.T @ centred / samples
    level = float(np.trace(covariance)) / dims  # of a sphere of the same size
    strength = float(np.square(covariance).sum())
    apart = strength - dims * level**2  # from that sphere, squared
    chance = float(np.square(np.square(centred).sum(axis=1)).sum()) / samples**2 - strength / samples
    shrinkage = min(1.0, chance / apart) if apart > 0 and chance > 0 else 0.0
    shrunk = (1 - shrinkage) * covariance + shrinkage * level * np.eye(len(mean))
    return Cloud(mean, shrunk, shrinkage, samples, unseen, shrinkage * level)


def between(one: Cloud, other: Cloud) -> float:
    """The distance of two Gaussians: |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)) (Dowson and Landau 1982)."""
    root = _root(one.covariance)
    spread = np.sqrt(np.clip(linalg.eigvalsh(root @ other.covariance @ root), 0, None)).sum()
    apart = float(np.square(one.mean - other.mean).sum()) + one.unseen * (one.level**0.5 - other.level**0.5) ** 2
    return max(0.0, apart + float(np.trace(one.covariance) + np.trace(other.covariance) - 2 * spread))


def distance(originals: Sequence[Float[np.ndarray, "_ dims"]], made: Sequence[Float[np.ndarray, "_ dims"]]) -> Estimate:
    """The distance of the features of some notes, each [windows, dims], and of what was made of each of them.

    Few notes seem farther apart than many, and resamples of them farther still by about as much: the interval is
    the pivotal one (twice the value less the resamples' quantiles), which takes that off, and may end below the value.

    Raises:
        ValueError: there are not as many of both, or fewer than two windows in all.
    """
    if len(originals) != len(made):
        raise ValueError(f"{len(made)} notes were made of {len(originals)}: expected pairs")
    order = sorted(range(len(made)), key=lambda i: (originals[i].tobytes(), made[i].tobytes()))

    groups, unseen = _turned(originals, made)

    def apart(chosen: np.ndarray) -> float:
        one, other = (fit(np.concatenate([each[order[i]] for i in chosen]), unseen=unseen) for each in groups)
        return between(one, other)

    value = apart(np.arange(len(made)))
    if len(made) == 1:
        return Estimate(value, np.nan, np.nan, 1)
    resampled = bootstrap.resampled(apart, len(made), RESAMPLES)
    tails = (1 - bootstrap.LEVEL) / 2
    high, low = 2 * value - np.quantile(resampled, [tails, 1 - tails])
    return Estimate(value, max(0.0, float(low)), max(0.0, float(high)), len(made))


def _turned(
    *groups: Sequence[Float[np.ndarray, "_ dims"]],
) -> tuple[list[list[Float[np.ndarray, "_ seen"]]], int]:
    """The same features on axes that hold all there is of them, and how many other dimensions there are.

    Speed: distances and shrinkage stay what they were, and 200 resamples of 64 points of 2,048 numbers take a second.
    """
    every = np.concatenate([each for group in groups for each in group]).astype(np.float64)
    origin, unseen = every.mean(axis=0), every.shape[1] - len(every)
    if unseen <= 0 or not np.isfinite(every).all():
        return [list(group) for group in groups], 0
    axes, _ = np.linalg.qr((every - origin).T)
    return [[(each - origin) @ axes for each in group] for group in groups], unseen


def _root(covariance: Float[np.ndarray, "dims dims"]) -> Float[np.ndarray, "dims dims"]:
    values, vectors = linalg.eigh(covariance)
    return (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T

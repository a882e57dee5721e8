"""Negative log-likelihood: nats (or bits) a sample, 0 or more, lower is better; knowing nothing costs 5.55 (8).

Samples are mu-law codes, so numbers of other quantisers do not compare, and models without a likelihood have none.
"""

import math

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor


def nats(
    log_probabilities: Float[Tensor, "batch codes samples"], code: Int[Tensor, "batch samples"]
) -> Float[Tensor, "batch samples"]:
    """What each sample's true code cost, given all probabilities at it (natural logarithms). float64."""
    return -log_probabilities.gather(1, code.unsqueeze(1)).squeeze(1).double()


def bits(nats: Float[np.ndarray, "*any"]) -> Float[np.ndarray, "*any"]:
    """The same in bits."""
    return nats / math.log(2)

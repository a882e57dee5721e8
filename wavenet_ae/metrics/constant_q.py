"""Magnitude error on the constant-Q scale: a ratio, 0 (equal) upwards, lower is better; silence for sound scores 1.

Bins are equal steps of pitch, 40 to the octave from C2 up, as in the paper's rainbowgrams: partials out of place
count as much in the bass as in the treble.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from wavenet_ae import spectra
from wavenet_ae.metrics.spectral import check_pair


def error(original: Float[Tensor, " _"], made: Float[Tensor, " _"]) -> float:
    """The norm of the magnitudes' difference over the norm of the original's magnitudes.

    NaN where the original is silent and the other is not: no ratio says how wrong that is.

    Raises:
        ValueError: the sounds differ in length, or there is none.
    """
    check_pair(original, made)
    true, found = spectra.constant_q(torch.stack([original, made])).abs()
    apart, whole = float((true - found).norm()), float(true.norm())
    if whole < spectra.SILENT:
        return 0.0 if apart < spectra.SILENT else math.nan
    return apart / whole

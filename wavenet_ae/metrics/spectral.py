"""Multi-scale log-spectral distance: dB, 0 (equal spectrograms) upwards, lower is better.

At window lengths of 16 to 128 ms, so that neither a smeared attack nor a blurred partial escapes (the scales of
Engel et al. 2020, DDSP, that are longer than a pitch period); phase plays no part, loudness does.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from wavenet_ae import spectra

WINDOWS = (256, 512, 1024, 2048)
RANGE_DB = 80.0  # below the original's loudest point; what is weaker counts as this weak


def distance(original: Float[Tensor, " _"], made: Float[Tensor, " _"]) -> float:
    """The root mean square over bins, averaged over frames and windows, of the levels' differences.

    Raises:
        ValueError: the sounds differ in length, or there is none.
    """
    check_pair(original, made)
    return sum(_at(window, original, made) for window in WINDOWS) / len(WINDOWS)


def check_pair(original: Float[Tensor, " _"], made: Float[Tensor, " _"]) -> None:
    """Refuse sounds that cannot be compared sample by sample.

    Raises:
        ValueError: they differ in length, or there is none.
    """
    if original.shape != made.shape or not original.numel():
        raise ValueError(
            f"a sound of {made.numel()} samples cannot be compared with one of {original.numel()}: expected as many, "
            "and at least one (trim the longer)"
        )


def _at(window: int, original: Tensor, made: Tensor) -> float:
    pair = spectra.stft(torch.stack([original, made]), n_fft=window, hop=window // 4).abs()
    floor = 10 ** (-RANGE_DB / 20) * max(float(pair[0].max()), spectra.SILENT)
    level = spectra.decibels(pair, least=floor)
    return float((level[0] - level[1]).square().mean(dim=0).sqrt().mean())

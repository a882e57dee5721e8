"""The only randomness in the package: uniforms thrown in advance, and the one draw they decide."""

import hashlib

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor


def throw(seed: int, note: int, start: int, samples: int) -> Float[Tensor, " {samples}"]:
    """Uniforms in [0, 1) for samples `start` onward of one note: Philox with key (seed, note).

    The number at a position depends on nothing else, so neither batch, chunk, engine nor a restart
    changes what is drawn. float64.

    Raises:
        ValueError: the seed or the note is negative or does not fit 64 bits.
    """
    for name, value in (("seed", seed), ("note", note)):
        if not 0 <= value < 2**64:
            raise ValueError(f"{name} is {value}: expected an integer from 0 to 2**64 - 1")
    bits = np.random.Philox(key=np.array([seed, note], np.uint64))
    bits.advance(start // 4)  # a Philox block holds four numbers
    uniform = np.random.Generator(bits).random(start % 4 + samples)
    return torch.from_numpy(uniform[start % 4 :])


def normal(seed: int, note: int, start: int, samples: int) -> Float[Tensor, " {samples}"]:
    """The numbers of `throw` as those of a standard Gaussian: on the CPU, so the same everywhere. float64."""
    return torch.special.ndtri(throw(seed, note, start, samples).clamp(min=1e-12))


def note_key(name: str) -> int:
    """A stable number for a name: what keys a file's dice, so that the order of files does not matter."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big")


def check(temperature: float, top_p: float) -> None:
    """Refuse settings of `draw` that mean nothing.

    Raises:
        ValueError: temperature below 0 or not finite, or top_p outside (0, 1].
    """
    if not 0 <= temperature < float("inf"):
        raise ValueError(f"temperature is {temperature}: expected 0 (the likeliest code) or more; 1 is the model's own")
    if not 0 < top_p <= 1:
        raise ValueError(f"top_p is {top_p}: expected more than 0 and at most 1 (1 keeps every code)")


def draw(
    logits: Float[Tensor, "batch codes"], uniform: Float[Tensor, " batch"], temperature: float = 1.0, top_p: float = 1.0
) -> Int[Tensor, " batch"]:
    """The first code whose cumulative probability exceeds the uniform, in float64.

    Temperature 0 is the likeliest code (the first of equals). `top_p` below 1 keeps the fewest likeliest
    codes that reach it together, of equals the lower code first, and renormalises. An edge belongs to
    the code above it; the last code with any probability takes what rounding leaves over.
    """
    if temperature == 0:
        return logits.argmax(dim=-1)
    scores = logits.double() / temperature
    odds = (scores - scores.amax(dim=-1, keepdim=True)).exp()
    if top_p < 1:
        odds = odds * _nucleus(odds, top_p)
    cdf = odds.cumsum(dim=-1)
    threshold = uniform.double().unsqueeze(-1) * cdf[:, -1:]
    last = (odds > 0).long().cumsum(dim=-1).argmax(dim=-1)
    return (cdf <= threshold).sum(dim=-1).minimum(last)


def _nucleus(odds: Float[Tensor, "batch codes"], top_p: float) -> Float[Tensor, "batch codes"]:
    ordered, order = odds.sort(dim=-1, descending=True, stable=True)
    before = ordered.cumsum(dim=-1) - ordered
    kept = before < top_p * ordered.sum(dim=-1, keepdim=True)
    return torch.zeros_like(odds).scatter(-1, order, kept.to(odds.dtype))

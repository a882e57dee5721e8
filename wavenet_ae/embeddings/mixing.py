"""Mixes of embeddings: weighted sums, arcs, lines through several sounds, grids between four, sums and differences.

Values are [dims, frames]; sounds of unequal lengths meet in `time.align` first. Sums are made in float64 and rounded
once, so that a weight of 1 gives that sound bit for bit, and a sound mixed with itself stays itself.
"""

import logging
import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

_PARALLEL = 1e-6  # radians: below it an arc is a line, this far from half a turn it has no direction

log = logging.getLogger(__name__)


def mix(
    sounds: Sequence[Float[Tensor, "dims frames"]],
    weights: Sequence[int | float] | Float[Tensor, " sounds"] | Float[Tensor, "sounds frames"],
) -> Float[Tensor, "dims frames"]:
    """The weighted sum of any number of sounds, their weights constant or one a frame.

    Weights of a mix lie in 0..1 and sum to 1. Others extrapolate, which works, and says so.

    Raises:
        ValueError: the weights are not one for each sound or not finite, or the sounds differ in shape.
    """
    given = check_weights(weights, len(sounds))
    if bool((given < 0).any() | (given > 1).any() | ((given.sum(dim=0) - 1).abs() > 1e-6).any()):
        log.warning(
            "weights %s are not all in 0..1 with a sum of 1: this goes beyond what lies between the sounds",
            [round(weight, 4) for weight in (given if given.ndim == 1 else given[:, 0]).tolist()],
        )
    _check_shapes(sounds)
    total = torch.zeros_like(sounds[0], dtype=torch.float64)
    for sound, weight in zip(sounds, given, strict=True):
        total += weight * sound.double()
    return total.to(sounds[0].dtype)


def analogy(
    a: Float[Tensor, "dims frames"], b: Float[Tensor, "dims frames"], c: Float[Tensor, "dims frames"]
) -> Float[Tensor, "dims frames"]:
    """`a - b + c`: what a has beyond b, given to c."""
    _check_shapes([a, b, c])
    return (a.double() - b.double() + c.double()).to(a.dtype)


def slerp(
    a: Float[Tensor, "dims frames"],
    b: Float[Tensor, "dims frames"],
    weight: int | float,
    origin: Float[Tensor, "dims 1"] | None = None,
) -> Float[Tensor, "dims frames"]:
    """Spherical interpolation, frame by frame: the direction turns evenly from a to b, the length goes linearly.

    Directions are those seen from `origin` (zero if None; from silence, a sound's length is what sets it apart
    from nothing). Frames with no direction between them, parallel, opposite or at the origin, go linearly
    (Shoemake 1985, "Animating rotation with quaternion curves"; lengths apart, as embeddings are not unit vectors).

    Raises:
        ValueError: the weight is not finite, or the sounds differ in shape.
    """
    line = mix([a, b], [1 - weight, weight])
    if weight in (0, 1):
        return line
    centre = torch.zeros_like(a[:, :1]) if origin is None else origin
    start, stop = (each.double() - centre.to(each).double() for each in (a, b))
    lengths = torch.stack([start.norm(dim=0), stop.norm(dim=0)])
    directions = start / lengths[0].clamp_min(1e-30), stop / lengths[1].clamp_min(1e-30)
    angle = torch.acos((directions[0] * directions[1]).sum(dim=0).clamp(-1, 1))
    shares = torch.stack([((1 - weight) * angle).sin(), (weight * angle).sin()]) / angle.sin()
    length = (1 - weight) * lengths[0] + weight * lengths[1]
    arc = centre + length * (shares[0] * directions[0] + shares[1] * directions[1])
    is_arc = (angle > _PARALLEL) & (angle < math.pi - _PARALLEL) & (lengths.amin(dim=0) > 0)
    return torch.where(is_arc, arc.to(a.dtype), line)


def line(sounds: Sequence[Float[Tensor, "dims frames"]], steps: int) -> Float[Tensor, "steps dims frames"]:
    """Mixes at even steps from the first sound through the others to the last, all ends included.

    Raises:
        ValueError: fewer than two sounds or steps, or the sounds differ in shape.
    """
    weights = weights_at(steps_between(len(sounds), steps), len(sounds))
    return torch.stack([mix(sounds, each) for each in weights.T])


def grid(
    nw: Float[Tensor, "dims frames"],
    ne: Float[Tensor, "dims frames"],
    sw: Float[Tensor, "dims frames"],
    se: Float[Tensor, "dims frames"],
    *,
    rows: int,
    columns: int,
) -> Float[Tensor, "rows columns dims frames"]:
    """Bilinear mixes of four sounds at the corners: row 0 is the north, column 0 the west.

    Raises:
        ValueError: fewer than two rows or columns, or the sounds differ in shape.
    """
    down, across = (weights_at(steps_between(2, steps), 2) for steps in (rows, columns))
    cells = [mix([nw, ne, sw, se], torch.outer(y, x).flatten()) for y in down.T for x in across.T]
    return torch.stack(cells).unflatten(0, (rows, columns))


def steps_between(sounds: int, steps: int) -> Float[Tensor, " {steps}"]:
    """Positions from 0, the first sound, to `sounds - 1`, the last, at even steps.

    Raises:
        ValueError: fewer than two of either.
    """
    if sounds < 2 or steps < 2:
        raise ValueError(f"{steps} steps between {sounds} sounds: expected at least 2 of each, the ends being steps")
    return torch.arange(steps, dtype=torch.float64) * (sounds - 1) / (steps - 1)


def weights_at(position: Float[Tensor, " steps"], sounds: int) -> Float[Tensor, "{sounds} steps"]:
    """How much of each sound there is at a position: all of sound n at n, its two neighbours' shares in between."""
    return (1 - (position - torch.arange(sounds, dtype=torch.float64)[:, None]).abs()).clamp_min(0)


def scale(
    values: Float[Tensor, "dims frames"],
    factors: Sequence[int | float] | Float[Tensor, " dims"],
    origin: Float[Tensor, "dims 1"] | None = None,
) -> Float[Tensor, "dims frames"]:
    """Each dimension's distance from `origin` (zero if None; silence keeps silence silent) times its factor.

    Raises:
        ValueError: the factors are not one for each dimension, or not finite.
    """
    given = torch.as_tensor(factors).to(values)
    if given.shape != values.shape[:1] or not bool(torch.isfinite(given).all()):
        raise ValueError(f"factors {given.tolist()}: expected {values.shape[0]} finite numbers, one for each dimension")
    centre = torch.zeros_like(values[:, :1]) if origin is None else origin.to(values)
    return torch.where(given[:, None] == 1, values, centre + given[:, None] * (values - centre))


def check_weights(
    weights: Sequence[int | float] | Float[Tensor, " sounds"] | Float[Tensor, "sounds frames"], sounds: int
) -> Float[Tensor, "..."]:
    """The weights as a float64 tensor, one for each of so many sounds.

    Raises:
        ValueError: they are not, or not finite.
    """
    given = torch.as_tensor(weights, dtype=torch.float64)
    if len(given) != sounds or not sounds:
        raise ValueError(f"{len(given)} weights do not fit {sounds} sounds: expected one for each")
    if not bool(torch.isfinite(given).all()):
        raise ValueError(f"weights {given.tolist()} are not all finite: expected numbers, from 0 to 1 for a mix")
    return given


def _check_shapes(sounds: Sequence[Tensor]) -> None:
    shapes = [list(sound.shape) for sound in sounds]
    if any(shape != shapes[0] for shape in shapes):
        raise ValueError(f"sounds of shapes {shapes} cannot be mixed: make them equally long first (embeddings.align)")

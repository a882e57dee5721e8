"""What a call makes: the cells of a line, a grid or a way through time, each a mix of the sounds given."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from wavenet_ae import embeddings
from wavenet_ae.embeddings import Embedding

SOUNDS = {"linear": (2, None), "spherical": (2, None), "grid": (4, 4), "crossfade": (2, 2), "morph": (2, None)}
CORNERS = ("NW", "NE", "SW", "SE")
GAINS = ("keep", "equal")


class Shape(NamedTuple):
    """How sounds are mixed.

    `steps` are those of a line, or (rows, columns) of a grid. `weights`, if given, ask for one mix instead of a
    line. `curve` is how a crossfade or morph spends its time.
    """

    mode: str
    steps: tuple[int, ...]
    align: str
    curve: str
    weights: tuple[float, ...] | None = None
    with_sounds: bool = False  # the sounds too, where they are no cells themselves


class Cell(NamedTuple):
    """One mix: where it stands, how much of each sound it holds (on the whole, if that changes), and its embedding."""

    name: str
    row: int
    column: int
    weights: tuple[float, ...]
    embedding: Embedding

    @property
    def sound(self) -> int | None:
        """Which of the sounds it is, if it is one alone."""
        return self.weights.index(1) if sorted(self.weights)[-1] == 1 and sum(map(abs, self.weights)) == 1 else None


def check(shape: Shape, sounds: int) -> None:
    """Refuse what cannot be mixed so, before anything is read.

    Raises:
        ValueError: the mode is unknown, or the sounds, steps or weights do not fit it.
    """
    if shape.mode not in SOUNDS:
        raise ValueError(f"unknown mode {shape.mode!r}: choose one of {', '.join(SOUNDS)}")
    least, most = SOUNDS[shape.mode]
    if sounds < least or (most and sounds > most):
        wanted = f"{least}" if most else f"{least} or more"
        order = f", in the order {' '.join(CORNERS)} (one may stand at several corners)" * (shape.mode == "grid")
        raise ValueError(f"{sounds} sounds for mode={shape.mode}: expected {wanted}{order}")
    if shape.align not in embeddings.ALIGNMENTS:
        raise ValueError(f"unknown align {shape.align!r}: choose one of {', '.join(embeddings.ALIGNMENTS)}")
    if shape.curve not in embeddings.CURVES:
        raise ValueError(f"unknown curve {shape.curve!r}: choose one of {', '.join(embeddings.CURVES)}")
    if shape.weights is not None:
        if shape.mode != "linear":
            raise ValueError(f"weights with mode={shape.mode}: expected mode=linear, of which they are one mix")
        embeddings.check_weights(shape.weights, sounds)
    elif len(shape.steps) != (2 if shape.mode == "grid" else 1) or min(shape.steps) < 2:
        wanted = "two numbers of at least 2, rows and columns" if shape.mode == "grid" else "a number of at least 2"
        raise ValueError(f"steps {list(shape.steps)} for mode={shape.mode}: expected {wanted}")


def cells(sounds: Sequence[Embedding], shape: Shape, silence: Float[Tensor, "dims 1"]) -> list[Cell]:
    """The cells, row by row, north-west first.

    Raises:
        ValueError: the sounds come from different models, or a sound of one frame is to change over time.
    """
    met = embeddings.align(sounds, shape.align, silence)
    values = [each.values for each in met]
    if shape.weights is not None:
        made = [("mix", 0, 0, shape.weights, embeddings.mix(values, shape.weights))]
    elif shape.mode == "grid":
        made = _grid(values, *shape.steps)
    elif shape.mode in ("linear", "spherical"):
        made = _line(values, shape.mode, shape.steps[0], silence)
    else:
        alike = (1 / len(values),) * len(values)
        made = [(shape.mode, 0, 0, alike, embeddings.morph(values, shape.curve))]
    if shape.with_sounds and len(made) == 1:
        alone = torch.eye(len(values)).tolist()
        made += [(f"sound_{n}", 1, n, tuple(alone[n]), each) for n, each in enumerate(values)]
    return [
        Cell(name, row, column, weights, _record(met, weights, mixed)) for name, row, column, weights, mixed in made
    ]


_Made = tuple[str, int, int, tuple[float, ...], Tensor]  # a cell but for its record


def _line(values: Sequence[Tensor], mode: str, steps: int, silence: Tensor) -> list[_Made]:
    position = embeddings.steps_between(len(values), steps)
    weights = embeddings.weights_at(position, len(values)).T
    if mode == "linear":
        mixes = list(embeddings.line(values, steps))
    else:
        first = position.long().clamp_max(len(values) - 2).tolist()
        mixes = [
            embeddings.slerp(values[n], values[n + 1], float(at) - n, silence)
            for n, at in zip(first, position, strict=True)
        ]
    return [(f"{mode}_{n}", 0, n, tuple(weights[n].tolist()), mixes[n]) for n in range(steps)]


def _grid(values: Sequence[Tensor], rows: int, columns: int) -> list[_Made]:
    mixes = embeddings.grid(*values, rows=rows, columns=columns)
    down, across = (embeddings.weights_at(embeddings.steps_between(2, n), 2).T for n in (rows, columns))
    return [
        (f"grid_{r}_{c}", r, c, tuple(torch.outer(down[r], across[c]).flatten().tolist()), mixes[r, c])
        for r in range(rows)
        for c in range(columns)
    ]


def _record(sounds: Sequence[Embedding], weights: Sequence[float], values: Tensor) -> Embedding:
    """A mix with what its sounds agree on."""
    pitches, velocities = ({getattr(each, name) for each in sounds} for name in ("pitch", "velocity"))
    return sounds[0]._replace(
        values=values,
        model=next((each.model for each in sounds if each.model), ""),
        source=" + ".join(
            f"{weight:.4g} {each.source}" for weight, each in zip(weights, sounds, strict=True) if weight
        ),
        pitch=min(pitches) if len(pitches) == 1 else None,
        velocity=min(velocities) if len(velocities) == 1 else None,
    )

"""What a source of sounds is: a plan of items, each made into notes, apart from how a corpus is written."""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

OCTAVES = (-24, -12, 0, 12, 24)  # semitones an organ may sound from its key: the label is the key, as in NSynth


class Instrument(NamedTuple):
    """What is to be numbered: one instrument of one split. `name` is the source's own name for it."""

    name: str
    family: str
    source: str


@dataclass(frozen=True)
class Item:
    """A part of the work that is done whole or not at all: an instrument, or a block of records.

    `inputs` is whatever tells this item from another (settings excepted): when it changes, the item is made again.
    `split` and `instrument` are None where the source knows its own labels.
    """

    name: str
    size: int
    inputs: Any
    instrument: Instrument | None = None
    split: str | None = None


@dataclass(frozen=True)
class Plan:
    """All the items of a source, and what it cannot use: inputs that fail, each with its reason."""

    items: list[Item]
    failed: dict[str, str] = field(default_factory=dict)


class Sound(NamedTuple):
    """A note made; `entry` is a whole examples.json entry where the source brings its own labels."""

    wave: Float[Tensor, " samples"]
    pitch: int = 0
    velocity: int = 0
    entry: dict[str, Any] | None = None


class LeftOut(NamedTuple):
    """A note that a gate stopped: no failure, it is named in prepare.json."""

    what: str
    why: str


class Fault(NamedTuple):
    """An input that could not be used although it should."""

    what: str
    why: str


@runtime_checkable
class Source(Protocol):
    """Where sounds come from; `unit` is what its items are counted in."""

    unit: ClassVar[str]

    def plan(self) -> Plan:
        """Look at all inputs and say what will be done. Nothing long."""

    def make(self, item: Item) -> Iterator[Sound | LeftOut | Fault]:
        """The notes of one item, in an order that never changes."""

    def made_by(self) -> dict[str, Any]:
        """What else a reader of prepare.json should know: versions, checksums."""


def paths(given: "str | int | list[str | int] | None", example: str) -> list[str]:
    """`source.input` as a list: one path or several. A name made of digits comes as a number.

    Raises:
        ValueError: there is none.
    """
    listed = given if isinstance(given, list) else [] if given is None else [given]
    if not listed:
        raise ValueError(f"nothing given for source.input: add source.input={example}, a folder, or several as [A,B]")
    return [str(path) for path in listed]


def numbers(given: "str | int | list[int]", what: str) -> list[int]:
    """Whole numbers as a list or as words: "60", "36-84" (both ends), "36-84/12" (every twelfth), "36 48 60-72".

    Raises:
        ValueError: they are not such numbers, or lie outside 0 to 127.
    """
    words = [str(word) for word in given] if isinstance(given, list) else str(given).replace(",", " ").split()
    found: list[int] = []
    for word in words:
        match = re.fullmatch(r"(\d+)(?:-(\d+)(?:/([1-9]\d*))?)?", word)
        if not match:
            raise ValueError(f"{what}={given} holds {word!r}: expected numbers as [36,48] or 36-84 or 36-84/12")
        low = int(match[1])
        found += range(low, int(match[2] or low) + 1, int(match[3] or 1))
    if not found or max(found) > 127:
        raise ValueError(f"{what}={given} gives {found[:3]} ...: expected at least one number, each from 0 to 127")
    return list(dict.fromkeys(found))


def quantity(given: object, what: str) -> float:
    """A number, however it was written.

    Raises:
        ValueError: it is none.
    """
    try:
        number = float(str(given))
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"{what}={given} is no number: expected one, as {what}=4.0")
    return number

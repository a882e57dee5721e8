"""Which keys and velocities each note of an instrument answers to, so that no key is silent."""

from collections import defaultdict
from collections.abc import Iterable
from itertools import pairwise
from typing import NamedTuple

from wavenet_ae.instrument.loops import Loop

HIGHEST = 127  # of MIDI's keys, velocities and controller values; a velocity of 0 is a key let go


class Place(NamedTuple):
    """Where a note belongs: MIDI pitch and velocity, and its cell in the grid of a morphing instrument."""

    pitch: int
    velocity: int = 100
    column: int = 0
    row: int = 0


class Zone(NamedTuple):
    """A sample and when it sounds: `keys` and `velocities` from and to, both included.

    `is_layered` says that other velocities of the same pitch have samples of their own.
    """

    sample: str
    place: Place
    keys: tuple[int, int]
    velocities: tuple[int, int]
    is_layered: bool
    loop: Loop | None = None


def arrange(places: Iterable[Place]) -> list[Zone]:
    """Zones that fill every gap: each cell has a sample for every key at every velocity, the nearest there is."""
    cells: dict[tuple[int, int], dict[int, set[int]]] = defaultdict(lambda: defaultdict(set))
    for place in places:
        cells[place.row, place.column][place.pitch].add(place.velocity)
    zones = []
    for (row, column), pitches in sorted(cells.items()):
        for pitch, keys in cover(pitches).items():
            for velocity, velocities in cover(pitches[pitch], lowest=1).items():
                place = Place(pitch, velocity, column, row)
                zones.append(Zone(sample_name(place), place, keys, velocities, len(pitches[pitch]) > 1))
    return zones


def cover(values: Iterable[int], lowest: int = 0) -> dict[int, tuple[int, int]]:
    """Each value's share of `lowest` to 127: what is nearer to it than to any other, the lower one's where they tie."""
    ordered = sorted(set(values))
    lows = [lowest, *((a + b) // 2 + 1 for a, b in pairwise(ordered))]
    highs = [*(low - 1 for low in lows[1:]), HIGHEST]
    return {value: (low, high) for value, low, high in zip(ordered, lows, highs, strict=True)}


def sample_name(place: Place) -> str:
    """A sample's file below the instrument's folder: plain letters, whatever the instrument is called."""
    cell = f"-{place.column:02d}-{place.row:02d}" if place.column or place.row else ""
    return f"samples/{place.pitch:03d}-{place.velocity:03d}{cell}.wav"

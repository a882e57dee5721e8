"""SFZ: an instrument as text that open and commercial samplers read (sfzformat.com)."""

from collections.abc import Iterable, Sequence
from itertools import groupby

from wavenet_ae.instrument.zones import HIGHEST, Zone


def text(
    zones: Iterable[Zone], *, title: str, attack_s: float, release_s: float, controllers: tuple[int, int] = (16, 17)
) -> str:
    """The preset of an instrument, or, if its zones are of several cells, of one that morphs.

    Args:
        zones: as `arrange` makes them, with their loops; paths are relative to the preset.
        title: a line of comment.
        attack_s: seconds a note takes to begin.
        release_s: seconds it takes to end when its key is let go.
        controllers: MIDI controllers that move west to east and north to south between the cells; the four
            cells around the position sound, at even power.

    Raises:
        ValueError: a controller is no MIDI controller, or the two are one.
    """
    if len(set(controllers)) < 2 or not all(0 <= number <= HIGHEST for number in controllers):
        raise ValueError(f"controllers are {list(controllers)}: expected two different numbers from 0 to 127")
    zones = sorted(zones, key=lambda zone: (zone.place.row, zone.place.column, zone.keys, zone.velocities))
    columns, rows = (sorted({cell[axis] for cell in map(_cell, zones)}) for axis in (0, 1))
    moved = [(cc, name) for cc, name, places in zip(controllers, _NAMES, (columns, rows), strict=True) if places[1:]]
    lines = [f"// {' '.join(title.split())}"]
    if moved:
        lines += ["<control>", *(f"set_cc{cc}={HIGHEST // 2 + 1} label_cc{cc}={name}" for cc, name in moved)]
    lines += ["<global>", f"ampeg_attack={attack_s:g} ampeg_release={release_s:g}"]
    for (column, row), cell in groupby(zones, key=_cell):
        fades = [*_fades(controllers[0], columns, column), *_fades(controllers[1], rows, row)]
        lines += ["<group>", *([" ".join(["xf_cccurve=power", *fades])] if fades else [])]
        lines += map(_region, cell)
    return "\n".join(lines) + "\n"


_NAMES = ("west-east", "north-south")


def _cell(zone: Zone) -> tuple[int, int]:
    return zone.place.column, zone.place.row


def _region(zone: Zone) -> str:
    loop = "loop_mode=no_loop"
    if zone.loop is not None:
        loop = f"loop_mode=loop_sustain loop_start={zone.loop.start} loop_end={zone.loop.stop - 1}"
    return (
        f"<region> sample={zone.sample} lokey={zone.keys[0]} hikey={zone.keys[1]} pitch_keycenter={zone.place.pitch} "
        f"lovel={zone.velocities[0]} hivel={zone.velocities[1]} amp_veltrack={0 if zone.is_layered else 100} {loop}"
    )


def _fades(controller: int, places: Sequence[int], place: int) -> list[str]:
    """When a column (or row) is heard: fully where the controller stands for it, not at all at its neighbours'."""
    at = [round(i * HIGHEST / max(len(places) - 1, 1)) for i in range(len(places))]
    i = places.index(place)
    before = [f"xfin_locc{controller}={at[i - 1]} xfin_hicc{controller}={at[i]}"] if i else []
    after = [f"xfout_locc{controller}={at[i]} xfout_hicc{controller}={at[i + 1]}"] if i + 1 < len(at) else []
    return before + after

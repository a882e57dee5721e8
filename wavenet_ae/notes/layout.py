"""NSynth's layout: what a note is called, and what examples.json says of it."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from wavenet_ae import audio, files

FAMILIES = (
    *("bass", "brass", "flute", "guitar", "keyboard", "mallet"),
    *("organ", "reed", "string", "synth_lead", "vocal"),
)
SOURCES = ("acoustic", "electronic", "synthetic")
QUALITIES = (
    *("bright", "dark", "distortion", "fast_decay", "long_release"),
    *("multiphonic", "nonlinear_env", "percussive", "reverb", "tempo-synced"),
)


class Key(NamedTuple):
    """What a note_str says; `take` tells apart notes of one instrument, pitch and velocity."""

    instrument: str
    pitch: int
    velocity: int
    take: int = 0


def name(key: Key) -> str:
    """The note_str: `<family>_<source>_<nnn>-<ppp>-<vvv>`, and `-<take>` from the second take on."""
    take = f"-{key.take:02d}" if key.take else ""
    return f"{key.instrument}-{key.pitch:03d}-{key.velocity:03d}{take}"


def parse(note_str: str) -> Key:
    """Undo `name`. A family may hold underscores (synth_lead), so it is read from the right.

    Raises:
        ValueError: it is no note_str.
    """
    found = re.fullmatch(r"(\w+_[a-z]+_\d+)-(\d{3})-(\d{3})(?:-(\d{2,}))?", note_str)
    if not found:
        raise ValueError(
            f"{note_str!r} is not a note's name: expected family_source_nnn-ppp-vvv, as organ_acoustic_003-060-100"
        )
    return Key(found[1], int(found[2]), int(found[3]), int(found[4] or 0))


def describe(key: Key, *, note: int, instrument: int, qualities: Sequence[str] = ()) -> dict[str, Any]:
    """A note's entry in examples.json, with NSynth's keys; `note` and `instrument` are its numbers there.

    A family that is not NSynth's is allowed and has number -1.
    """
    family, source, _ = key.instrument.rsplit("_", 2)
    return {
        "note": note,
        "note_str": name(key),
        "instrument": instrument,
        "instrument_str": key.instrument,
        "pitch": key.pitch,
        "velocity": key.velocity,
        "sample_rate": audio.SAMPLE_RATE,
        "qualities": [int(quality in qualities) for quality in QUALITIES],
        "qualities_str": [quality for quality in QUALITIES if quality in qualities],
        "instrument_family": FAMILIES.index(family) if family in FAMILIES else -1,
        "instrument_family_str": family,
        "instrument_source": SOURCES.index(source),
        "instrument_source_str": source,
    }


def write_examples(folder: str | Path, examples: Iterable[Mapping[str, Any]]) -> None:
    """Write a split's examples.json, whole or not at all: entries as `describe` makes them, sorted by name."""
    table = {entry["note_str"]: dict(entry) for entry in sorted(examples, key=lambda entry: entry["note_str"])}
    with files.whole(Path(folder) / "examples.json") as partial:
        partial.write_text(json.dumps(table, indent=1) + "\n")


def read_examples(folder: str | Path) -> dict[str, dict[str, Any]]:
    """A split's examples.json: entries keyed by note_str, each known to hold what a `Note` needs.

    Raises:
        ValueError: it is not there, not readable, not JSON or not such a table; the message says which.
    """
    path = Path(folder) / "examples.json"
    remedy = "restore it, or make the corpus again with python -m wavenet_ae.prepare"
    try:
        table = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise ValueError(f"{folder} holds no examples.json: expected the table of its notes; {remedy}") from None
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}; check its permissions") from error
    except ValueError as error:
        raise ValueError(f"{path} is broken: {error}; expected JSON; {remedy}") from error
    if not isinstance(table, dict):
        raise ValueError(f"{path} holds a {type(table).__name__}: expected entries keyed by note_str; {remedy}")
    for note_str, entry in table.items():
        wrong = [
            key for key, kind in _NEEDED.items() if not isinstance(entry, dict) or not isinstance(entry.get(key), kind)
        ]
        if wrong:
            raise ValueError(f"{path}: note {note_str!r} lacks a valid {', '.join(wrong)}; {remedy}")
    return table


_NEEDED = {
    "pitch": int,
    "velocity": int,
    "sample_rate": int,
    "instrument_str": str,
    "instrument_family_str": str,
    "instrument_source_str": str,
}

"""What a recording's path or a row of a csv says of it: instrument, family, source, pitch, velocity."""

import csv
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from wavenet_ae.notes.layout import SOURCES

FIELDS = ("INSTRUMENT", "FAMILY", "SOURCE", "PITCH", "VELOCITY")
_STEPS = {"c": 0, "d": 2, "e": 4, "f": 5, "g": 7, "a": 9, "b": 11}
_SHAPES = {"PITCH": r"\d{1,3}|[A-Ga-g][#bs]?-?\d", "VELOCITY": r"\d{1,3}", "SOURCE": "|".join(SOURCES)}
_SHAPES |= {"COLUMN": r"\d{1,2}", "ROW": r"\d{1,2}"}


def pitch_number(words: str) -> int:
    """A MIDI pitch out of a number or a note's name: 60, C4 (middle C), F#3, Bb2, cs5.

    Raises:
        ValueError: it is neither.
    """
    found = re.fullmatch(r"([A-Ga-g])([#bs]?)(-?\d)", words.strip())
    try:
        number = (
            _STEPS[found[1].lower()] + {"": 0, "b": -1}.get(found[2], 1) + 12 * (int(found[3]) + 1)
            if found
            else int(words)
        )
    except ValueError:
        raise ValueError(f"{words!r} is no pitch: expected a MIDI number or a name, as 60, C4, F#3 or Bb2") from None
    return _midi(number, f"pitch {words}")


def check(label: dict[str, str]) -> dict[str, str | int]:
    """A label in words as one of the right kinds, with only the fields that were given.

    Raises:
        ValueError: a value is impossible.
    """
    checked: dict[str, str | int] = {key: value.strip() for key, value in label.items() if value and value.strip()}
    if "pitch" in checked:
        checked["pitch"] = pitch_number(str(checked["pitch"]))
    if "velocity" in checked:
        velocity = str(checked["velocity"])
        if not velocity.isdigit():
            raise ValueError(f"{velocity!r} is no velocity: expected a number from 0 to 127")
        checked["velocity"] = _midi(int(velocity), "velocity")
    if "family" in checked:
        checked["family"] = re.sub(r"[^a-z]+", "_", str(checked["family"]).lower()).strip("_")
        if not checked["family"]:
            raise ValueError(f"family {label['family']!r} holds no letter: expected a word, as string or drums")
    if "source" in checked and checked["source"] not in SOURCES:
        raise ValueError(f"source {checked['source']!r} is unknown: choose one of {', '.join(SOURCES)}")
    return checked


def by_pattern(pattern: str, fields: Sequence[str] = FIELDS) -> Callable[[Path], dict[str, str]]:
    """A reader of paths: `INSTRUMENT-PITCH` finds viola and C4 in `viola-C4.wav`; `*` is anything.

    A `/` in the pattern stands for a folder; the rest of the path does not matter. The function returned
    raises ValueError for a path that does not fit.

    Raises:
        ValueError: the pattern holds none of the fields, or one twice.
    """
    named = re.findall("|".join(fields), pattern)
    if not named or len(set(named)) < len(named):
        raise ValueError(
            f"pattern {pattern!r} holds {named or 'no field'}: expected each at most once of {', '.join(fields)}"
        )
    parts = [_part(part, fields) for part in re.split(f"({'|'.join(fields)}|[*])", pattern)]
    expression = re.compile("".join(parts))
    folders = pattern.count("/")

    def read(path: Path) -> dict[str, str]:
        tail = "/".join([*path.parts[:-1], path.stem][-1 - folders :])
        found = expression.fullmatch(tail)
        if not found:
            raise ValueError(f"{tail!r} does not fit the pattern {pattern!r}: rename the file or change the pattern")
        return {key.lower(): value for key, value in found.groupdict().items()}

    return read


def by_csv(table: Path, root: Path) -> dict[Path, dict[str, str]]:
    """The labels of files by a csv whose column `file` is a path from `root`; other columns are fields.

    Raises:
        ValueError: it is no such table; FileNotFoundError: it is not there.
    """
    try:
        with open(table, newline="", encoding="utf-8-sig") as file:
            columns, *rows = list(csv.reader(file)) or [[]]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{table} is no csv: {error}; expected text in UTF-8") from error
    known = {"file", *(field.lower() for field in FIELDS)}
    if "file" not in columns or not set(columns) <= known or len(set(columns)) < len(columns):
        raise ValueError(
            f"{table} has the columns {', '.join(sorted(columns)) or 'of an empty file'}: "
            f"expected file and any of {', '.join(sorted(known - {'file'}))}, each once"
        )
    labels: dict[Path, dict[str, str]] = {}
    for number, row in enumerate(rows, 2):
        if not row:
            continue
        if len(row) != len(columns):
            raise ValueError(
                f"{table} row {number} has {len(row)} cells: expected {len(columns)} ({', '.join(columns)}); "
                'mend it, and write a cell that holds a comma as "a, b"'
            )
        words = dict(zip(columns, row, strict=True))
        path = root / words.pop("file")
        if path in labels:
            raise ValueError(f"{table} row {number} names {path} again: expected each file once; remove one row")
        labels[path] = words
    return labels


def _part(part: str, fields: Sequence[str]) -> str:
    if part in fields:
        return f"(?P<{part}>{_SHAPES.get(part, '[^/]+?')})"
    return "[^/]*?" if part == "*" else re.escape(part)


def _midi(number: int, what: str) -> int:
    if not 0 <= number <= 127:
        raise ValueError(f"{what} is {number} in MIDI: expected 0 to 127")
    return number

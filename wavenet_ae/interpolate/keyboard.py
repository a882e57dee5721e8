"""Instruments as folders of notes: which keys they share, and what is done where one lacks a key."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from wavenet_ae import audio, embeddings, files, notes
from wavenet_ae.notes.labels import pitch_number

VELOCITY = 100  # of notes that do not say theirs


class Key(NamedTuple):
    """A key and how hard it is struck, MIDI's numbers."""

    pitch: int
    velocity: int

    def __str__(self) -> str:
        return f"{self.pitch:03d}-{self.velocity:03d}"


def notes_of(folder: Path) -> dict[Key, Path]:
    """An instrument's notes, sounds or embeddings, by key.

    The key is read off a name as bass_synthetic_033-036-025.wav, off an embedding's own record, or off the end of
    any other name: 60 or C4, with velocity 100. An embedding stands for the sound beside it.

    Raises:
        FileNotFoundError: there are no sounds.
        ValueError: a name says no key, or two notes have one key; all such are listed.
    """
    taken, _ = files.gather(folder, (*audio.SUFFIXES, *embeddings.SUFFIXES))
    found: dict[Key, Path] = {}
    faults = []
    encoded = {path.with_suffix("") for path in taken if path.suffix.lower() in embeddings.SUFFIXES}
    for path in taken:
        if path.suffix.lower() in audio.SUFFIXES and path.with_suffix("") in encoded:
            continue
        key = _key(path)
        if key is None:
            faults.append(
                f"{path} does not say its pitch: expected a name ending in a MIDI number or note, as C4 or 060"
            )
        elif key in found:
            faults.append(f"{found[key]} and {path} are both key {key}: expected one instrument in a folder")
        else:
            found[key] = path
    if faults:
        raise ValueError("\n  ".join([f"{folder} is no instrument:", *faults]))
    return found


def chords(folders: Sequence[Path], missing: str) -> tuple[dict[Key, list[Path]], list[str]]:
    """The notes of each key, one of every folder in their order, and what is said of keys that some lack.

    `missing` is "skip" (such keys are left out) or "nearest" (the instrument's nearest note stands in).

    Raises:
        ValueError: no key is left, or another `missing`; or as `notes_of`.
    """
    if missing not in ("skip", "nearest"):
        raise ValueError(f"unknown missing {missing!r}: choose skip or nearest")
    instruments = [notes_of(folder) for folder in folders]
    made, said = {}, []
    for key in sorted(set().union(*instruments)):
        lacking = [str(folder) for folder, each in zip(folders, instruments, strict=True) if key not in each]
        if lacking and missing == "skip":
            said.append(f"{key} is not in {', '.join(lacking)}: skipped (missing=nearest takes the nearest note)")
            continue
        made[key] = [each[min(each, key=lambda other: _distance(other, key))] for each in instruments]
        if lacking:
            said.append(f"{key} is not in {', '.join(lacking)}: the nearest note stands in")
    if not made:
        raise ValueError("\n  ".join(["the folders have no key in common:", *said]))
    return made, said


def _distance(note: Key, wanted: Key) -> tuple[int, int]:
    return abs(note.pitch - wanted.pitch), abs(note.velocity - wanted.velocity)


def _key(path: Path) -> Key | None:
    try:
        named = notes.parse(path.stem)
        return Key(named.pitch, named.velocity)
    except ValueError:
        pass
    if path.suffix.lower() in embeddings.SUFFIXES:
        known = embeddings.read(path)
        if known.pitch is not None:
            return Key(known.pitch, VELOCITY if known.velocity is None else known.velocity)
    end = re.search(r"(?:^|[^A-Za-z0-9])(\d{1,3}|[A-Ga-g][#bs]?-?\d)$", path.stem)
    try:
        return Key(pitch_number(end[1]), VELOCITY) if end else None
    except ValueError:
        return None

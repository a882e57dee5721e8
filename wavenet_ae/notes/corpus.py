"""The notes of a split that pass the filters, found without opening one audio file."""

import fnmatch
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from wavenet_ae import audio
from wavenet_ae.notes.layout import FAMILIES, SOURCES, read_examples

KINDS = (".wav", ".flac")  # of audio files in a corpus
_EVERY = (0, 127)


@dataclass(frozen=True, slots=True)
class Note:
    """One recorded note; `name` is NSynth's note_str, `instrument` its instrument_str."""

    name: str
    path: Path
    pitch: int
    velocity: int
    instrument: str
    family: str
    source: str
    qualities: tuple[str, ...] = ()

    @property
    def samples(self) -> int:
        """Its length. Speed: read from the file's header when asked, so that loading opens no audio file."""
        return audio.inspect(self.path).samples

    def label(self, what: str) -> int | str | None:
        """Its "pitch", "family" or "source"; None where it is unknown, or not one of NSynth's."""
        if what == "pitch":
            return self.pitch or None
        kind, kinds = (self.family, FAMILIES) if what == "family" else (self.source, SOURCES)
        return kind if kind in kinds else None


def find_split(root: str | Path, split: str) -> Path:
    """The folder of a split: `root/<split>` or NSynth's `root/nsynth-<split>`.

    Raises:
        FileNotFoundError: there is no such corpus, or no such split in it; the message lists those there are.
    """
    root = Path(root)
    for folder in (root / split, root / f"nsynth-{split}"):
        if (folder / "examples.json").exists() or (folder / "audio").is_dir():
            return folder
    if not root.is_dir():
        raise FileNotFoundError(
            f"{root} is {'a file' if root.exists() else 'not there'}: expected a corpus, a folder of train/, "
            "valid/ and test/; make one with python -m wavenet_ae.prepare (data/README.md says how)"
        )
    if (root / "examples.json").exists():
        raise FileNotFoundError(f"{root} is itself a split: expected the folder that holds it; give root={root.parent}")
    there = splits(root)
    raise FileNotFoundError(
        f"{root} has no split {split!r}: found {', '.join(there) or 'no split at all'}; "
        f"{'choose one of these' if there else 'expected train/examples.json and the like'}, "
        "or make it with python -m wavenet_ae.prepare"
    )


def splits(root: str | Path) -> list[str]:
    """The names of a corpus' splits, without NSynth's `nsynth-`."""
    return sorted(path.parent.name.removeprefix("nsynth-") for path in Path(root).glob("*/examples.json"))


def load(
    root: str | Path,
    split: str,
    *,
    families: Sequence[str] | None = None,
    sources: Sequence[str] | None = None,
    pitches: Any = _EVERY,
    velocities: Any = _EVERY,
    exclude: Sequence[str] | str | Path = (),
) -> list[Note]:
    """The notes of a split that pass every filter, sorted by name.

    `pitches` and `velocities` are (lowest, highest). `exclude` lists names of notes or instruments, `*` allowed,
    or is one such name, or the path of a text file with one in each line. No audio file is opened: a missing one is
    found by listing the folder once, a broken one by `python -m wavenet_ae.prepare check=true`.

    Raises:
        FileNotFoundError: no such corpus, split or audio file.
        ValueError: examples.json is broken, the corpus has another rate, or no note is left.
    """
    folder = find_split(root, split)
    for limits, what in ((pitches, "pitches"), (velocities, "velocities")):
        _check_limits(limits, what)
    examples = read_examples(folder)
    paths = audio_files(folder)
    _check_rates(folder, examples)
    for wanted, key in ((families, "instrument_family_str"), (sources, "instrument_source_str")):
        _check_choice(folder, wanted, key, examples)
    excluded = _matcher(exclude)
    kept = {
        note_str: entry
        for note_str, entry in examples.items()
        if (families is None or entry["instrument_family_str"] in families)
        and (sources is None or entry["instrument_source_str"] in sources)
        and pitches[0] <= entry["pitch"] <= pitches[1]
        and velocities[0] <= entry["velocity"] <= velocities[1]
        and not excluded(note_str)
        and not excluded(entry["instrument_str"])
    }
    if not kept:
        raise ValueError(
            f"no note of {folder} is left: it holds {len(examples)} ({_words(examples, 'instrument_family_str')}; "
            f"{_words(examples, 'instrument_source_str')}), and the filters (families={families}, sources={sources}, "
            f"pitches={list(pitches)}, velocities={list(velocities)}, exclude) leave none; widen them, or choose "
            "another corpus: every split that is used needs notes"
        )
    missing = sorted(kept.keys() - paths.keys())
    if missing:
        raise FileNotFoundError(
            f"{len(missing)} of {len(kept)} notes of {folder} have no audio: {', '.join(missing[:3])}"
            f"{' ...' if len(missing) > 3 else ''}; expected audio/<note_str>.wav or .flac; restore or exclude them"
        )
    return [_note(paths[note_str], note_str, kept[note_str]) for note_str in sorted(kept)]


def check_disjoint(**groups: Sequence[Note]) -> None:
    """Check that no instrument occurs in two splits, given by name: `check_disjoint(train=..., valid=...)`.

    Raises:
        ValueError: one does; the message names it.
    """
    instruments = {split: {note.instrument for note in group} for split, group in groups.items()}
    for first, second in combinations(instruments, 2):
        shared = sorted(instruments[first] & instruments[second])
        if shared:
            raise ValueError(
                f"{first} and {second} share {len(shared)} instruments: {', '.join(shared[:3])}"
                f"{' ...' if len(shared) > 3 else ''}; expected none, or a score would not tell learning from memory; "
                "exclude them from one"
            )


def _note(path: Path, note_str: str, entry: Mapping[str, Any]) -> Note:
    return Note(
        name=note_str,
        path=path,
        pitch=entry["pitch"],
        velocity=entry["velocity"],
        instrument=entry["instrument_str"],
        family=entry["instrument_family_str"],
        source=entry["instrument_source_str"],
        qualities=tuple(entry.get("qualities_str", ())),
    )


def audio_files(folder: Path) -> dict[str, Path]:
    """The audio files of a split by note_str. Speed: one listing of the folder instead of a question for each note."""
    try:
        with os.scandir(folder / "audio") as entries:
            names = sorted(entry.name for entry in entries)
    except OSError as error:
        raise FileNotFoundError(
            f"{folder}/audio cannot be listed: {error.strerror}; expected the notes' audio"
        ) from error
    return {stem: folder / "audio" / file for file in names for stem, kind in [os.path.splitext(file)] if kind in KINDS}


def _check_rates(folder: Path, examples: Mapping[str, Mapping[str, Any]]) -> None:
    for note_str, entry in examples.items():
        if entry["sample_rate"] != audio.SAMPLE_RATE:
            raise ValueError(
                f"{folder}: note {note_str} is at {entry['sample_rate']} Hz: expected {audio.SAMPLE_RATE} Hz; "
                "make another corpus of it with python -m wavenet_ae.prepare source=folder "
                f"source.input={folder / 'audio'} out=data/another"
            )


def _check_limits(limits: Any, what: str) -> None:
    if (
        isinstance(limits, str)
        or not isinstance(limits, Sequence)
        or len(limits) != 2
        or not all(isinstance(limit, int | float) for limit in limits)
    ):
        raise ValueError(
            f"{what} is {limits}: expected the lowest and the highest; say {what}=[24,84], or [60,60] for one"
        )


def evenly(there: int, count: int) -> list[int]:
    """The places of `count` among so many that are there, evenly spread."""
    return [(2 * i + 1) * there // (2 * count) for i in range(count)]


def parted(found: list[Note], share: float) -> tuple[list[Note], list[Note]]:
    """Notes to train on, and a share of them, evenly spread, to validate on; they may be of one instrument.

    Raises:
        ValueError: it leaves no note for one of the two.
    """
    count = max(1, round(share * len(found)))
    if not 0 < share < 1 or count >= len(found):
        raise ValueError(
            f"valid_share={share} of the {len(found)} notes in the train split: expected a share between 0 and 1 that "
            "leaves a note to learn from and one to validate on"
        )
    held = set(evenly(len(found), count))
    return [note for i, note in enumerate(found) if i not in held], [found[i] for i in sorted(held)]


def chosen(which: int | Sequence[str], found: Sequence[Note]) -> list[Note]:
    """Notes of a split by name, or so many of them, evenly spread.

    Raises:
        ValueError: one is not among them.
    """
    if isinstance(which, int):
        return [found[i] for i in evenly(len(found), min(which, len(found)))]
    by_name = {note.name: note for note in found}
    missing = [name for name in which if name not in by_name]
    if missing:
        raise ValueError(f"no note is called {' or '.join(missing)} in this split, which has {', '.join(by_name)}")
    return [by_name[name] for name in which]


def licence(root: str | Path) -> str:
    """What `prepare` noted of the corpus' licence, to travel with what is learnt from it.

    Raises:
        ValueError: its note is damaged.
    """
    recipe = Path(root) / "prepare.json"
    if not recipe.is_file():
        return "unknown"
    try:
        return json.loads(recipe.read_text())["licence"] or "unknown"
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{recipe} is damaged ({error!r}): expected what prepare wrote; restore or remove it"
        ) from None


def _check_choice(folder: Path, wanted: Sequence[str] | str | None, key: str, examples: Mapping[str, Any]) -> None:
    """Whether the words are known: to this split, or to another of the same corpus."""
    if isinstance(wanted, str):
        raise ValueError(f"{wanted!r} is no list of words: expected one; say [{wanted}]")
    there = {entry[key] for entry in examples.values()}
    unknown = set(wanted or ()) - there
    for split in splits(folder.parent) if unknown else ():
        other = find_split(folder.parent, split)
        if other != folder:
            there |= {entry[key] for entry in read_examples(other).values()}
    if unknown := unknown - there:
        raise ValueError(
            f"{folder.parent} has no {', '.join(sorted(unknown))}: found {', '.join(sorted(there))}; choose among these"
        )


def _words(examples: Mapping[str, Mapping[str, Any]], key: str) -> str:
    return ", ".join(sorted({entry[key] for entry in examples.values()}))


def _matcher(exclude: Sequence[str] | str | Path) -> Callable[[str], object]:
    patterns = list(exclude) if not isinstance(exclude, str | Path) else _lines(exclude)
    if not patterns:
        return lambda name: False
    return re.compile("|".join(fnmatch.translate(str(pattern)) for pattern in patterns)).match


def _lines(exclude: str | Path) -> list[str]:
    """A file's words, or the one pattern that the string is."""
    if isinstance(exclude, str) and not Path(exclude).exists() and re.fullmatch(r"[^/]*(?<!\.txt)", exclude):
        return [exclude]
    try:
        return Path(exclude).read_text().split()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        raise ValueError(
            f"exclude={exclude} cannot be read: {reason}; expected a text file with a name in each line, a name, or a "
            "list of names"
        ) from error

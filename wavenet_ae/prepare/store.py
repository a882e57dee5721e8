"""What a corpus is on disk: it grows in a hidden folder and takes its place whole; what others put there stays."""

import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from wavenet_ae import files, notes

RECORD = "prepare.json"  # what the corpus was made of; marks a folder as one that prepare may change
GROWING = ".unfinished"  # where a corpus grows until it is whole
MADE = ".made"  # in it, a folder for each item that is being made or was not taken in yet
_REPLACED = ".replaced"  # where the old one waits while the new one takes its place
_JOURNAL = ".journal.jsonl"  # of the items done in a run that has not ended yet

log = logging.getLogger("wavenet_ae")


class Done(NamedTuple):
    """What an item came to."""

    digest: str
    split: str
    entries: list[dict[str, Any]]
    left_out: dict[str, str]
    failed: dict[str, str]

    def audio(self, folder: Path, kind: str) -> list[Path]:
        """Its files in a corpus."""
        return [folder / self.split / "audio" / f"{entry['note_str']}.{kind}" for entry in self.entries]


def record_of(folder: Path) -> dict[str, Any]:
    """What a corpus was made of: the contents of its prepare.json, nothing where there is none.

    Raises:
        ValueError: it is broken.
    """
    path = folder / RECORD
    if not path.exists():
        return {}
    try:
        record = json.loads(path.read_bytes())
        if not isinstance(record, dict):
            raise ValueError(f"it holds a {type(record).__name__}")
    except ValueError as error:
        raise ValueError(
            f"{path} is broken: {error}; expected what prepare wrote; delete it and the corpus, or choose another out"
        ) from error
    return record


def finished(folder: Path) -> dict[str, Done]:
    """The items of a finished corpus."""
    record = record_of(folder)
    entries = {split: notes.read_examples(folder / split) for split in record.get("notes", {})}
    done = {}
    for name, item in record.get("items", {}).items():
        table = entries.get(item["split"], {})
        if all(note in table for note in item["notes"]):
            found = [table[note] for note in item["notes"]]
            done[name] = Done(item["digest"], item["split"], found, item["left_out"], item["failed"])
    return done


def begun(growing: Path) -> dict[str, Done]:
    """The items of a corpus that is not finished."""
    path = growing / _JOURNAL
    done = {}
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            item = json.loads(line)
        except ValueError:
            continue  # empty, or being written when the run was killed
        name = item.pop("name")
        done[name] = Done(**item)
    return done


def note_down(growing: Path, name: str, done: Done) -> None:
    """Keep what an item came to: a run that is stopped goes on after it."""
    with open(growing / _JOURNAL, "a") as file:
        file.write("\n" + json.dumps({"name": name, **done._asdict()}))  # a line left half written stays one of its own


def start(growing: Path, settings: Mapping[str, Any], kept: Mapping[str, Done]) -> None:
    """Begin or go on; only what is `kept` counts as done from here on: its files are the only ones not written over."""
    with files.whole(growing / _JOURNAL) as partial:
        partial.write_text("".join(f"{json.dumps({'name': n, **done._asdict()})}\n" for n, done in kept.items()))
    write_record(growing, {"settings": settings})


def link(out: Path, growing: Path, done: Done, kind: str) -> None:
    """Take an item of the old corpus into the new one. Its files are shared: files are replaced, never changed."""
    for old, new in zip(done.audio(out, kind), done.audio(growing, kind), strict=True):
        new.parent.mkdir(parents=True, exist_ok=True)
        new.unlink(missing_ok=True)
        try:
            os.link(old, new)
        except OSError:  # some disks know no links
            shutil.copy2(old, new)


def publish(growing: Path, tables: Mapping[str, list[dict[str, Any]]], record: Mapping[str, Any], kind: str) -> None:
    """Write the tables, drop what no table lists, and last the record: from then on the corpus is whole."""
    for split, table in tables.items():
        notes.write_examples(growing / split, table)
    listed = {growing / split / "audio" / f"{entry['note_str']}.{kind}" for split in tables for entry in tables[split]}
    for path in growing.glob("*/audio/*"):
        if path not in listed:
            path.unlink()
    shutil.rmtree(growing / MADE, ignore_errors=True)
    (growing / _JOURNAL).unlink(missing_ok=True)
    write_record(growing, record)


def write_record(folder: Path, record: Mapping[str, Any]) -> None:
    """Write prepare.json, whole or not at all."""
    with files.whole(folder / RECORD) as partial:
        partial.write_text(json.dumps(record, indent=1) + "\n")


def settle(out: Path) -> None:
    """Put a whole new corpus in the old one's place, and go on with that where a run was killed at it."""
    growing, replaced = out / GROWING, out / _REPLACED
    if "notes" not in (new := record_of(growing)):
        if replaced.exists():
            shutil.rmtree(replaced)  # the new corpus stands since
        return
    old = record_of(out)
    replaced.mkdir(exist_ok=True)
    for split in sorted({*old.get("notes", {}), *new["notes"]}):
        if split in new["notes"] and not (growing / split).exists():
            continue  # it stands already
        if (out / split).exists() and not (replaced / split).exists():
            (out / split).rename(replaced / split)
        if split in new["notes"]:
            (growing / split).rename(out / split)
    for path in list(_of_others(replaced, old, begun(out))):
        _put_back(path, out / path.relative_to(replaced))
    (growing / RECORD).replace(out / RECORD)
    (out / _JOURNAL).unlink(missing_ok=True)
    shutil.rmtree(growing)
    shutil.rmtree(replaced)


def _of_others(replaced: Path, record: Mapping[str, Any], journal: Mapping[str, Done]) -> Iterator[Path]:
    """What stood in the old splits and is not prepare's."""
    kind = record.get("settings", {}).get("format")
    ours = {
        Path(i["split"], "audio", f"{note}.{kind}") for i in record.get("items", {}).values() for note in i["notes"]
    }
    ours |= {path for done in journal.values() for suffix in ("wav", "flac") for path in done.audio(Path(), suffix)}
    ours |= {Path(split, "examples.json") for split in record.get("notes", {})}
    for path in [*replaced.glob("*/*"), *replaced.glob("*/audio/*")]:
        partial = path.name.startswith(".") and ".partial." in path.name
        written = path.is_file() and (partial or path.relative_to(replaced) in ours)
        if not written and not (path.parent.parent == replaced and path.name == "audio" and path.is_dir()):
            yield path


def _put_back(path: Path, place: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    if place.exists():
        place = place.with_name(f"{place.name}.kept")
        log.warning("%s is a file of the corpus now: what had that name before is %s", path.name, place)
    path.rename(place)

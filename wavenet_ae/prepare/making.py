"""One item made into notes, in a folder of its own, by whichever process: the corpus then takes it whole."""

import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from wavenet_ae import audio, files, notes
from wavenet_ae.prepare.sources import Fault, Item, LeftOut, Sound, Source
from wavenet_ae.prepare.store import Done

_ALL_THERE = "done.json"  # written last


class Place(NamedTuple):
    """Where the notes of an item go: the split, the instrument_str and the instrument's number."""

    split: str
    instrument: str
    number: int


class Order(NamedTuple):
    """What is to be made: `digest` stands for all that decides it, `folder` is where."""

    item: Item
    place: Place
    digest: str
    folder: Path


def maker(source: Source, kind: str) -> Callable[[Order], Done]:
    """Make orders out of a source, as audio files of a kind.

    What was made whole before is taken as it is. ValueErrors are faults of the item; an OSError is the disk's.
    """

    def make(order: Order) -> Done:
        record = order.folder / _ALL_THERE
        if record.exists() and not (before := Done(**json.loads(record.read_text()))).failed:
            return before
        shutil.rmtree(order.folder, ignore_errors=True)  # half of it, or with faults that may be mended
        done = Done(order.digest, order.place.split, [], {}, {})
        for event in _events(source, order.item, order.place):
            _take(event, done, order.folder, kind)
        with files.whole(record) as partial:
            partial.write_text(json.dumps(done._asdict()))
        return done

    return make


def order(item: Item, place: Place, digest: str, parent: Path) -> Order:
    """An order, with a folder below `parent` that no other one has."""
    key = hashlib.sha256(item.name.encode()).hexdigest()[:8]
    return Order(item, place, digest, parent / f"{digest}-{key}")


def deliver(made: Order, done: Done, growing: Path, kind: str, taken: set[Path]) -> Done:
    """Move the notes into the corpus; one that it has already is a fault. `taken` gets their files."""
    kept, failed = [], dict(done.failed)
    (made.folder / _ALL_THERE).unlink()  # stopped from here on, it is made again
    for entry in done.entries:
        name = entry["note_str"]
        path = growing / done.split / "audio" / f"{name}.{kind}"
        if path in taken:
            failed |= _twice(name, done.split)
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        os.replace(made.folder / path.name, path)
        taken.add(path)
        kept.append(entry)
    shutil.rmtree(made.folder, ignore_errors=True)
    return done._replace(entries=kept, failed=failed)


def _events(source: Source, item: Item, place: Place) -> Iterator[Sound | LeftOut | Fault]:
    """What the source makes of an item, each note with its entry."""
    takes: Counter[tuple[int, int]] = Counter()
    try:
        for event in source.make(item):
            if isinstance(event, Sound) and event.entry is None:
                key = notes.Key(place.instrument, event.pitch, event.velocity, takes[event.pitch, event.velocity])
                takes[event.pitch, event.velocity] += 1
                yield event._replace(entry=notes.describe(key, note=-1, instrument=place.number))
            else:
                yield event
    except ValueError as error:
        yield Fault(item.name, str(error))


def _take(event: Sound | LeftOut | Fault, done: Done, folder: Path, kind: str) -> None:
    if not isinstance(event, Sound):
        (done.left_out if isinstance(event, LeftOut) else done.failed)[event.what] = event.why
        return
    assert event.entry is not None
    name = event.entry["note_str"]
    path = folder / f"{name}.{kind}"
    if path.exists():
        done.failed.update(_twice(name, done.split))
        return
    try:
        audio.write(path, event.wave)
    except ValueError as error:
        done.failed[name] = str(error)
        return
    done.entries.append(event.entry)


def _twice(name: str, split: str) -> dict[str, str]:
    return {f"{name} in {split}": "it is there twice: expected each note once; leave one of them out"}

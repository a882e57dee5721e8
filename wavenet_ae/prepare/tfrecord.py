"""NSynth's TFRecords as a source of notes: labels and audio as they stand, every checksum checked."""

import logging
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

import numpy as np
import torch

from wavenet_ae import audio, files
from wavenet_ae.magenta import crc, wire
from wavenet_ae.prepare.sources import Fault, Item, Plan, Sound, paths

BLOCK = 500  # records that are done whole or not at all

_NUMBERS = ("note", "instrument", "pitch", "velocity", "sample_rate", "instrument_family", "instrument_source")
_WORDS = ("note_str", "instrument_str", "instrument_family_str", "instrument_source_str")

log = logging.getLogger("wavenet_ae")


@dataclass
class TFRecords:
    """Files as `nsynth-train.tfrecord`, in the features of the NSynth dataset; `split` where a name does not say it."""

    unit: ClassVar[str] = "record"
    input: str | int | list[str | int] | None
    split: str | None

    def __post_init__(self) -> None:
        given = paths(self.input, "nsynth-test.tfrecord")
        shards = {path.suffix for folder in given for path in Path(folder).rglob("*.tfrecord-*")}  # -00000-of-00010
        self._files, _ = files.gather(given, {".tfrecord", *shards})
        self._names = _names(self._files, [Path(path) for path in given if Path(path).is_dir()])
        self._blocks: dict[str, tuple[Path, int, int]] = {}

    def plan(self) -> Plan:
        """Blocks of records, found by their lengths alone."""
        items: list[Item] = []
        failed: dict[str, str] = {}
        for path in self._files:
            try:
                split = self.split or _split_of(path)
                starts, why = _starts(path)
            except (ValueError, OSError) as error:
                failed[str(path)] = str(error)
                continue
            if why:
                failed[str(path)] = why
            stat = path.stat()
            for first in range(0, len(starts), BLOCK):
                block = starts[first : first + BLOCK]
                name = f"{self._names[path]} from record {first}"
                self._blocks[name] = (path, block[0], first)
                inputs = [path.name, stat.st_size, stat.st_mtime_ns, block[0], len(block)]
                items.append(Item(name, len(block), inputs, split=split))
        return Plan(items, failed)

    def make(self, item: Item) -> Iterator[Sound | Fault]:
        """The notes of a block; a damaged record is a fault of its own."""
        path, start, first = self._blocks[item.name]
        with open(path, "rb") as file:
            file.seek(start)
            for number in range(first, first + item.size):
                data = _next(file)
                try:
                    yield _sound(data)
                except ValueError as error:
                    yield Fault(f"{path} record {number}", str(error))

    def made_by(self) -> dict[str, Any]:
        """The files' names."""
        return {"tfrecords": sorted(self._names.values())}


def _names(paths: list[Path], folders: list[Path]) -> dict[Path, str]:
    """What each file is called in the record: its path in the folder given, its name, or all of it where two agree."""
    inside = {path: next((str(path.relative_to(f)) for f in folders if f in path.parents), path.name) for path in paths}
    often = Counter(inside.values())
    return {path: name if often[name] == 1 else str(path) for path, name in inside.items()}


def _split_of(path: Path) -> str:
    found = {*re.findall(r"(?<![a-z])(?:train|valid|test)(?![a-z])", path.name.lower())}
    if len(found) != 1:
        which = f"is {' and '.join(sorted(found))}" if found else "does not say the split"
        raise ValueError(
            f"its name {which}: expected one of the words train, valid and test in it, or source.split=..."
        )
    return found.pop()


def _starts(path: Path) -> tuple[list[int], str | None]:
    """Where each whole record begins, and why there are no more, if something is wrong."""
    size = path.stat().st_size
    starts: list[int] = []
    position = 0
    with open(path, "rb") as file:
        while position < size:
            file.seek(position)
            head = file.read(12)
            length = int.from_bytes(head[:8], "little")
            if len(head) == 12 and crc.masked(head[:8]) != int.from_bytes(head[8:], "little"):
                return (
                    starts,
                    f"byte {position} does not begin a TFRecord: its length has another checksum; restore the file",
                )
            if len(head) < 12 or position + length + 16 > size:
                return starts, f"it is cut short after {len(starts)} whole records (byte {position}); restore the file"
            starts.append(position)
            position += length + 16
    return starts, None if starts else "it is empty: expected TFRecords of NSynth"


def _next(file: BinaryIO) -> tuple[bytes, int]:
    length = int.from_bytes(file.read(12)[:8], "little")
    return file.read(length), int.from_bytes(file.read(4), "little")


def _sound(record: tuple[bytes, int]) -> Sound:
    data, checksum = record
    if crc.masked(data) != checksum:
        raise ValueError("it is damaged: its checksum is another; restore the file")
    features = _features(data)
    lacking = sorted({*_NUMBERS, *_WORDS, "audio"} - features.keys())
    if lacking:
        raise ValueError(
            f"it lacks {', '.join(lacking)}: expected the features of NSynth, found {', '.join(sorted(features))}"
        )
    entry: dict[str, Any] = {key: _all(features, key, int)[0] for key in _NUMBERS}
    entry |= {key: _all(features, key, bytes)[0].decode() for key in _WORDS}
    entry["qualities"] = _all(features, "qualities", int)
    entry["qualities_str"] = [word.decode() for word in _all(features, "qualities_str", bytes)]
    if not re.fullmatch(r"[\w-]+", entry["note_str"]):
        raise ValueError(f"its note_str {entry['note_str']!r} is no name of a file: expected letters, digits, _ and -")
    if entry["sample_rate"] != audio.SAMPLE_RATE:
        raise ValueError(
            f"it is at {entry['sample_rate']} Hz: expected {audio.SAMPLE_RATE}; extract it, use source=folder"
        )
    wave = np.array(_all(features, "audio", float), dtype=np.float32)
    if not np.isfinite(wave).all():
        raise ValueError("its audio holds NaN or infinite values: expected numbers in [-1, 1]; leave it out")
    return Sound(torch.from_numpy(wave), entry=entry)


def _all(features: dict[str, Any], key: str, kind: type) -> Any:
    """The values of a feature, all of one kind: int, bytes, or float, which comes as numpy's."""
    values = features.get(key, ())
    expected = np.floating if kind is float else kind
    if isinstance(values, np.ndarray) and kind is float:
        return values
    if not all(isinstance(value, expected) for value in values):
        raise ValueError(f"its {key} is of type {type(values[0]).__name__}: expected {kind.__name__}, as NSynth has it")
    return list(values)


def _features(example: bytes) -> dict[str, Any]:
    """The features of a tf.train.Example by name, each an array or a list."""
    found: dict[str, Any] = {}
    for _, features in wire.fields(example):
        for _, pair in wire.fields(wire.nested(features)):
            parts = dict(wire.fields(wire.nested(pair)))
            for kind, values in wire.fields(wire.nested(parts.get(2, b""))):
                found[wire.nested(parts.get(1, b"")).decode()] = _values(kind, wire.nested(values))
    return {name: values for name, values in found.items() if len(values)}


def _values(kind: int, values: bytes) -> Any:
    """The contents of a BytesList (1), FloatList (2) or Int64List (3), packed or not."""
    found: list[Any] = []
    for _, value in wire.fields(values):
        if kind == 2 and isinstance(value, bytes):
            return np.frombuffer(value, "<f4")
        if kind == 2:
            found.append(np.uint32(value).view(np.float32))
        elif kind == 3 and isinstance(value, bytes):
            position = 0
            while position < len(value):
                number, position = wire.varint(value, position)
                found.append(number)
        else:
            found.append(value)
    return found

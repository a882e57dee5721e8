"""TensorFlow's V2 checkpoints ("tensor bundles"): an index of names and the tensors, mapped from disk and checked."""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from wavenet_ae.magenta import crc, places, table
from wavenet_ae.magenta.places import Extent
from wavenet_ae.magenta.wire import Damaged, Unsupported, fields, nested, number

_LARGEST_INDEX = 64 << 20  # bytes; that of a large model is some hundred kilobytes
_REMEDY = "copy or download it again"
_DTYPES = {
    1: "<f4",
    2: "<f8",
    3: "<i4",
    4: "|u1",
    5: "<i2",
    6: "|i1",
    9: "<i8",
    10: "|b1",
    17: "<u2",
    19: "<f2",
    22: "<u4",
    23: "<u8",
}


class Entry(NamedTuple):
    """One tensor: where its bytes lie, what they mean (no dtype: not plain numbers in one piece) and their checksum."""

    dtype: np.dtype | None
    shape: tuple[int, ...]
    shard: int
    offset: int
    size: int
    checksum: int


class Bundle(NamedTuple):
    """A checkpoint opened for reading: its name, what it holds, and the files that hold it."""

    name: str
    entries: Mapping[str, Entry]
    shards: tuple[Extent, ...]

    def read(self, name: str) -> np.ndarray:
        """A tensor, read-only and mapped from disk, its checksum verified.

        Raises:
            ValueError: its bytes are not those that were written, or are not numbers.
        """
        entry = self.entries[name]
        if entry.dtype is None:
            raise ValueError(f"{name} in {self.name} is not one array of numbers: its type or slicing is not supported")
        data = self.shards[entry.shard].view(entry.offset, entry.size)
        if crc.masked(data) != entry.checksum:
            raise ValueError(f"{name} in {self.name} is damaged (wrong checksum): {_REMEDY}")
        return data.view(entry.dtype).reshape(entry.shape)


def open_bundle(path: str | Path) -> Bundle:
    """The checkpoint at `path`: its prefix, one of its files, the folder, or a .tar.

    Only the index is read; all the data must be there, but is not touched.

    Raises:
        FileNotFoundError: nothing is there, or a shard is missing.
        ValueError: it is not a V2 checkpoint, or is damaged or cut short.
    """
    place = places.find(path)
    index = place.parts["index"]
    if index.size > _LARGEST_INDEX:
        raise ValueError(f"{place.name}.index is larger than {_LARGEST_INDEX >> 20} MB, which none is: {_REMEDY}")
    try:
        shards, entries = parse(index.read())
    except Damaged as error:
        raise ValueError(f"{place.name}.index is damaged ({error}): {_REMEDY}") from None
    except Unsupported as error:
        raise ValueError(f"{place.name}.index cannot be read: {error}") from None
    wanted = [f"data-{shard:05d}-of-{shards:05d}" for shard in range(shards)]
    if missing := [part for part in wanted if part not in place.parts]:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise FileNotFoundError(
            f"{place.name} is incomplete: {', '.join(missing[:3])}{more} missing beside its .index ({shards} expected)"
        )
    extents = tuple(place.parts[part] for part in wanted)
    for name, entry in entries.items():
        if entry.offset + entry.size > extents[entry.shard].size:
            raise ValueError(
                f"{place.name}.{wanted[entry.shard]} is cut short: {extents[entry.shard].size} bytes, "
                f"but {name} ends at {entry.offset + entry.size}; {_REMEDY}"
            )
    return Bundle(place.name, entries, extents)


def parse(index: bytes) -> tuple[int, dict[str, Entry]]:
    """What an index file says: the number of shards, and every tensor's entry.

    Raises:
        Damaged: anything in it is not as TensorFlow writes it.
        Unsupported: it is TensorFlow's, but of a kind that is not read here.
    """
    items = table.read(index)
    shards = _header(items)
    entries = {}
    for key, value in items:
        try:
            name = key.decode()
        except UnicodeDecodeError:
            raise Damaged(f"a name is not text: {key[:40]!r}") from None
        entries[name] = _entry(name, value, shards)
    return shards, entries


def _header(items: Iterator[tuple[bytes, bytes]]) -> int:
    """The number of shards, from the value of the empty key, which comes first."""
    key, value = next(items, (b"-", b""))
    if key:
        raise Damaged("it has no header")
    found = dict(fields(value))
    if isinstance(found.get(1), bytes):
        raise Unsupported("it is a checkpoint in TensorFlow's old V1 format: save it again in V2 with TensorFlow")
    if found.get(2, 0) != 0:
        raise Unsupported("its numbers are big-endian: save it again on a common machine")
    shards = number(found.get(1, 0))
    if not 0 < shards < 100_000:  # five digits in the files' names
        raise Damaged(f"{shards} data files")
    return shards


def _entry(name: str, value: bytes, shards: int) -> Entry:
    found = dict(fields(value))
    shape = _shape(nested(found.get(2, b"")))
    is_whole = 7 not in found  # else a partitioned variable, its slices stored under other keys
    dtype = np.dtype(_DTYPES[number(found[1])]) if is_whole and found.get(1) in _DTYPES else None
    shard, offset, size, checksum = (number(found.get(field, 0)) for field in (3, 4, 5, 6))
    if dtype is not None and size != math.prod(shape) * dtype.itemsize:
        raise Damaged(f"{name} has {size} bytes for {list(shape)} of {dtype}")
    if shard >= shards or max(offset, size) >= 1 << 62:
        raise Damaged(f"{name} lies outside the data")
    return Entry(dtype, shape, shard, offset, size, checksum)


def _shape(message: bytes) -> tuple[int, ...]:
    sizes = []
    for field, value in fields(message):
        if field == 2:
            sizes.append(number(dict(fields(nested(value))).get(1, 0)))
        elif field == 3 and value:
            raise Damaged("a tensor of unknown shape")
    if len(sizes) > 32 or any(size >= 1 << 62 for size in sizes):  # numpy's limits
        raise Damaged(f"a tensor of {len(sizes)} dimensions")
    return tuple(sizes)

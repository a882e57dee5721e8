"""LevelDB's table file, the format of TensorFlow's index: sorted keys and values in checksummed blocks."""

from collections.abc import Iterator

from wavenet_ae.magenta import crc, snappy
from wavenet_ae.magenta.wire import Damaged, varint

_MAGIC = bytes.fromhex("57fb808b247547db")
_FOOTER = 48  # two block handles, padding, magic
_TRAILER = 5  # one byte of compression, four of checksum


def is_table(end: bytes) -> bool:
    """Whether a file with these last bytes is such a table."""
    return end.endswith(_MAGIC)


def read(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Every key and its value, in order.

    Blocks must follow one another and keys must rise, so even a forged file costs no more time and memory
    than an honest one of its size.

    Raises:
        Damaged: the bytes are not a table, or not as they were written.
    """
    if len(data) < _FOOTER or not is_table(data):
        raise Damaged("it does not end like a table")
    offset, size, position = _handle(data, len(data) - _FOOTER)
    _block(data, offset, size)  # the meta index: nothing in TensorFlow's files, but it must be sound
    offset, size, _ = _handle(data, position)
    last, end = None, 0
    for _, handle in _entries(_block(data, offset, size)):
        offset, size, _ = _handle(handle, 0)
        if offset < end:
            raise Damaged("two blocks overlap")
        end = offset + size
        for key, value in _entries(_block(data, offset, size)):
            if last is not None and key <= last:
                raise Damaged("its keys are not in order")
            last = key
            yield key, value


def _handle(data: bytes, position: int) -> tuple[int, int, int]:
    offset, position = varint(data, position)
    size, position = varint(data, position)
    return offset, size, position


def _block(data: bytes, offset: int, size: int) -> bytes:
    end = offset + size
    if end + _TRAILER > len(data) - _FOOTER:
        raise Damaged("a block lies outside the file")
    if crc.masked(data[offset : end + 1]) != int.from_bytes(data[end + 1 : end + _TRAILER], "little"):
        raise Damaged(f"the block at byte {offset} has a wrong checksum")
    compression = data[end]
    if compression > 1:
        raise Damaged(f"the block at byte {offset} is compressed in an unknown way ({compression})")
    content = data[offset:end]
    return snappy.decompress(content) if compression else content


def _entries(block: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values of a block; each key repeats the start of the one before and gives the rest."""
    restarts = int.from_bytes(block[-4:], "little")  # where a search may begin; we read from the front
    end = len(block) - 4 * (restarts + 1)
    if end < 0:
        raise Damaged("a block is too short for its restart points")
    position, key = 0, b""
    while position < end:
        start = position
        shared, position = varint(block, position)
        unshared, position = varint(block, position)
        size, position = varint(block, position)
        middle = position + unshared
        if shared > len(key) or middle + size > end:
            raise Damaged("an entry lies outside its block")
        key = key[:shared] + block[position:middle]
        position = middle + size
        if len(key) > 64 + 16 * (position - start):  # repeated starts cost nothing in the file, but do in memory
            raise Damaged("a key is longer than any name could be")
        yield key, block[middle:position]

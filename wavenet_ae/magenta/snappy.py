"""Snappy, the compression of LevelDB's blocks: the decoder, for blocks of some kilobytes."""

from wavenet_ae.magenta.wire import Damaged, varint

# A copy of up to 64 bytes takes at least 3; blocks that claim to grow more than that are damaged.
_GROWTH = 64 / 3


def decompress(data: bytes) -> bytes:
    """The bytes that were compressed.

    Raises:
        Damaged: the data is not snappy's; never more memory is used than snappy could honestly need.
    """
    length, position = varint(data, 0)
    if length > _GROWTH * len(data):
        raise Damaged(f"{len(data)} compressed bytes cannot hold {length}")
    out = bytearray()
    while position < len(data):
        tag = data[position]
        position += 1
        if tag & 3 == 0:
            size, position = _literal_size(data, tag >> 2, position)
            piece = data[position : position + size]
            position += size
        else:
            size, offset, position = _copy(data, tag, position)
            if not 0 < offset <= len(out):
                raise Damaged("a compressed block refers to bytes before its start")
            start = len(out) - offset
            piece = bytes(out[start : start + size])
            piece = (piece * (size // len(piece) + 1))[:size]  # a copy may run into what it is writing
        if len(piece) != size or len(out) + size > length:
            raise Damaged("a compressed block ends in the wrong place")
        out += piece
    if len(out) != length:
        raise Damaged("a compressed block is cut short")
    return bytes(out)


def _literal_size(data: bytes, code: int, position: int) -> tuple[int, int]:
    if code < 60:
        return code + 1, position
    extra = code - 59
    return _little(data, position, extra) + 1, position + extra


def _copy(data: bytes, tag: int, position: int) -> tuple[int, int, int]:
    """Size, distance back and the position after the element."""
    if tag & 3 == 1:
        return (tag >> 2 & 7) + 4, tag >> 5 << 8 | _little(data, position, 1), position + 1
    extra = 2 if tag & 3 == 2 else 4
    return (tag >> 2) + 1, _little(data, position, extra), position + extra


def _little(data: bytes, position: int, size: int) -> int:
    if position + size > len(data):
        raise Damaged("a compressed block is cut short")
    return int.from_bytes(data[position : position + size], "little")

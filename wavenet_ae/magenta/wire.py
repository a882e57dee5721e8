"""Varints and protocol buffers, as far as TensorFlow's index needs them."""

from collections.abc import Iterator


class Damaged(ValueError):
    """The bytes are not what their format promises."""


class Unsupported(ValueError):
    """The bytes are sound, but of a kind that is not read here."""


def varint(data: bytes, position: int) -> tuple[int, int]:
    """The unsigned number at `position`, of 64 bits at most, and the position after it.

    Raises:
        Damaged: it does not end in time, or is longer than it need be.
    """
    value = 0
    for i, byte in enumerate(data[position : position + 10]):
        value |= (byte & 0x7F) << 7 * i
        if byte < 0x80:
            if value >= 1 << 64 or (i and not byte):  # no writer pads with zeros
                break
            return value, position + i + 1
    raise Damaged("a number does not end as it should")


def fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """The fields of a message as (number, value): an int for varint and fixed types, bytes for the rest.

    Raises:
        Damaged: the message is not a protocol buffer.
    """
    position = 0
    while position < len(message):
        tag, position = varint(message, position)
        kind = tag & 7
        if kind == 0:
            value, position = varint(message, position)
            yield tag >> 3, value
            continue
        if kind == 2:
            size, position = varint(message, position)
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
        else:
            raise Damaged(f"a field of unknown type {kind}")
        content = message[position : position + size]
        if len(content) != size:
            raise Damaged("a field is cut short")
        position += size
        yield tag >> 3, content if kind == 2 else int.from_bytes(content, "little")


def number(value: int | bytes) -> int:
    """The value of a field that must be a number.

    Raises:
        Damaged: it is not.
    """
    if isinstance(value, bytes):
        raise Damaged("a message where a number should be")
    return value


def nested(value: int | bytes) -> bytes:
    """The value of a field that must be a message.

    Raises:
        Damaged: it is not.
    """
    if isinstance(value, int):
        raise Damaged("a number where a message should be")
    return value

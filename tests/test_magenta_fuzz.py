"""The index parser under fire: our errors only, no hang, no more memory than an honest file of that size needs."""

import struct
import tracemalloc
from pathlib import Path

import bundles
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wavenet_ae.magenta import bundle, crc, snappy, table, wire
from wavenet_ae.magenta.wire import Damaged, Unsupported

BASELINE = Path(__file__).parent / "data" / "magenta_baseline" / "model.ckpt-5"


def outcome(data):
    try:
        return bundle.parse(data)
    except (Damaged, Unsupported) as error:
        return str(error)


@pytest.fixture(scope="module")
def index():
    return Path(f"{BASELINE}.index").read_bytes()


def test_no_flipped_byte_of_the_index_goes_unnoticed(index):
    honest = outcome(index)
    unnoticed = []
    for position in range(len(index)):
        for mask in (0x01, 0x80, 0xFF):
            data = bytearray(index)
            data[position] ^= mask
            if outcome(bytes(data)) == honest:
                unnoticed.append(position)
    used = index[-48:].rstrip(bundles.MAGIC).rstrip(b"\0")
    padding = range(len(index) - 48 + len(used), len(index) - 8)
    assert set(unnoticed) == set(padding)


def test_every_shortened_index_is_refused(index):
    for length in range(len(index)):
        assert isinstance(outcome(index[:length]), str)
        assert isinstance(outcome(index[length + 1 :]), str)


@pytest.fixture(scope="module")
def contents(index):
    """The blocks of a real index: what a forger would change before making the checksums right again."""
    items = list(table.read(index))
    return [bundles.block(items[:40]), bundles.block(items[40:])]


@settings(max_examples=600, deadline=2000, derandomize=True)
@given(
    edits=st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 4), st.binary(max_size=6)), min_size=1, max_size=8),
    is_compressed=st.booleans(),
)
def test_forged_blocks_with_right_checksums_are_our_error(contents, edits, is_compressed):
    forged = [bytearray(content) for content in contents]
    for position, removed, inserted in edits:
        block = forged[position % 2]
        start = position % len(block)
        block[start : start + removed] = inserted
    made = (lambda content: content[: len(content) // 2] + content) if is_compressed else None  # not snappy's at all
    result = outcome(bundles.table([bytes(block) for block in forged], compress=made))
    assert isinstance(result, str | tuple)


@settings(max_examples=400, deadline=2000, derandomize=True)
@given(st.binary(max_size=300))
def test_noise_is_our_error(noise):
    for data in (noise, noise + bundles.MAGIC, bundles.table([noise]), bundles.table([noise], compress=lambda x: x)):
        assert isinstance(outcome(data), str)
    for parser in (snappy.decompress, lambda data: list(wire.fields(data))):
        try:
            parser(noise)
        except Damaged as error:
            assert str(error)  # noqa: PT017


def handle(offset, size):
    return bundles.varint(offset) + bundles.varint(size)


def closed(data, index_block):
    """A table whose index block is given outright."""
    handles = b""
    for content in (bundles.block([]), index_block):
        stored = content + b"\0"
        handles += handle(len(data), len(content))
        data += stored + struct.pack("<I", crc.masked(stored))
    return data + handles.ljust(40, b"\0") + bundles.MAGIC


def bombs():
    """Small files that ask for much: what they ask for, and the bytes."""
    many = bundles.block([(b"", bundles.header(1)), *((b"k%04d" % i, b"") for i in range(2000))])
    stored = many + b"\0"
    data = stored + struct.pack("<I", crc.masked(stored))
    again = bundles.block([(b"%06d" % i, handle(0, len(many))) for i in range(3000)], restart=1)
    yield "one block, 3,000 times", closed(data, again)
    prefix = b"".join(bundles.varint(n) for n in (0, 30_000, 0)) + b"a" * 30_000
    chain = b"".join(bundles.varint(30_000 + i) + b"\1\0z" for i in range(5000))
    yield "a long name, 5,000 times", bundles.table([prefix + chain + struct.pack("<II", 0, 1)])
    yield "4 GB of snappy", bundles.table([b"\xff\xff\xff\xff\x0f" + b"\xfe\1\0" * 1000], compress=lambda x: x)
    yield "4 billion restarts", bundles.table([b"\0" * 8 + b"\xff" * 4])
    yield "a block of exabytes", closed(b"", bundles.block([(b"x", handle(0, 1 << 60))]))
    yield "a block in the beyond", closed(b"", bundles.block([(b"x", handle(1 << 60, 0))]))
    yield (
        "exabytes of tensor",
        bundles.table(
            [bundles.block([(b"", bundles.header(1)), (b"a", bundles.field(1, 1) + bundles.field(5, 1 << 60))])]
        ),
    )
    sizes = bundles.field(2, bundles.field(2, bundles.field(1, 1 << 61)) * 33)
    yield "33 dimensions", bundles.table([bundles.block([(b"", bundles.header(1)), (b"a", sizes)])])
    yield "all the shards", bundles.table([bundles.block([(b"", bundles.header(1 << 40))])])


@pytest.mark.parametrize(("ask", "data"), list(bombs()), ids=[ask for ask, _ in bombs()])
def test_a_small_file_cannot_ask_for_much(ask, data):
    outcome(data)
    tracemalloc.start()
    try:
        result = outcome(data)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert isinstance(result, str), f"{ask} was believed"
    assert peak < 40 * len(data) + 100_000


def test_an_index_of_a_gigabyte_is_not_read(tmp_path):
    path = tmp_path / "m.index"
    with open(path, "wb") as file:
        file.truncate(1 << 30)  # sparse
    (tmp_path / "m.data-00000-of-00001").touch()
    tracemalloc.start()
    with pytest.raises(ValueError, match="index is larger than 64 MB, which none is"):
        bundle.open_bundle(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1_000_000


def test_a_block_cannot_hide_in_another():
    inner = bundles.block([(b"b", b"")]) + b"\0"
    inner += struct.pack("<I", crc.masked(inner))
    outer = bundles.block([(b"", bundles.header(1)), (b"a", bundles.field(15, inner))])
    data = outer + b"\0" + struct.pack("<I", crc.masked(outer + b"\0"))
    handles = [(b"a", handle(0, len(outer))), (b"b", handle(outer.index(inner), len(inner) - 5))]
    assert outcome(closed(data, bundles.block(handles))) == "two blocks overlap"
    assert outcome(closed(data, bundles.block(handles[1:]))) == "it has no header", "the hidden block is not sound"

import tarfile
from pathlib import Path

import bundles
import numpy as np
import pytest

from wavenet_ae.magenta import bundle, crc, snappy, table
from wavenet_ae.magenta.wire import Damaged

DATA = Path(__file__).parent / "data"
WAVENET = DATA / "magenta_wavenet" / "model.ckpt-200000"
BASELINE = DATA / "magenta_baseline" / "model.ckpt-5"


@pytest.fixture(scope="module")
def arrays():
    generator = np.random.default_rng(0)
    names = [f"layer_{i}/{kind}" for i in range(30) for kind in ("W", "biases", "W/Adam")]
    out = {name: generator.standard_normal((1, 2, i % 5, 3)).astype(np.float32) for i, name in enumerate(names)}
    return out | {"global_step": np.asarray(12, np.int64), "half": np.ones(3, np.float16)}


@pytest.fixture
def small(tmp_path):
    """A checkpoint of three tensors in two shards."""
    tensors = {name: np.arange(6, dtype=np.float32).reshape(2, 3) + i for i, name in enumerate("abc")}
    return bundles.write(tmp_path / "model.ckpt-7", tensors, shards=2)


def flip(path, position):
    data = bytearray(path.read_bytes())
    data[position] ^= 0x40
    path.write_bytes(data)


# Checksums


def test_the_checksum_is_castagnolis():
    for text, expected in ((b"123456789", 0xE3069283), (b"", 0), (bytes(32), 0x8A9136AA), (b"\xff" * 32, 0x62A8AB43)):
        assert crc.masked(text) == ((expected >> 15 | expected << 17) + 0xA282EAD8) & 0xFFFFFFFF


@pytest.mark.parametrize("length", range(20))
def test_the_fast_checksum_is_the_plain_one(length):
    data = bytes(range(200, 200 + length))
    plain = 0xFFFFFFFF
    for byte in data:
        plain ^= byte
        for _ in range(8):
            plain = plain >> 1 ^ (0x82F63B78 if plain & 1 else 0)
    plain ^= 0xFFFFFFFF
    assert crc.masked(data) == ((plain >> 15 | plain << 17) + 0xA282EAD8) & 0xFFFFFFFF


# Snappy


def test_what_snappy_compressed_comes_back():
    # Written by the snappy of Rust's `snap`: literals, and copies of both common kinds, one running into itself.
    data = b"startconv/W startconv/biases cond_map_1/W cond_map_1/biases " + b"-" * 90 + bytes(range(64))
    compressed = (
        b"\xd6\x01,startconv/W \x19\x0cHbiases cond_map_1/W.\r\x00\r\x1f\x00-\xfe\x01\x00b\x01\x00\xf0?"
        + bytes(range(64))
    )
    assert snappy.decompress(compressed) == data


@pytest.mark.parametrize(
    ("compressed", "data"),
    [
        (b"\x00", b""),
        (b"\x03\x08abc", b"abc"),
        (b"\x08\x04ab\x16\x02\x00", b"abababab"),
        (b"\x08\x04ab\x17\x02\x00\x00\x00", b"abababab"),
        (b"\xc8\x01\xf0\xc7" + bytes(200), bytes(200)),
        (b"\xac\x02\xf4\x2b\x01" + bytes(300), bytes(300)),
    ],
    ids=["nothing", "literal", "two-byte copy", "four-byte copy", "long literal", "longer literal"],
)
def test_every_element_of_snappy_is_known(compressed, data):
    assert snappy.decompress(compressed) == data


@pytest.mark.parametrize(
    ("compressed", "message"),
    [
        (b"\xff\xff\xff\xff\x0f\x08abc", "9 compressed bytes cannot hold 4294967295"),
        (b"\x05\x08abc", "is cut short"),
        (b"\x02\x08abc", "ends in the wrong place"),
        (b"\x09\x20abc", "ends in the wrong place"),
        (b"\x05\x08abc\x01", "is cut short"),
        (b"\x08\x08abc\x05\x04", "refers to bytes before its start"),
        (b"\x08\x08abc\x05\x00", "refers to bytes before its start"),
        (b"\x20\x08abc\xfe\x01\x00", "ends in the wrong place"),
        (b"\x80", "a number does not end"),
    ],
)
def test_damaged_compression_is_refused(compressed, message):
    with pytest.raises(Damaged, match=message):
        snappy.decompress(compressed)


# The reader


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("compress", [None, bundles.literals], ids=["plain", "snappy"])
@pytest.mark.parametrize("per_block", [1, 7, 1000])
def test_what_is_written_is_read(arrays, tmp_path, shards, compress, per_block):
    prefix = bundles.write(tmp_path / "model.ckpt", arrays, shards=shards, compress=compress, per_block=per_block)
    opened = bundle.open_bundle(prefix)
    assert list(opened.entries) == sorted(arrays)
    assert len(opened.shards) == shards
    for name, array in arrays.items():
        read = opened.read(name)
        assert read.dtype == array.dtype
        assert np.array_equal(read, array)
        assert read.shape == array.shape


def test_the_writer_of_these_tests_writes_what_tensorflow_wrote(tmp_path):
    opened = bundle.open_bundle(BASELINE)
    items = list(table.read(Path(f"{BASELINE}.index").read_bytes()))
    # TensorFlow gives the header a version of 1 too, and lays the tensors out in the order of their names.
    prefix = bundles.write(tmp_path / "again", {name: opened.read(name) for name in opened.entries}, per_block=1000)
    assert list(table.read(Path(f"{prefix}.index").read_bytes()))[1:] == items[1:]
    assert Path(f"{prefix}.data-00000-of-00001").read_bytes() == Path(f"{BASELINE}.data-00000-of-00001").read_bytes()


@pytest.mark.parametrize(("prefix", "count", "shape"), [(WAVENET, 749, (1, 3, 16, 32)), (BASELINE, 88, None)])
def test_tensorflows_own_files_are_read(prefix, count, shape):
    opened = bundle.open_bundle(prefix)
    assert len(opened.entries) == count
    tensors = {name: opened.read(name) for name in opened.entries}
    assert all(np.isfinite(tensor).all() for tensor in tensors.values())
    assert sum(tensor.nbytes for tensor in tensors.values()) == opened.shards[0].size
    if shape:
        assert tensors["dilatedconv_3/W"].shape == shape
        assert tensors["global_step"] == 200_000


def test_reading_maps_the_file(small):
    tensor = bundle.open_bundle(small).read("a")
    while tensor.base is not None and not isinstance(tensor, np.memmap):
        tensor = tensor.base
    assert isinstance(tensor, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        bundle.open_bundle(small).read("a")[0] = 1


# Where the files lie


@pytest.mark.parametrize("end", ["", ".index", ".data-00000-of-00002", ".data-00001-of-00002", ".meta"])
def test_any_of_its_files_means_the_checkpoint(small, end):
    Path(f"{small}.meta").write_bytes(b"a graph")
    opened = bundle.open_bundle(f"{small}{end}")
    assert opened.name == str(small)
    assert opened.read("c")[0, 0] == 2


def test_the_folder_means_its_only_checkpoint(small):
    (small.parent / "events.out").write_bytes(b"tensorboard")
    assert bundle.open_bundle(small.parent).read("b")[0, 0] == 1


@pytest.mark.parametrize("folder", ["", "wavenet-ckpt/", "./deep/er/"])
def test_a_tar_is_read_in_place(small, tmp_path, folder):
    path = tmp_path / "wavenet-ckpt.tar"
    with tarfile.open(path, "w") as archive:
        for file in sorted(small.parent.glob("model*")):
            archive.add(file, f"{folder}{file.name}")
            archive.add(file, f"{folder}._{file.name}")  # as macOS does
    for file in small.parent.glob("model*"):
        file.unlink()
    opened = bundle.open_bundle(path)
    assert [opened.read(name)[0, 0] for name in "abc"] == [0, 1, 2]
    assert {path} == {shard.path for shard in opened.shards}


def test_of_several_the_latest_is_meant(small):
    bundles.write(small.with_name("model.ckpt-9"), {"a": np.full(2, 9.0, np.float32)})
    with pytest.raises(
        ValueError, match=r"holds several checkpoints: model\.ckpt-7, model\.ckpt-9; give the path of one"
    ):
        bundle.open_bundle(small.parent)
    (small.parent / "checkpoint").write_text('model_checkpoint_path: "/old/place/model.ckpt-9"\nall_model: "x"\n')
    assert bundle.open_bundle(small.parent).read("a")[0] == 9
    (small.parent / "checkpoint").write_text('model_checkpoint_path: "model.ckpt-1"\n')
    with pytest.raises(ValueError, match="holds several checkpoints"):
        bundle.open_bundle(small.parent)


# Bad input


def test_a_wrong_prefix_lists_what_is_there(small):
    with pytest.raises(FileNotFoundError, match=r"no checkpoint .*model\.ckpt-8 .*; in .* there are model\.ckpt-7"):
        bundle.open_bundle(small.with_name("model.ckpt-8"))
    with pytest.raises(FileNotFoundError, match=r"no checkpoint .*nowhere/x \(looked for x\.index\); nor any other in"):
        bundle.open_bundle(small.parent / "nowhere" / "x")
    (small.parent / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"no TensorFlow checkpoint in .*: found nothing, expected"):
        bundle.open_bundle(small.parent / "empty")


def test_a_missing_index_is_named(small):
    Path(f"{small}.index").unlink()
    with pytest.raises(FileNotFoundError, match=r"has no model\.ckpt-7\.index beside it"):
        bundle.open_bundle(f"{small}.data-00000-of-00002")


def test_a_missing_shard_is_named(small):
    Path(f"{small}.data-00001-of-00002").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"is incomplete: data-00001-of-00002 missing beside its \.index \(2 exp"
    ):
        bundle.open_bundle(small)


@pytest.mark.parametrize("keep", [0, 1, 47])
def test_a_cut_data_file_names_the_tensor(small, keep):
    shard = Path(f"{small}.data-00000-of-00002")
    shard.write_bytes(shard.read_bytes()[:keep])
    with pytest.raises(ValueError, match=rf"data-00000-of-00002 is cut short: {keep} bytes, but [ac] ends at"):
        bundle.open_bundle(small)


def test_a_flipped_byte_names_the_tensor(small):
    flip(Path(f"{small}.data-00000-of-00002"), 30)
    opened = bundle.open_bundle(small)
    opened.read("a")
    with pytest.raises(
        ValueError, match=r"^c in .*model\.ckpt-7 is damaged \(wrong checksum\): copy or download it again"
    ):
        opened.read("c")


def test_a_cut_archive_is_refused(small, tmp_path):
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as archive:
        archive.add(f"{small}.index", "x.index")
        archive.add(f"{small}.data-00000-of-00002", "x.data-00000-of-00001")
    whole = path.read_bytes()
    for keep in (600, 1024):
        path.write_bytes(whole[:keep])
        with pytest.raises(ValueError, match="is damaged or cut short"):
            bundle.open_bundle(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"just some text\n", "is not a TensorFlow checkpoint: expected the path without its end"),
        (b"", "is not a TensorFlow checkpoint"),
        (b"\x1f\x8b\x08\x00rest", r"is compressed: unpack it \(tar -xf, or unzip\) and give the folder"),
        (b"PK\3\4rest", "is compressed: unpack it"),
        (
            bundles.table([bundles.block([(b"", bundles.field(1, b"meta")), (b"w", b"data")])]),
            "old V1 format: expected V2",
        ),
    ],
    ids=["text", "empty", "tar.gz", "zip", "V1"],
)
def test_another_kind_of_file_is_refused(tmp_path, content, message):
    path = tmp_path / "model.ckpt-200000"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        bundle.open_bundle(path)


@pytest.mark.parametrize(
    ("items", "message"),
    [
        (
            [(b"", bundles.field(1, b"slices"))],
            r"index cannot be read: it is a checkpoint in TensorFlow's old V1 format",
        ),
        ([(b"", bundles.header(1) + bundles.field(2, 1))], "cannot be read: its numbers are big-endian"),
        ([(b"", b"")], r"index is damaged \(0 data files\)"),
        ([(b"a", b"")], r"is damaged \(it has no header\): copy or download it again"),
        ([], "it has no header"),
        ([(b"", bundles.header(1)), (b"\xff", b"")], "a name is not text"),
        ([(b"", bundles.header(1)), (b"b", b""), (b"a", b"")], "its keys are not in order"),
        ([(b"", bundles.header(1)), (b"b", b""), (b"b", b"")], "its keys are not in order"),
        ([(b"", bundles.header(1)), (b"a", bundles.field(3, 1))], "a lies outside the data"),
        ([(b"", bundles.header(1)), (b"a", bundles.field(4, 1 << 63))], "a lies outside the data"),
        (
            [(b"", bundles.header(1)), (b"a", bundles.field(1, 1) + bundles.field(5, 8))],
            r"a has 8 bytes for \[\] of float",
        ),
        ([(b"", bundles.header(1)), (b"a", bundles.field(2, bundles.field(3, 1)))], "a tensor of unknown shape"),
        ([(b"", bundles.header(1)), (b"a", bundles.field(2, 5))], "a number where a message should be"),
        ([(b"", bundles.header(1)), (b"a", bundles.field(4, b"x"))], "a message where a number should be"),
        ([(b"", bundles.header(1)), (b"a", b"\x0b")], "a field of unknown type 3"),
        ([(b"", bundles.header(1)), (b"a", b"\x0a\x05abc")], "a field is cut short"),
        ([(b"", bundles.header(1)), (b"a" * 999, b"")] + [(b"a" * 999 + b"%d" % i, b"") for i in range(3)], "any name"),
    ],
)
def test_an_index_that_says_nonsense_is_refused(tmp_path, items, message):
    path = tmp_path / "model.ckpt.index"
    path.write_bytes(bundles.table([bundles.block(items)]))
    (tmp_path / "model.ckpt.data-00000-of-00001").touch()
    with pytest.raises(ValueError, match=message):
        bundle.open_bundle(path)


def test_a_tensor_that_is_not_numbers_is_listed_and_not_read(tmp_path):
    items = [
        (b"", bundles.header(1)),
        (b"graph", bundles.field(1, 7)),
        (b"part", bundles.field(1, 1) + bundles.field(7, b"")),
    ]
    (tmp_path / "m.index").write_bytes(bundles.table([bundles.block(items)]))
    (tmp_path / "m.data-00000-of-00001").touch()
    opened = bundle.open_bundle(tmp_path / "m")
    for name in ("graph", "part"):
        with pytest.raises(ValueError, match=f"{name} in .* is not one array of numbers"):
            opened.read(name)

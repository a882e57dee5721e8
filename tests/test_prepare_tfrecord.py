"""NSynth's TFRecords: the same notes as in its folders, and damage found."""

import json
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile

from wavenet_ae import audio, notes
from wavenet_ae.magenta import crc
from wavenet_ae.prepare import tfrecord
from wavenet_ae.prepare.build import build
from wavenet_ae.prepare.sources import Fault
from wavenet_ae.prepare.tfrecord import TFRecords

OFFICIAL = Path(__file__).parent / "data" / "nsynth_format"
RECORDS = OFFICIAL / "nsynth-test.tfrecord"
SETTINGS = {"source": {}, "splits": {"train": 1.0}, "seed": 0, "format": "wav", "licence": None}


def source(path, split=None):
    return TFRecords(input=str(path), split=split)


def records(path=RECORDS):
    """The bytes of each record, frame included."""
    data, found = path.read_bytes(), []
    while data:
        size = struct.unpack("<Q", data[:8])[0] + 16
        found.append(data[:size])
        data = data[size:]
    return found


def framed(example):
    length = struct.pack("<Q", len(example))
    return length + struct.pack("<I", crc.masked(length)) + example + struct.pack("<I", crc.masked(example))


def test_records_hold_what_the_folder_holds(tmp_path):
    assert build(source(RECORDS), tmp_path / "out", settings=SETTINGS, overwrite=False) == {}
    assert notes.splits(tmp_path / "out") == ["test"]
    ours, official = (notes.read_examples(root) for root in (tmp_path / "out/test", OFFICIAL / "nsynth-test"))
    assert ours == official
    for note in notes.load(OFFICIAL, "test"):
        expected, _ = soundfile.read(note.path, dtype="int16")
        found, rate = soundfile.read(tmp_path / "out/test/audio" / note.path.name, dtype="int16")
        assert rate == audio.SAMPLE_RATE
        assert expected.any()
        assert np.array_equal(found, expected)


def test_a_damaged_record_is_named_and_the_others_made(tmp_path):
    whole = records()
    for position in (40, 5000, len(whole[1]) - 2):  # in the labels, in the audio, in the checksum itself
        bad = bytearray(whole[1])
        bad[position] ^= 1
        path = tmp_path / "nsynth-train.tfrecord"
        path.write_bytes(whole[0] + bytes(bad) + whole[2])
        out = tmp_path / f"out{position}"
        failed = build(source(path), out, settings=SETTINGS, overwrite=False)
        assert failed == {f"{path} record 1": "it is damaged: its checksum is another; restore the file"}
        assert len(notes.load(out, "train")) == 2


def test_a_file_cut_short_gives_what_is_whole(tmp_path):
    path = tmp_path / "nsynth-train.tfrecord"
    path.write_bytes(RECORDS.read_bytes()[:-100])
    plan = source(path).plan()
    assert [item.size for item in plan.items] == [2]
    assert "it is cut short after 2 whole records" in plan.failed[str(path)]


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "it is empty: expected TFRecords"), (b"no tfrecord at all, only words", "byte 0 does not begin a TFRecord")],
)
def test_what_is_no_tfrecord_is_refused(tmp_path, content, message):
    path = tmp_path / "test.tfrecord"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"nothing can be made:\n.*{message}"):
        build(source(path), tmp_path / "out", settings=SETTINGS, overwrite=False)
    assert not (tmp_path / "out").exists()


def test_another_dataset_is_refused_record_by_record(tmp_path):
    path = tmp_path / "train.tfrecord"
    path.write_bytes(framed(b"") + framed(b"\xff" * 9) + records()[0])
    (item,) = source(path).plan().items
    first, second, third = made_by(source(path), item)
    assert first.why.startswith("it lacks audio, instrument, instrument_family")
    assert isinstance(second, Fault)
    assert third.entry["note_str"] == "bass_synthetic_033-036-025"


def made_by(records_source, item):
    records_source.plan()
    return list(records_source.make(item))


@pytest.mark.parametrize(
    ("found", "instead", "message"),
    [
        (b"bass_synthetic_033-036-025", b"../_synthetic_033-036-0025"[:26], "is no name of a file"),
        (b"\x80\x7d", b"\x81\x7d", "it is at 16001 Hz: expected 16000"),
    ],
)
def test_a_record_that_would_do_harm_is_refused(tmp_path, found, instead, message):
    example = records()[0][12:-4]
    assert found in example
    path = tmp_path / "train.tfrecord"
    path.write_bytes(framed(example.replace(found, instead)))
    (item,) = source(path).plan().items
    (fault,) = made_by(source(path), item)
    assert isinstance(fault, Fault)
    assert message in fault.why


def test_shards_and_blocks_are_taken_as_one(tmp_path, monkeypatch):
    monkeypatch.setattr(tfrecord, "BLOCK", 2)
    first, second, third = records()
    (tmp_path / "nsynth-valid.tfrecord-00000-of-00002").write_bytes(first + second + third)
    (tmp_path / "nsynth-valid.tfrecord-00001-of-00002").write_bytes(third)
    (tmp_path / "notes.txt").write_text("x")
    plan = source(tmp_path).plan()
    assert [(item.size, item.split) for item in plan.items] == [(2, "valid"), (1, "valid"), (1, "valid")]


def test_the_split_is_in_the_name_or_given(tmp_path):
    path = tmp_path / "shard.tfrecord"
    path.write_bytes(records()[0])
    assert "its name does not say the split: expected" in source(path).plan().failed[str(path)]
    assert [item.split for item in source(path, "test").plan().items] == ["test"]


@pytest.mark.parametrize(
    "name", ["latest-train.tfrecord", "nsynth_TRAIN.tfrecord", "train2.tfrecord", "a-train-of-5.tfrecord"]
)
def test_the_split_is_a_word_of_the_name(tmp_path, name):
    (tmp_path / name).write_bytes(records()[0])
    assert [item.split for item in source(tmp_path / name).plan().items] == ["train"]


@pytest.mark.parametrize("name", ["latest.tfrecord", "train-test.tfrecord"])
def test_a_name_that_does_not_say_one_split_is_refused(tmp_path, name):
    (tmp_path / name).write_bytes(records()[0])
    assert (
        "expected one of the words train, valid and test" in source(tmp_path / name).plan().failed[str(tmp_path / name)]
    )


def test_another_split_joins_those_that_are_there(tmp_path):
    """Made one after the other, in any order, two splits are what they are made together."""
    for split, record in zip(("train", "valid"), records(), strict=False):
        (tmp_path / "in").mkdir(exist_ok=True)
        (tmp_path / f"in/nsynth-{split}.tfrecord").write_bytes(record)
    build(source(tmp_path / "in"), tmp_path / "whole", settings=SETTINGS, overwrite=False)
    for split in ("train", "valid", "train"):
        path = tmp_path / f"in/nsynth-{split}.tfrecord"
        settings = SETTINGS | {"source": {"input": str(path), "split": split}}
        assert build(source(path, split), tmp_path / "out", settings=settings, overwrite=False) == {}
    assert notes.splits(tmp_path / "out") == ["train", "valid"]
    for path in (tmp_path / "whole").glob("*/**/*.*"):
        assert path.read_bytes() == (tmp_path / "out" / path.relative_to(tmp_path / "whole")).read_bytes()
    (tmp_path / "valid2.tfrecord").write_bytes(records()[2])
    with pytest.raises(
        ValueError, match=r"this would remove 1 notes of .*, made of nsynth-valid\.tfrecord from record 0"
    ):
        build(source(tmp_path / "valid2.tfrecord"), tmp_path / "out", settings=SETTINGS, overwrite=False)


@pytest.mark.parametrize("as_list", [False, True])
def test_two_files_of_one_name_are_both_taken(tmp_path, as_list):
    for folder, record in zip("ab", records(), strict=False):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "train.tfrecord").write_bytes(record)
    given = [str(tmp_path / folder / "train.tfrecord") for folder in "ab"] if as_list else str(tmp_path)
    assert build(TFRecords(input=given, split=None), tmp_path / "out", settings=SETTINGS, overwrite=False) == {}
    assert len(notes.load(tmp_path / "out", "train")) == 2


def test_a_note_that_comes_twice_is_a_fault(tmp_path):
    first, second, _ = records()
    (tmp_path / "train-1.tfrecord").write_bytes(first + second)
    (tmp_path / "train-2.tfrecord").write_bytes(first)
    for _ in range(2):
        failed = build(source(tmp_path), tmp_path / "out", settings=SETTINGS, overwrite=False)
        ((what, why),) = failed.items()
        assert what == "bass_synthetic_033-036-025 in train"
        assert "it is there twice" in why
        assert len(notes.load(tmp_path / "out", "train")) == 2


def test_a_record_with_unsound_values_is_named_and_the_others_made(tmp_path):
    """With checksums that are right: it was written so."""
    first, second, third = records()
    example = second[12:-4]
    at = example.index(b"audio") + 40
    at += -(at - len(example)) % 4
    nan = bytearray(example)
    for place in range(at, at + 8):  # a float of ones is NaN, however they are aligned
        nan[place] = 0xFF
    at = example.index(b"pitch") + len(b"pitch")
    kind = bytearray(example)
    assert kind[at : at + 3] == bytes([0x12, 0x05, 0x1A]) or kind[at] == 0x12
    kind[at + 2] = 0x0A  # an Int64List becomes a BytesList
    path = tmp_path / "train.tfrecord"
    path.write_bytes(first + framed(bytes(nan)) + framed(bytes(kind)) + third)
    failed = build(source(path), tmp_path / "out", settings=SETTINGS, overwrite=False)
    assert list(failed) == [f"{path} record 1", f"{path} record 2"]
    assert "NaN" in failed[f"{path} record 1"]
    assert len(notes.load(tmp_path / "out", "train")) == 2


def test_the_record_of_the_corpus_names_its_files(tmp_path):
    build(source(RECORDS), tmp_path, settings=SETTINGS, overwrite=False)
    assert json.loads((tmp_path / "prepare.json").read_text())["made_by"]["tfrecords"] == ["nsynth-test.tfrecord"]

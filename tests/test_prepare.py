"""prepare as a command: what it makes, what it leaves alone, how it goes on after a stop."""

import errno
import hashlib
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import soundfile
import torch
from hydra import compose, initialize_config_dir
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from wavenet_ae import audio, files, notes
from wavenet_ae.command import CONF
from wavenet_ae.prepare.__main__ import main
from wavenet_ae.prepare.splits import assign

TRAIN = ("splits.valid=0", "splits.test=0")
BOX = Path(__file__).parents[1] / "data" / "notes"


@pytest.fixture
def prepare(monkeypatch, capsys):
    """Run the command in this process; returns its exit status and what it said."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["prepare", *map(str, arguments)])
        try:
            main()
        except SystemExit as stop:
            return stop.code, capsys.readouterr().err
        return 0, capsys.readouterr().err

    return run


def sine(pitch, seconds=0.3):
    time = torch.arange(round(seconds * 16000)) / 16000
    return 0.5 * torch.sin(2 * math.pi * 440 * 2 ** ((pitch - 69) / 12) * time)


@pytest.fixture
def recordings(tmp_path):
    """Ten files of five instruments."""
    for number in range(10):
        audio.write(tmp_path / "in" / f"tone{number // 2}-{60 + number}.wav", sine(60 + number))
    return tmp_path / "in"


def contents(folder):
    """Every file below a folder with its checksum."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def stopping(after, write=audio.write):
    """An audio.write that is interrupted when so many files are written."""
    left = iter(range(after))

    def stopped(path, wave):
        if next(left, None) is None:
            raise KeyboardInterrupt
        write(path, wave)

    return stopped


def of(recordings, out, *more):
    return "source=folder", f"source.input={recordings}", "source.pattern=INSTRUMENT-PITCH", f"out={out}", *more


def test_a_folder_becomes_a_corpus_that_can_be_loaded(prepare, recordings, tmp_path):
    status, _ = prepare(*of(recordings, tmp_path / "out"))
    assert status == 0
    found = {split: notes.load(tmp_path / "out", split) for split in ("train", "valid", "test")}
    notes.check_disjoint(**found)
    assert {split: len(group) for split, group in found.items()} == {"train": 6, "valid": 2, "test": 2}
    everything = sorted(note.pitch for group in found.values() for note in group)
    assert everything == list(range(60, 70))
    note = found["train"][0]
    assert torch.equal(audio.read(note.path), audio.read(next(recordings.glob(f"*-{note.pitch}.wav"))))
    ids = [e["note"] for s in found for e in notes.read_examples(tmp_path / "out" / s).values()]
    assert sorted(ids) == list(range(10))
    record = json.loads((tmp_path / "out/prepare.json").read_text())
    assert sorted(name.split(" ")[0] for name in record["instruments"].values()) == [f"tone{i}" for i in range(5)]


def test_takes_of_one_pitch_are_kept_apart(prepare, tmp_path):
    for take, level in (("a", 0.2), ("b", 0.4), ("c", 0.6)):
        audio.write(tmp_path / "in" / f"viola-60-{take}.wav", level * sine(60))
    status, _ = prepare(
        "source=folder", f"source.input={tmp_path / 'in'}", "source.pattern=INSTRUMENT-PITCH-*", f"out={tmp_path}"
    )
    assert status == 0
    found = notes.load(tmp_path, "train")
    assert [note.name[-10:] for note in found] == ["00-060-100", "060-100-01", "060-100-02"]
    assert [float(audio.read(note.path).max()) for note in found] == pytest.approx([0.1, 0.2, 0.3], abs=1e-3)


def test_one_bad_file_does_not_stop_the_others(prepare, recordings, tmp_path):
    (recordings / "tone3-66.wav").write_bytes(b"")
    (recordings / "tone4-hello.wav").write_bytes((recordings / "tone4-68.wav").read_bytes())
    status, said = prepare(*of(recordings, tmp_path / "out"))
    assert status == 1
    assert "2 inputs could not be used; the others are in" in said
    assert "tone3-66.wav cannot be read as audio: the file is empty (0 bytes)" in said
    assert "tone4-hello.wav: 'tone4-hello' does not fit the pattern 'INSTRUMENT-PITCH'" in said
    assert sum(len(notes.load(tmp_path / "out", split)) for split in notes.splits(tmp_path / "out")) == 9


def test_notes_are_made_by_one_thread_and_the_others_are_given_back(prepare, recordings, tmp_path, monkeypatch):
    """Threads that wait for each other make it ten times slower where somebody else works too."""
    threads, before = [], torch.get_num_threads()
    write = audio.write

    def noting(path, wave):
        threads.append(torch.get_num_threads())
        write(path, wave)

    monkeypatch.setattr(audio, "write", noting)
    torch.set_num_threads(2)
    try:
        assert prepare(*of(recordings, tmp_path / "out"))[0] == 0
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert threads == [1] * 10


def test_a_mended_file_is_added_and_the_rest_not_made_again(prepare, recordings, tmp_path):
    good = (recordings / "tone3-66.wav").read_bytes()
    (recordings / "tone3-66.wav").write_bytes(b"")
    assert prepare(*of(recordings, tmp_path / "out"))[0] == 1
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "out").rglob("*.flac")}
    (recordings / "tone3-66.wav").write_bytes(good)
    assert prepare(*of(recordings, tmp_path / "out"))[0] == 0
    untouched = [p for p, time in before.items() if p.stat().st_mtime_ns == time]
    assert len(untouched) == 8  # the other four instruments'
    assert prepare(*of(recordings, tmp_path / "fresh"))[0] == 0
    same = ["train/examples.json", "valid/examples.json", "test/examples.json"]
    assert all((tmp_path / "out" / f).read_bytes() == (tmp_path / "fresh" / f).read_bytes() for f in same)


def test_a_finished_corpus_is_left_as_it_is(prepare, recordings, tmp_path):
    prepare(*of(recordings, tmp_path / "out"))
    before = contents(tmp_path / "out")
    times = {p: p.stat().st_mtime_ns for p in (tmp_path / "out").rglob("*.flac")}
    status, said = prepare(*of(recordings, tmp_path / "out"))
    assert status == 0
    assert "is complete: nothing is left to make" in said
    assert contents(tmp_path / "out") == before
    assert all(p.stat().st_mtime_ns == time for p, time in times.items())


@pytest.mark.parametrize("after", [1, 2, 5, 9])
def test_an_interrupted_run_goes_on_and_ends_the_same(prepare, recordings, tmp_path, monkeypatch, after):
    prepare(*of(recordings, tmp_path / "whole"))
    write, written = audio.write, []

    def stopped(path, wave):
        if len(written) == after:
            raise KeyboardInterrupt
        written.append(path)
        write(path, wave)

    monkeypatch.setattr(audio, "write", stopped)
    status, said = prepare(*of(recordings, tmp_path / "out"))
    assert status == 130
    assert "what was finished is kept" in said
    with pytest.raises((FileNotFoundError, ValueError), match=r"has no split|holds no examples.json"):
        notes.load(tmp_path / "out", "train")  # half a corpus is no corpus
    with open(tmp_path / "out/.unfinished/.journal.jsonl", "a") as journal:
        journal.write('\n{"name": "tone')  # as a kill would leave it
    again = []
    monkeypatch.setattr(audio, "write", lambda path, wave: (again.append(path), write(path, wave)))
    assert prepare(*of(recordings, tmp_path / "out"))[0] == 0
    assert len(again) == 10 - after // 2 * 2  # an instrument, two notes, is made whole
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_a_full_disk_is_one_message_and_costs_nothing(prepare, recordings, tmp_path, monkeypatch):
    synced = []

    def full(descriptor):
        synced.append(descriptor)
        if len(synced) > 5:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(files.os, "fsync", full)
        status, said = prepare(*of(recordings, tmp_path / "out"))
    assert status == 1
    assert "No space left on device" in said
    assert not list((tmp_path / "out").rglob("*partial*"))
    assert prepare(*of(recordings, tmp_path / "out"))[0] == 0
    prepare(*of(recordings, tmp_path / "whole"))
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_other_settings_are_refused_and_replaced_only_when_asked(prepare, recordings, tmp_path):
    prepare(*of(recordings, tmp_path / "out"))
    before = contents(tmp_path / "out")
    status, said = prepare(*of(recordings, tmp_path / "out", "format=wav", "seed=4"))
    assert status == 1
    assert "made with other settings (format, seed): it is left as it is; choose another out, or replace it" in said
    assert contents(tmp_path / "out") == before
    assert prepare(*of(recordings, tmp_path / "out", "format=wav", "seed=4", "overwrite=true"))[0] == 0
    prepare(*of(recordings, tmp_path / "fresh", "format=wav", "seed=4"))
    assert contents(tmp_path / "out") == contents(tmp_path / "fresh")


def test_a_corpus_stands_until_the_one_that_replaces_it_is_whole(prepare, recordings, tmp_path, monkeypatch):
    prepare(*of(recordings, tmp_path / "out"))
    before = contents(tmp_path / "out")
    write, written = audio.write, []

    def stopped(path, wave):
        written.append(path)
        if len(written) == 5:
            raise KeyboardInterrupt
        write(path, wave)

    with monkeypatch.context() as patch:
        patch.setattr(audio, "write", stopped)
        assert prepare(*of(recordings, tmp_path / "out", "seed=4", "overwrite=true"))[0] == 130
    after = contents(tmp_path / "out")
    assert {name: after[name] for name in before} == before
    assert len(notes.load(tmp_path / "out", "train")) == 6
    assert prepare(*of(recordings, tmp_path / "out", "seed=4", "overwrite=true"))[0] == 0
    prepare(*of(recordings, tmp_path / "fresh", "seed=4"))
    assert contents(tmp_path / "out") == contents(tmp_path / "fresh")


def test_a_corpus_of_others_is_never_touched(prepare, recordings, corpus):
    before = contents(corpus)
    for more in ((), ("overwrite=true",)):
        status, said = prepare(*of(recordings, corpus, *more))
        assert status == 1
        assert "holds a corpus that prepare did not make (test, train, valid): it is left as it is" in said
    assert contents(corpus) == before


def test_files_beside_the_splits_stay(prepare, recordings, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "README").write_text("mine")
    prepare(*of(recordings, tmp_path / "out"))
    prepare(*of(recordings, tmp_path / "out", "seed=1", "overwrite=true"))
    assert (tmp_path / "out" / "README").read_text() == "mine"


def test_notes_that_are_gone_from_the_input_go_from_the_corpus(prepare, recordings, tmp_path):
    prepare(*of(recordings, tmp_path / "out"))
    for path in recordings.glob("tone1-*"):
        path.unlink()
    before = contents(tmp_path / "out")
    status, said = prepare(*of(recordings, tmp_path / "out"))
    assert status == 1
    assert "this would remove 2 notes of" in said
    assert "made of tone1 (other, acoustic): expected them in source.input too" in said
    assert contents(tmp_path / "out") == before
    assert prepare(*of(recordings, tmp_path / "out", "overwrite=true"))[0] == 0
    prepare(*of(recordings, tmp_path / "fresh"))
    audio_files = [{n: d for n, d in contents(tmp_path / o).items() if n.endswith(".flac")} for o in ("out", "fresh")]
    assert audio_files[0] == audio_files[1]


def test_what_prepare_did_not_write_is_never_deleted(prepare, recordings, tmp_path):
    """A user's own recording, a folder and a text among a split's audio outlive every change of the corpus."""
    out = tmp_path / "out"
    audio.write(out / "train/audio/mine.wav", sine(50))
    assert prepare(*of(recordings, out))[0] == 0
    audio.write(out / "train/audio/mine too.flac", sine(51))
    (out / "valid/audio/folder").mkdir()
    (out / "valid/audio/folder/words.txt").write_text("mine")
    (out / "valid/words.txt").write_text("mine")
    mine = {name: digest for name, digest in contents(out).items() if "mine" in name or "words" in name}
    assert len(mine) == 4
    assert prepare(*of(recordings, out, "seed=4", "overwrite=true"))[0] == 0
    audio.write(recordings / "a-50.wav", sine(50))
    assert prepare(*of(recordings, out, "seed=4"))[0] == 0
    assert prepare(*of(recordings, out, *TRAIN, "overwrite=true"))[0] == 0  # no valid any more
    after = contents(out)
    assert {name: after.pop(name) for name in mine} == mine
    prepare(*of(recordings, tmp_path / "fresh", *TRAIN))
    assert after == contents(tmp_path / "fresh")


def test_a_file_of_others_with_the_name_of_a_note_is_kept_beside(prepare, recordings, tmp_path):
    out = tmp_path / "out"
    audio.write(out / "train/audio/other_acoustic_001-062-100.flac", sine(90))
    mine = contents(out)["train/audio/other_acoustic_001-062-100.flac"]
    for split in ("train", "valid", "test"):
        audio.write(out / split / "audio/other_acoustic_001-062-100.flac", sine(90))
    assert prepare(*of(recordings, out))[0] == 0
    prepare(*of(recordings, tmp_path / "fresh"))
    after = contents(out)
    kept = {name: after.pop(name) for name in list(after) if after[name] == mine}
    assert len(kept) == 3
    assert after == contents(tmp_path / "fresh")


@pytest.mark.parametrize("inside", ["out", "out/train/audio", "out/valid", "out/nsynth-test/audio"])
def test_input_and_results_must_be_apart(prepare, recordings, tmp_path, inside):
    audio.write(tmp_path / inside / "tone-60.wav", sine(60))
    before = contents(tmp_path)
    status, said = prepare(*of(tmp_path / inside, tmp_path / "out"))
    assert status == 1
    assert "expected results apart from inputs; choose another out" in said
    status, said = prepare(*of(f"[{recordings},{tmp_path / inside}]", tmp_path / "out"))
    assert status == 1
    assert contents(tmp_path) == before


def test_another_input_does_not_replace_a_corpus_unasked(prepare, recordings, tmp_path):
    """Even where the instruments have the same names."""
    prepare(*of(recordings, tmp_path / "out"))
    before = contents(tmp_path / "out")
    for number in range(10):
        audio.write(tmp_path / "in2" / f"tone{number // 2}-{80 + number}.wav", sine(80 + number))
    status, said = prepare(*of(tmp_path / "in2", tmp_path / "out"))
    assert status == 1
    assert "this would remove 10 notes of" in said
    assert contents(tmp_path / "out") == before
    assert prepare(*of(tmp_path / "in2", tmp_path / "out", "overwrite=true"))[0] == 0
    prepare(*of(tmp_path / "in2", tmp_path / "fresh"))
    assert contents(tmp_path / "out") == contents(tmp_path / "fresh")


@pytest.mark.parametrize("after", [1, 3, 10])
def test_an_interrupted_change_leaves_every_note_under_its_label(prepare, recordings, tmp_path, monkeypatch, after):
    prepare(*of(recordings, tmp_path / "out", *TRAIN))
    before = contents(tmp_path / "out")
    audio.write(recordings / "a-60.wav", 0.5 * sine(60))  # sorts first: every instrument gets another number
    with monkeypatch.context() as patch:
        patch.setattr(audio, "write", stopping(after))
        assert prepare(*of(recordings, tmp_path / "out", *TRAIN))[0] == 130
    there = contents(tmp_path / "out")
    assert {name: there[name] for name in before} == before
    (recordings / "a-60.wav").unlink()
    assert prepare(*of(recordings, tmp_path / "out", *TRAIN))[0] == 0
    assert {name: d for name, d in contents(tmp_path / "out").items() if not name.startswith(".unf")} == before
    audio.write(recordings / "a-60.wav", 0.5 * sine(60))
    assert prepare(*of(recordings, tmp_path / "out", *TRAIN))[0] == 0
    prepare(*of(recordings, tmp_path / "fresh", *TRAIN))
    assert contents(tmp_path / "out") == contents(tmp_path / "fresh")


def test_an_unfinished_corpus_whose_input_changes_twice_holds_no_wrong_note(prepare, recordings, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(audio, "write", stopping(4))
        assert prepare(*of(recordings, tmp_path / "out", *TRAIN))[0] == 130
    audio.write(recordings / "a-60.wav", 0.5 * sine(60))
    with monkeypatch.context() as patch:
        patch.setattr(audio, "write", stopping(1))
        assert prepare(*of(recordings, tmp_path / "out", *TRAIN))[0] == 130
    (recordings / "a-60.wav").unlink()
    assert prepare(*of(recordings, tmp_path / "out", *TRAIN))[0] == 0
    prepare(*of(recordings, tmp_path / "fresh", *TRAIN))
    assert contents(tmp_path / "out") == contents(tmp_path / "fresh")


@pytest.mark.parametrize("after", range(1, 10))
def test_a_kill_while_the_new_corpus_takes_its_place_is_gone_on_with(prepare, recordings, tmp_path, monkeypatch, after):
    out = tmp_path / "out"
    prepare(*of(recordings, out))
    audio.write(out / "train/audio/mine.wav", sine(51))
    audio.write(recordings / "a-50.wav", sine(50))
    moved = []

    def killed(move):
        def moves(self, target):
            moved.append(self)
            if len(moved) == after:
                raise KeyboardInterrupt
            return move(self, target)

        return moves

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", killed(Path.rename))
        patch.setattr(Path, "replace", killed(Path.replace))
        assert prepare(*of(recordings, out))[0] == (130 if after <= 8 else 0)
    assert prepare(*of(recordings, out))[0] == 0
    prepare(*of(recordings, tmp_path / "fresh"))
    after_all = contents(out)
    assert after_all.pop("train/audio/mine.wav")
    assert after_all == contents(tmp_path / "fresh")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("source=folder", "source.input=x"), "nothing given for out: add out=..."),
        (("source=folder", "out=x"), "nothing given for source.input: add source.input=recordings"),
        (("source=folder", "source.input=nowhere", "out=x"), "nowhere does not exist: expected a file or a folder"),
        (("source=folder", "source.inputs=x", "out=x"), "Key 'inputs' is not in struct"),
        (("format=mp3", "out=x"), "unknown format 'mp3': choose one of flac, wav"),
        (("outt=x",), "Key 'outt' is not in struct"),
        (("source=tape", "out=x"), "Could not find 'source/tape'"),
        (("check=true", "out=nowhere"), "nowhere is not there: expected a corpus"),
    ],
)
def test_what_makes_no_sense_is_one_message(prepare, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    status, said = prepare(*arguments)
    assert status == 1
    assert message in said
    assert "Traceback" not in said
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("source.family=808",), "family '808' holds no letter: expected a word"),
        (("source.pattern=60",), "pattern '60' holds no field: expected each at most once of INSTRUMENT"),
        (("source.length_s=abc",), "source.length_s=abc is no number: expected one, as"),
        (("source.silence_db=abc",), "source.silence_db=abc is no number: expected one, as"),
        (("source.pitch_tolerance=abc",), "source.pitch_tolerance=abc is no number: expected one, as"),
        (("source.velocity=abc",), "'abc' is no velocity: expected a number"),
        (("splits.valid=tone1*",), "splits.valid is 'tone1*': expected a share or a list of names; say splits.valid=["),
        (("splits.valid=[2024]",), "splits.valid names '2024', which fits none of tone0"),
        (("check=true", "check_cents=abc"), "check_cents=abc is no number: expected one, as check_cents=4.0"),
    ],
)
def test_a_value_of_the_wrong_kind_is_one_message(prepare, recordings, tmp_path, arguments, message):
    given = (f"source.input={recordings}", f"out={tmp_path / 'out'}", "source=folder", "splits.test=0")
    pattern = () if "source.pattern" in arguments[0] else ("source.pattern=INSTRUMENT-PITCH",)
    status, said = prepare(*given, *pattern, *arguments)
    assert status == 1
    assert message in said
    assert "Traceback" not in said
    assert not (tmp_path / "out").exists()


def test_names_made_of_digits_are_names(prepare, recordings, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recordings.rename(tmp_path / "1999")
    assert prepare(*of(1999, 2024))[0] == 0
    assert len(notes.load(tmp_path / "2024", "train")) == 6
    status, said = prepare("check=true", "out=2024", "check_list=7", "check_cents=50")
    assert (status, "no fault found" in said) == (0, True)


def test_out_may_not_be_a_file(prepare, recordings, tmp_path):
    (tmp_path / "out").write_text("precious")
    status, said = prepare(*of(recordings, tmp_path / "out"))
    assert (status, (tmp_path / "out").read_text()) == (1, "precious")
    assert "out is a file: expected a folder for the corpus" in said


def test_nothing_usable_is_said_before_anything_is_made(prepare, tmp_path):
    audio.write(tmp_path / "in/a.wav", sine(60))
    status, said = prepare(*of(tmp_path / "in", tmp_path / "out"))
    assert status == 1
    assert "nothing can be made:\n" in said
    assert "'a' does not fit the pattern" in said
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_an_out_that_cannot_be_written_is_one_message(prepare, recordings, tmp_path):
    (tmp_path / "locked").mkdir(mode=0o500)
    status, said = prepare(*of(recordings, tmp_path / "locked" / "out"))
    assert status == 1
    assert "Permission denied" in said


def test_help_shows_three_examples():
    said = subprocess.run(
        [sys.executable, "-m", "wavenet_ae.prepare", "--help"], capture_output=True, text=True, check=True, timeout=120
    ).stdout
    assert said.count("    python -m wavenet_ae.prepare ") == 3
    assert "overwrite: false" in said
    assert "source: folder, soundfont, tfrecord" in said


@given(
    st.lists(st.text("abcdefgh ", min_size=1, max_size=4), min_size=1, max_size=30, unique=True),
    st.dictionaries(st.sampled_from(["train", "valid", "test"]), st.integers(1, 9), min_size=1),
    st.integers(0, 9),
)
def test_every_instrument_goes_to_one_split_by_share(names, shares, seed):
    chosen = assign(names, shares, seed)
    assert sorted(chosen) == sorted(names)
    assert chosen == assign(names[::-1], shares, seed)
    total = sum(shares.values())
    for split, share in shares.items():
        count = list(chosen.values()).count(split)
        assert abs(count - len(names) * share / total) <= max(1, len(shares) - 1)
        assert count > 0 or len(names) < len(shares)


def test_named_instruments_go_where_they_are_named():
    names = ["a", "b", "c 1", "c 2", "d"]
    chosen = assign(names, {"train": 1.0, "valid": ["c *"], "test": ["a"]}, 0)
    assert chosen == {"a": "test", "b": "train", "c 1": "valid", "c 2": "valid", "d": "train"}
    assert len({tuple(assign(names, {"train": 3, "test": 2}, seed).items()) for seed in range(9)}) > 1
    with pytest.raises(ValueError, match=r"splits.valid names 'viola', which fits none of a, b, c 1, c 2, d"):
        assign(names, {"train": 1.0, "valid": ["viola"]}, 0)
    with pytest.raises(ValueError, match=r"no split for b, d: expected a share"):
        assign(names, {"valid": ["c *"], "test": ["a"]}, 0)


def test_the_box_is_what_its_command_says():
    """conf/corpus/box.yaml is the recipe of data/notes: whoever changes one changes the other."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = OmegaConf.to_container(compose("prepare", overrides=["corpus=box"]), resolve=True)
    record = json.loads((BOX / "prepare.json").read_text())
    assert {key: cfg[key] for key in record["settings"]} == record["settings"]
    assert record["failed"] == {}


def test_the_box_holds_what_its_readme_says():
    found = {split: notes.load(BOX, split) for split in ("train", "valid", "test")}
    notes.check_disjoint(**found)
    everything = [note for group in found.values() for note in group]
    assert {split: len(group) for split, group in found.items()} == {"train": 214, "valid": 32, "test": 32}
    assert len({note.instrument for note in everything}) == 33
    assert {note.family for note in everything} == set(notes.FAMILIES)
    assert {note.velocity for note in everything} == {60, 110}
    taught = {note.family for note in found["train"]}
    assert {note.family for note in found["valid"] + found["test"]} <= taught
    assert sum(path.stat().st_size for path in BOX.rglob("*") if path.is_file()) < 15e6
    assert {soundfile.info(note.path).frames for note in everything[::9]} == {64000}
    assert "Frank Wen" in (BOX.parent / "NOTICE").read_text()

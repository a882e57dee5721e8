"""prepare check=true: every fault of a corpus, none of a sound one."""

import json
import math
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from wavenet_ae import audio, notes
from wavenet_ae.prepare.__main__ import main
from wavenet_ae.prepare.check import check

BOX = Path(__file__).parents[1] / "data" / "notes"


def sine(pitch, seconds=0.4, level=0.5):
    time = torch.arange(round(seconds * 16000)) / 16000
    return level * torch.sin(2 * math.pi * 440 * 2 ** ((pitch - 69) / 12) * time)


@pytest.fixture
def corpus(tmp_path):
    """Twelve notes of 0.4 s, in tune; the organ's an octave low."""
    for split, families in (("train", ("organ", "reed")), ("valid", ("flute",))):
        entries = []
        for number, family in enumerate(families):
            for pitch in (60, 64, 67, 72):
                key = notes.Key(f"{family}_acoustic_00{number}", pitch, 100)
                entries.append(notes.describe(key, note=len(entries), instrument=number))
                wave = sine(pitch - 12 if family == "organ" else pitch)
                audio.write(tmp_path / split / "audio" / f"{notes.name(key)}.wav", wave)
        notes.write_examples(tmp_path / split, entries)
    return tmp_path


SPOILT = "reed_acoustic_001-064-100"
FAULTS = {
    "missing": lambda p: p.unlink(),
    "unreadable": lambda p: p.write_bytes(b"RIFF"),
    "wrong rate: 1 channels at 44100 Hz": lambda p: soundfile.write(p, sine(64).numpy(), 44100),
    "wrong rate: 2 channels at 16000 Hz": lambda p: soundfile.write(p, np.stack([sine(64).numpy()] * 2, 1), 16000),
    "unreadable: ": lambda p: soundfile.write(p, np.full(6400, np.inf), 16000, "FLOAT"),
    "silent: its level is -67 dB": lambda p: audio.write(p, sine(64, level=0.0006)),
    "clipped: ": lambda p: audio.write(p, 3 * sine(64)),
    "wrong length: 6399 samples, expected 6400 as 11 others have": lambda p: audio.write(p, sine(64)[:-1]),
    "pitch off: it sounds at 65.0": lambda p: audio.write(p, sine(65)),
}


def test_a_sound_corpus_has_no_fault(corpus):
    assert check(corpus, cents=50.0) == {}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_found_and_only_it(corpus, fault):
    FAULTS[fault](corpus / "train/audio" / f"{SPOILT}.wav")
    found = check(corpus, cents=50.0)
    assert list(found) == [("train", SPOILT)]
    assert found["train", SPOILT].startswith(fault)


def test_a_full_scale_peak_alone_is_no_clipping(corpus):
    wave = sine(64)
    audio.write(corpus / "train/audio" / f"{SPOILT}.wav", wave / wave.abs().max())
    assert check(corpus, cents=50.0) == {}


def test_pitches_can_be_left_out_and_none_is_no_pitch(corpus):
    audio.write(corpus / "train/audio" / f"{SPOILT}.wav", sine(66))
    assert check(corpus, cents=None) == {}
    table = corpus / "train/examples.json"
    entries = json.loads(table.read_text())
    entries[SPOILT]["pitch"] = 0
    table.write_text(json.dumps(entries))
    assert check(corpus, cents=50.0) == {}


def test_a_file_without_entry_and_a_shared_instrument_are_faults(corpus):
    shutil.copy(corpus / "train/audio" / f"{SPOILT}.wav", corpus / "train/audio/reed_acoustic_001-065-100.wav")
    assert "is not in examples.json" in check(corpus, cents=None)["train", "audio/reed_acoustic_001-065-100.wav"]
    shutil.rmtree(corpus / "valid")
    shutil.copytree(corpus / "train", corpus / "valid")
    assert check(corpus, cents=None)["train and valid", ""].startswith(
        "they share 2 instruments, as organ_acoustic_000"
    )


def test_faults_of_one_name_in_two_splits_are_two(corpus):
    shutil.rmtree(corpus / "valid")
    shutil.copytree(corpus / "train", corpus / "valid")
    for split in ("train", "valid"):
        (corpus / split / "audio" / f"{SPOILT}.wav").unlink()
    assert {key for key in check(corpus, cents=None) if key[1]} == {("train", SPOILT), ("valid", SPOILT)}


def test_a_pitch_too_high_to_be_told_from_its_octave_is_not_judged(corpus):
    for pitch in (108, 112, 115, 120, 127):
        key = notes.Key("reed_acoustic_001", pitch, 100)
        audio.write(corpus / "train/audio" / f"{notes.name(key)}.wav", sine(pitch))
        table = notes.read_examples(corpus / "train")
        notes.write_examples(corpus / "train", [*table.values(), notes.describe(key, note=99, instrument=1)])
    assert check(corpus, cents=50.0) == {}


def test_only_names_of_notes_are_listed_for_training(corpus, monkeypatch, tmp_path):
    audio.write(corpus / "train/audio/a recording of mine.wav", sine(60))
    (corpus / "train/audio" / f"{SPOILT}.wav").unlink()
    (corpus / "test").mkdir()
    (corpus / "test/examples.json").write_text("{")
    monkeypatch.setattr(sys, "argv", ["prepare", "check=true", f"out={corpus}", f"check_list={tmp_path}/f.txt"])
    with pytest.raises(SystemExit):
        main()
    assert (tmp_path / "f.txt").read_text() == f"{SPOILT}\n"


def test_a_broken_table_is_a_fault_and_no_corpus_an_error(corpus):
    (corpus / "valid/examples.json").write_text("{")
    assert "examples.json is broken" in check(corpus, cents=None)["valid", ""]
    with pytest.raises(FileNotFoundError, match="is not there: expected a corpus"):
        check(corpus / "none", cents=None)


def test_the_command_lists_faults_for_training_to_leave_out(corpus, monkeypatch, capsys, tmp_path):
    audio.write(corpus / "train/audio" / f"{SPOILT}.wav", torch.zeros(6400))
    listed = tmp_path / "faults.txt"
    arguments = ["check=true", f"out={corpus}", f"check_list={listed}"]
    monkeypatch.setattr(sys, "argv", ["prepare", *arguments])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 1
    assert f"1 faults in {corpus}:\n  train/{SPOILT}: silent" in capsys.readouterr().err
    assert listed.read_text() == f"{SPOILT}\n"
    kept = notes.load(corpus, "train", exclude=str(listed))
    assert len(kept) == 7
    (corpus / "train/audio" / f"{SPOILT}.wav").unlink()
    audio.write(corpus / "train/audio" / f"{SPOILT}.wav", sine(64))
    main()
    assert "no fault found" in capsys.readouterr().err


def test_the_box_has_no_fault():
    assert check(BOX, cents=None) == {}

"""Notes: names, the layout of a corpus, filters, and crops in an order that can be resumed."""

import itertools
import json
import os
import pickle
import shutil
import subprocess
import sys
import textwrap
from dataclasses import replace
from multiprocessing.reduction import ForkingPickler
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from wavenet_ae import audio, notes
from wavenet_ae.notes.order import _Steps

OFFICIAL = Path(__file__).parent / "data" / "nsynth_format"
KEYS = st.builds(
    notes.Key,
    st.builds(
        "{}_{}_{:03d}".format, st.sampled_from(notes.FAMILIES), st.sampled_from(notes.SOURCES), st.integers(0, 2000)
    ),
    st.integers(0, 127),
    st.integers(0, 127),
    st.integers(0, 120),
)


def write(root, split, waves, *, suffix=".wav", family="string"):
    """A split of one instrument whose notes are `waves`, at pitches from 60 up."""
    entries = []
    for number, wave in enumerate(waves):
        key = notes.Key(f"{family}_acoustic_000", 60 + number, 100)
        entries.append(notes.describe(key, note=number, instrument=0))
        audio.write(root / split / "audio" / f"{notes.name(key)}{suffix}", wave)
    notes.write_examples(root / split, entries)
    return root


def ramp(samples, first=0):
    """A wave whose 16-bit values say where in it they stand."""
    return (torch.arange(samples) + first) / 32768


def positions(wave):
    return (wave * 32768).round().long()


@pytest.fixture
def ramps(tmp_path):
    """Seven notes of 3,000 samples, each with other values."""
    write(tmp_path, "train", [ramp(3000, 4000 * number) for number in range(7)])
    return notes.load(tmp_path, "train")


@given(KEYS)
def test_every_name_survives_a_round_trip(key):
    assert notes.parse(notes.name(key)) == key


def test_a_family_with_an_underscore_is_read_from_the_right():
    assert notes.parse("synth_lead_synthetic_033-021-127") == ("synth_lead_synthetic_033", 21, 127, 0)
    assert (
        notes.describe(notes.parse("synth_lead_synthetic_033-021-127"), note=1, instrument=2)["instrument_family"] == 9
    )


@pytest.mark.parametrize(
    "words", ["viola.wav", "bass_synthetic_033-36-25", "bass_033-036-025", "../bass_synthetic_033-036-025", ""]
)
def test_what_is_no_name_is_refused(words):
    with pytest.raises(ValueError, match="is not a note's name: expected family_source_nnn-ppp-vvv"):
        notes.parse(words)


def test_entries_are_written_as_nsynth_writes_them(tmp_path):
    official = notes.read_examples(OFFICIAL / "nsynth-test")
    ours = [
        notes.describe(notes.parse(name), note=e["note"], instrument=e["instrument"], qualities=e["qualities_str"])
        for name, e in official.items()
    ]
    assert [list(entry.items()) for entry in ours] == [list(entry.items()) for entry in official.values()]
    notes.write_examples(tmp_path, ours)
    assert json.loads((tmp_path / "examples.json").read_text()) == official


def test_nsynth_itself_is_read():
    found = notes.load(OFFICIAL, "test")
    assert [note.name for note in found] == sorted(json.loads((OFFICIAL / "nsynth-test/examples.json").read_text()))
    keyboard = found[2]
    assert (keyboard.pitch, keyboard.velocity, keyboard.family, keyboard.source) == (60, 75, "keyboard", "acoustic")
    assert keyboard.qualities == ("dark", "reverb")
    assert [note.samples for note in found] == [64000] * 3
    assert notes.splits(OFFICIAL) == ["test"]


def test_flac_is_read_as_wav_is(tmp_path):
    wave = torch.rand(2000) - 0.5
    flac, wav = (write(tmp_path / kind, "train", [wave], suffix=f".{kind}") for kind in ("flac", "wav"))
    crops = [next(notes.batches(notes.load(root, "train"), batch=1, crop=700, seed=3)).wave for root in (flac, wav)]
    assert torch.equal(*crops)


def test_loading_opens_no_audio_file(tmp_path):
    write(tmp_path, "train", [ramp(100)] * 3)
    for path in (tmp_path / "train/audio").iterdir():
        path.write_bytes(b"")
    assert len(notes.load(tmp_path, "train")) == 3


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({"families": ["bass", "flute"]}, ["bass", "flute"]),
        ({"sources": ["acoustic"]}, ["flute", "keyboard"]),
        ({"pitches": [60, 84]}, ["flute", "keyboard"]),
        ({"pitches": (61, 83), "velocities": (0, 127)}, None),
        ({"velocities": (75, 127)}, ["flute", "keyboard"]),
        ({"exclude": ["flute_acoustic_002-084-127"]}, ["bass", "keyboard"]),
        ({"exclude": ["bass_synthetic_033", "key*"]}, ["flute"]),
        ({"exclude": ["flute"]}, ["bass", "flute", "keyboard"]),
    ],
)
def test_filters_leave_what_they_say(filters, expected):
    if expected is None:
        with pytest.raises(ValueError, match=r"no note of .* is left: it holds 3 \(.*\), and the filters"):
            notes.load(OFFICIAL, "test", **filters)
    else:
        assert [note.family for note in notes.load(OFFICIAL, "test", **filters)] == expected


def test_names_to_leave_out_can_stand_in_a_file(tmp_path):
    listed = tmp_path / "faults.txt"
    listed.write_text("flute_acoustic_002-084-127\nbass_synthetic_033-036-025\n")
    assert [note.family for note in notes.load(OFFICIAL, "test", exclude=str(listed))] == ["keyboard"]


def test_a_word_that_is_no_file_is_a_name_to_leave_out():
    assert [note.family for note in notes.load(OFFICIAL, "test", exclude="flute_*")] == ["bass", "keyboard"]
    for path in ("faults.txt", "lists/faults", str(OFFICIAL)):
        with pytest.raises(
            ValueError, match=r"exclude=.* cannot be read: .*; expected a text file with a name in each"
        ):
            notes.load(OFFICIAL, "test", exclude=path)


@pytest.mark.parametrize("limits", [[60], 60, "60-72", [60, 72, 84], ["low", "high"], []])
def test_limits_that_are_not_two_numbers_are_refused(limits):
    for what in ("pitches", "velocities"):
        with pytest.raises(ValueError, match=rf"{what} is .*: expected the lowest and the highest; say {what}="):
            notes.load(OFFICIAL, "test", **{what: limits})


def test_a_family_that_another_split_has_is_no_mistake_of_spelling(tmp_path):
    for split, families in (("train", ("brass", "string")), ("valid", ("string",))):
        keys = [notes.Key(f"{family}_acoustic_{split == 'valid':03d}", 60, 100) for family in families]
        for key in keys:
            audio.write(tmp_path / split / "audio" / f"{notes.name(key)}.wav", ramp(100))
        notes.write_examples(tmp_path / split, [notes.describe(key, note=0, instrument=0) for key in keys])
    assert [note.family for note in notes.load(tmp_path, "train", families=["brass"])] == ["brass"]
    assert [note.family for note in notes.load(tmp_path, "valid", families=["brass", "string"])] == ["string"]
    with pytest.raises(
        ValueError, match=r"no note of .*valid is left: it holds 1 \(string; acoustic\), .*; widen them"
    ):
        notes.load(tmp_path, "valid", families=["brass"])
    for split in ("train", "valid"):
        with pytest.raises(ValueError, match="has no bras: found brass, string; choose among these"):
            notes.load(tmp_path, split, families=["bras", "brass"])
    with pytest.raises(ValueError, match=r"'brass' is no list of words: expected one; say \[brass\]"):
        notes.load(tmp_path, "train", families="brass")


def edited(change):
    """A function that spoils the table of a split by a change of its entries."""

    def spoil(split):
        entries = json.loads((split / "examples.json").read_text())
        (split / "examples.json").write_text(json.dumps(change(entries)))

    return spoil


SPOILT = {
    "missing audio": lambda split: sorted((split / "audio").iterdir())[0].unlink(),
    "no table": lambda split: (split / "examples.json").unlink(),
    "broken table": lambda split: (split / "examples.json").write_text('{"a": 1'),
    "a list": edited(lambda entries: []),
    "no pitch": edited(lambda entries: {name: entry | {"pitch": None} for name, entry in entries.items()}),
    "another rate": edited(lambda entries: {name: entry | {"sample_rate": 44100} for name, entry in entries.items()}),
    "no folder": lambda split: shutil.rmtree(split / "audio"),
}


@pytest.mark.parametrize(
    ("how", "message"),
    [
        (
            "missing audio",
            r"1 of 2 notes of .*train have no audio: string_acoustic_000-060-100; expected audio/<note_str>",
        ),
        ("no table", r"train holds no examples.json: expected the table of its notes; restore it, or make"),
        ("broken table", r"examples.json is broken: .*; expected JSON; restore it"),
        ("a list", r"examples.json holds a list: expected entries keyed by note_str"),
        ("no pitch", r"note 'string_acoustic_000-060-100' lacks a valid pitch; restore"),
        (
            "another rate",
            r"note string_acoustic_000-060-100 is at 44100 Hz: expected 16000 Hz; make another .* out=data/another",
        ),
        ("no folder", r"audio cannot be listed: No such file or directory; expected the notes' audio"),
    ],
)
def test_a_spoilt_corpus_says_what_is_wrong(tmp_path, how, message):
    write(tmp_path, "train", [ramp(100)] * 2)
    assert len(notes.load(tmp_path, "train")) == 2
    SPOILT[how](tmp_path / "train")
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        notes.load(tmp_path, "train")


def test_a_corpus_that_is_not_there_says_what_is(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none is not there: expected a corpus.*wavenet_ae.prepare"):
        notes.load(tmp_path / "none", "train")
    with pytest.raises(
        FileNotFoundError, match=r"has no split 'train': found no split at all; expected train/examples.json"
    ):
        notes.load(tmp_path, "train")
    with pytest.raises(FileNotFoundError, match="has no split 'train': found test; choose one of these"):
        notes.load(OFFICIAL, "train")
    with pytest.raises(
        FileNotFoundError, match=r"is itself a split: expected the folder that holds it; give root=.*nsynth_format$"
    ):
        notes.load(OFFICIAL / "nsynth-test", "test")
    with pytest.raises(ValueError, match="has no organ: found bass, flute, keyboard; choose among these"):
        notes.load(OFFICIAL, "test", families=["organ"])


def test_splits_that_share_an_instrument_are_refused(tmp_path):
    write(tmp_path, "train", [ramp(100)])
    write(tmp_path, "valid", [ramp(100)] * 2)
    write(tmp_path, "test", [ramp(100)], family="reed")
    train, valid, test = (notes.load(tmp_path, split) for split in ("train", "valid", "test"))
    notes.check_disjoint(train=train, test=test)
    with pytest.raises(ValueError, match="train and valid share 1 instruments: string_acoustic_000; expected none"):
        notes.check_disjoint(train=train, test=test, valid=valid)


def test_every_note_passes_once_an_epoch_in_an_order_of_its_own(ramps):
    names = [b.names[0] for b in notes.batches(ramps, batch=1, crop=10, seed=0, steps=5 * 7)]
    epochs = [tuple(names[start : start + 7]) for start in range(0, 35, 7)]
    assert all(sorted(epoch) == [note.name for note in ramps] for epoch in epochs)
    assert len(set(epochs)) == 5
    other = [b.names[0] for b in notes.batches(ramps, batch=1, crop=10, seed=1, steps=7)]
    assert tuple(other) != epochs[0]


def test_every_epoch_hears_another_piece_of_a_note(ramps):
    starts = [int(positions(b.wave)[0, 0]) for b in notes.batches(ramps[:1], batch=1, crop=10, seed=0, steps=30)]
    assert len(set(starts)) > 25


def test_an_epoch_may_end_inside_a_batch(ramps):
    names = itertools.chain.from_iterable(b.names for b in notes.batches(ramps, batch=4, crop=10, seed=0, steps=7))
    single = [b.names[0] for b in notes.batches(ramps, batch=1, crop=10, seed=0, steps=28)]
    assert list(names) == single


def test_the_order_never_changes(ramps):
    """A new version that passes notes otherwise would make every run impossible to resume."""
    first = next(notes.batches(ramps, batch=7, crop=10, seed=0))
    assert first.pitch.tolist() == PINNED_PITCHES
    assert positions(first.wave)[:, 0].tolist() == PINNED_STARTS


PINNED_PITCHES = [60, 62, 61, 65, 64, 63, 66]
PINNED_STARTS = [1023, 8407, 5798, 22370, 16628, 12735, 25764]


@settings(max_examples=25, deadline=None)
@given(
    batch=st.integers(1, 9),
    first=st.integers(0, 40),
    seed=st.integers(0, 2**64 - 1),
    by=st.sampled_from(["uniform", "energy"]),
    attacks=st.sampled_from([0.0, 0.4]),
)
def test_starting_at_a_step_gives_what_an_uninterrupted_pass_gives(tmp_path_factory, batch, first, seed, by, attacks):
    root = tmp_path_factory.getbasetemp() / "resume"
    if not root.exists():
        write(root, "train", [ramp(900, 1000 * number) for number in range(5)])
    made = {"batch": batch, "crop": 64, "seed": seed, "crop_by": by, "attacks": attacks}
    found = notes.load(root, "train")
    whole = list(notes.batches(found, steps=first + 3, **made))[first:]
    for resumed, expected in zip(notes.batches(found, first_step=first, **made), whole, strict=False):
        assert resumed.names == expected.names
        assert torch.equal(resumed.wave, expected.wave)
        assert torch.equal(resumed.pitch, expected.pitch)


def test_a_crop_is_a_piece_of_its_note_and_may_touch_both_ends(ramps):
    by_name = {note.name: 4000 * number for number, note in enumerate(ramps)}
    starts = []
    for batch in notes.batches(ramps, batch=7, crop=2998, seed=5, steps=12):
        for name, wave in zip(batch.names, batch.wave, strict=True):
            where = positions(wave) - by_name[name]
            assert torch.equal(where, torch.arange(2998) + where[0])
            starts.append(int(where[0]))
    assert set(starts) == {0, 1, 2}


def test_a_short_note_is_followed_by_silence(tmp_path):
    write(tmp_path, "train", [torch.full((50,), 0.5)])
    (wave,) = next(notes.batches(notes.load(tmp_path, "train"), batch=1, crop=80, seed=0)).wave
    assert torch.equal(wave, torch.cat([torch.full((50,), 0.5), torch.zeros(30)]))


def test_crops_by_energy_begin_where_the_note_sounds(tmp_path):
    write(
        tmp_path,
        "train",
        [torch.cat([torch.zeros(8000), torch.full((500,), 0.5), torch.zeros(8000)]), torch.zeros(9000)],
    )
    found = notes.load(tmp_path, "train")
    crops = {name: [] for name in (found[0].name, found[1].name)}
    for batch in notes.batches(found, batch=2, crop=400, seed=0, steps=40, crop_by="energy"):
        for name, wave in zip(batch.names, batch.wave, strict=True):
            crops[name].append(wave)
    assert all(wave.any() for wave in crops[found[0].name])
    assert len({int(wave.argmax()) for wave in crops[found[0].name]}) > 3  # not always the same crop
    assert not any(wave.any() for wave in crops[found[1].name])
    uniform = [b.wave.any() for b in notes.batches(found[:1], batch=1, crop=400, seed=0, steps=40)]
    assert not all(uniform)


@pytest.mark.parametrize("by", ["uniform", "energy"])
def test_a_share_of_the_crops_begins_with_the_note_and_the_others_are_what_they_were(ramps, by):
    by_name = {note.name: 4000 * number for number, note in enumerate(ramps)}
    given = {"batch": 7, "crop": 1000, "seed": 5, "steps": 60, "crop_by": by}

    def starts(**more):
        found = []
        for batch in notes.batches(ramps, **given, **more):
            found += [
                int(positions(wave)[0]) - by_name[name] for name, wave in zip(batch.names, batch.wave, strict=True)
            ]
        return np.array(found)

    plain, some = starts(), starts(attacks=0.3)
    assert 0.2 < np.mean(some == 0) < 0.4
    assert np.array_equal(some[some > 0], plain[some > 0])
    assert abs(plain[some == 0].mean() - plain.mean()) < 200, "wherever they would have begun"
    assert not starts(attacks=1.0).any()


def test_what_a_reader_is_sent_fits_its_pipe_whatever_the_corpus(ramps):
    """Else each is waited for until it has imported everything, one after another."""
    many = [replace(ramps[0], name=f"{number}") for number in range(20_000)]
    steps = _Steps(many, 4, 64, 0, ("uniform", 0.0), range(4), 0)
    sent = bytes(ForkingPickler.dumps(steps))
    assert len(sent) < 16_384
    assert pickle.loads(sent).notes == many


def test_batches_may_lie_where_a_gpu_reads_them(ramps, monkeypatch):
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor + 1)  # no GPU here: see who is asked
    made = {"batch": 2, "crop": 8, "seed": 0, "steps": 3}
    for pinned, batch in zip(notes.batches(ramps, pinned=True, **made), notes.batches(ramps, **made), strict=True):
        assert torch.equal(pinned.wave, batch.wave + 1)
        assert torch.equal(pinned.pitch, batch.pitch + 1)
        assert pinned.names == batch.names


def test_workers_change_nothing_and_pass_errors_on(ramps):
    made = {"batch": 3, "crop": 100, "seed": 9, "first_step": 2, "steps": 4}
    alone = list(notes.batches(ramps, **made))
    helped = list(notes.batches(ramps, workers=2, **made))
    assert [b.names for b in helped] == [b.names for b in alone]
    assert all(torch.equal(a.wave, b.wave) for a, b in zip(alone, helped, strict=True))
    ramps[0].path.unlink()
    with pytest.raises(FileNotFoundError, match=r"060-100.wav is not there: expected an audio file$"):
        list(notes.batches(ramps, batch=7, crop=100, seed=0, workers=1))


LEFT = """
    import sys, time
    from wavenet_ae import notes
    if __name__ == "__main__":
        made = {"batch": 1, "crop": 10, "seed": 0, "workers": 1}
        found = notes.load(sys.argv[1], "train")
        left = notes.batches(found, **made)
        next(left)
        for note in found:
            note.path.unlink()
        try:
            list(notes.batches(found, **made))
        except FileNotFoundError as error:
            kept = error
        print("the end", flush=True)
"""


def test_a_program_ends_with_batches_half_read_and_errors_kept(corpus, tmp_path):
    shutil.copytree(corpus, tmp_path / "corpus")
    (tmp_path / "left.py").write_text(textwrap.dedent(LEFT))  # a file: its workers are spawned
    command = [sys.executable, str(tmp_path / "left.py"), str(tmp_path / "corpus")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "the end\n"), done.stderr


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"batch": 0}, "no batches of 0 crops of 10 samples"),
        ({"crop": 0}, "no batches of 1 crops of 0 samples"),
        ({"first_step": -1}, "from step -1"),
        ({"attacks": 1.5}, "attacks is 1.5: expected a share, from 0 to 1"),
        ({"crop_by": "loudness"}, "unknown crop_by 'loudness': choose one of uniform, energy"),
    ],
)
def test_impossible_batches_are_refused_at_once(ramps, sizes, message):
    with pytest.raises(ValueError, match=message):
        notes.batches(ramps, **({"batch": 1, "crop": 10, "seed": 0} | sizes))
    with pytest.raises(ValueError, match="of 0 notes"):
        notes.batches([], batch=1, crop=10, seed=0)


def truncated(path):
    path.write_bytes(path.read_bytes()[:1200])


BAD_FILES = {
    "44.1 kHz": (
        lambda p: soundfile.write(p, np.zeros(900), 44100),
        "has 1 channels at 44100 Hz: expected one at 16000",
    ),
    "stereo": (lambda p: soundfile.write(p, np.zeros((900, 2)), 16000), "has 2 channels at 16000 Hz: expected one"),
    "empty file": (lambda p: p.write_bytes(b""), "the file is empty"),
    "no samples": (lambda p: soundfile.write(p, np.zeros(0), 16000), "holds no samples"),
    "NaN": (lambda p: soundfile.write(p, np.full(900, np.nan), 16000, "FLOAT"), "NaN or infinite"),
    "not audio": (lambda p: p.write_text("hello" * 100), "cannot be read as audio"),
    "missing": (lambda p: p.unlink(), "is not there"),
}


@pytest.mark.parametrize("kind", BAD_FILES)
def test_a_bad_file_is_named_when_its_turn_comes(ramps, kind):
    make, message = BAD_FILES[kind]
    make(ramps[3].path)
    with pytest.raises((ValueError, FileNotFoundError), match=f"063-100.wav .*{message}"):
        list(notes.batches(ramps, batch=7, crop=100, seed=0, steps=1))


def test_a_truncated_flac_is_named(tmp_path):
    write(tmp_path, "train", [torch.rand(20000) - 0.5], suffix=".flac")
    found = notes.load(tmp_path, "train")
    found[0].path.write_bytes(found[0].path.read_bytes()[:9000])
    with pytest.raises(ValueError, match=r"060-100.flac"):
        list(notes.batches(found, batch=1, crop=20000, seed=0, steps=1))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_named(ramps):
    ramps[0].path.chmod(0)
    with pytest.raises(ValueError, match=r"060-100.wav .*Permission denied \(check its permissions\)"):
        list(notes.batches(ramps, batch=7, crop=100, seed=0, steps=1))

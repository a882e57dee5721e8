"""Folders of recordings: what names, tables and ears say of them, every format, and where they are cut."""

import math
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given
from hypothesis import strategies as st

from wavenet_ae import audio
from wavenet_ae.notes import labels
from wavenet_ae.prepare import cuts
from wavenet_ae.prepare.folder import Recordings
from wavenet_ae.prepare.pitch import measure
from wavenet_ae.prepare.sources import Fault, LeftOut, Sound, numbers

DEFAULTS = {
    "out": None, "pattern": None, "csv": None, "family": "other", "source": "acoustic", "pitch": "measured",
    "velocity": 100, "cut": "onsets", "length_s": 4.0, "silence_db": -60.0, "pitch_tolerance": None,
}  # fmt: skip


def recordings(folder, **changes):
    return Recordings(**(DEFAULTS | {"input": str(folder)} | changes))


def made(source):
    """Everything a source makes: the sounds by instrument, and the faults."""
    plan = source.plan()
    sounds, faults = {}, dict(plan.failed)
    for item in plan.items:
        events = list(source.make(item))
        sounds[item.instrument] = [event for event in events if isinstance(event, Sound)]
        faults |= {event.what: event.why for event in events if isinstance(event, Fault | LeftOut)}
    return sounds, faults


def tone(pitch, seconds=0.5, rate=16000, partials=3):
    time = np.arange(round(seconds * rate)) / rate
    hz = 440 * 2 ** ((pitch - 69) / 12)
    wave = sum(np.sin(2 * math.pi * hz * k * time) / k for k in range(1, partials + 1) if hz * k < rate / 2)
    return 0.4 * wave


def labels_of(sounds):
    return {(i.name, i.family, i.source, s.pitch, s.velocity) for i, made in sounds.items() for s in made}


@pytest.mark.parametrize(
    ("words", "pitch"),
    [
        ("60", 60),
        ("C4", 60),
        ("c4", 60),
        ("A4", 69),
        ("F#3", 54),
        ("Bb2", 46),
        ("cs5", 73),
        ("C-1", 0),
        ("G9", 127),
        ("007", 7),
    ],
)
def test_pitches_are_numbers_or_names(words, pitch):
    assert labels.pitch_number(words) == pitch


@pytest.mark.parametrize("words", ["", "H4", "C", "128", "C10", "-1", "Cb-1", "sixty"])
def test_what_is_no_pitch_is_refused(words):
    with pytest.raises(ValueError, match=r"is no pitch: expected a MIDI number or a name|expected 0 to 127"):
        labels.pitch_number(words)


@given(st.integers(0, 127))
def test_every_pitch_has_a_name_that_is_read_back(pitch):
    name = ["C", "C#", "D", "Eb", "E", "F", "F#", "G", "Ab", "A", "Bb", "B"][pitch % 12]
    assert labels.pitch_number(f"{name}{pitch // 12 - 1}") == pitch


@pytest.mark.parametrize(
    ("pattern", "path", "expected"),
    [
        ("INSTRUMENT-PITCH-VELOCITY", "a/viola-C4-90.wav", {"instrument": "viola", "pitch": "C4", "velocity": "90"}),
        ("INSTRUMENT_PITCH", "viola da gamba_2_060.flac", {"instrument": "viola da gamba_2", "pitch": "060"}),
        (
            "FAMILY/INSTRUMENT/*_PITCH",
            "x/string/viola 1/take3_F#3.wav",
            {"family": "string", "instrument": "viola 1", "pitch": "F#3"},
        ),
        ("SOURCE.INSTRUMENT.*", "electronic.dx7.what.ever.wav", {"source": "electronic", "instrument": "dx7"}),
        ("PITCH", "a/b/61.wav", {"pitch": "61"}),
    ],
)
def test_patterns_read_paths(pattern, path, expected):
    assert labels.by_pattern(pattern)(Path(path)) == expected


@pytest.mark.parametrize(
    ("pattern", "path"), [("INSTRUMENT-PITCH", "viola.wav"), ("INSTRUMENT/PITCH", "60.wav"), ("PITCH", "x60.wav")]
)
def test_a_path_that_does_not_fit_is_refused(pattern, path):
    with pytest.raises(ValueError, match=r"does not fit the pattern .*: rename the file or change the pattern"):
        labels.by_pattern(pattern)(Path(path))


@pytest.mark.parametrize("pattern", ["instrument-pitch", "PITCH-PITCH", "*"])
def test_a_pattern_without_fields_is_refused(pattern):
    with pytest.raises(ValueError, match=r"expected each at most once of INSTRUMENT, FAMILY, SOURCE, PITCH, VELOCITY"):
        labels.by_pattern(pattern)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("60", [60]),
        (61, [61]),
        ("36-40", [36, 37, 38, 39, 40]),
        ("36-84/24", [36, 60, 84]),
        ([48, 36, 48], [48, 36]),
        ("1 5-6", [1, 5, 6]),
    ],
)
def test_numbers_come_in_many_ways(words, expected):
    assert numbers(words, "pitches") == expected


@pytest.mark.parametrize("words", ["", [], "a", "5-", "120-130", "-3", "60.5"])
def test_impossible_numbers_are_refused(words):
    with pytest.raises(ValueError, match=r"pitches=.* (holds|gives) .*expected"):
        numbers(words, "pitches")


def test_names_say_what_a_file_is(tmp_path):
    for name in ("string/viola/60-90", "string/viola/C4-90", "reed/oboe/72-20"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(tmp_path / f"{name}.wav", tone(60), 16000)
    sounds, faults = made(recordings(tmp_path, pattern="FAMILY/INSTRUMENT/PITCH-VELOCITY"))
    assert labels_of(sounds) == {("viola", "string", "acoustic", 60, 90), ("oboe", "reed", "acoustic", 72, 20)}
    assert sum(map(len, sounds.values())) == 3
    assert faults == {}


def test_a_table_says_what_a_file_is(tmp_path, caplog):
    for name in ("a", "b", "unnamed"):
        soundfile.write(tmp_path / f"{name}.wav", tone(60), 16000)
    (tmp_path / "labels.csv").write_text(
        "file,instrument,pitch,family\na.wav,viola,D4,String\nb.wav,,,\ngone.wav,viola,60,string\n"
    )
    with caplog.at_level("INFO"):
        sounds, faults = made(recordings(tmp_path, csv=str(tmp_path / "labels.csv"), velocity=77))
    assert labels_of(sounds) == {("viola", "string", "acoustic", 62, 77), ("b.wav", "other", "acoustic", 60, 77)}
    assert list(faults) == [str(tmp_path / "gone.wav")]
    assert "1 files that" in caplog.text
    assert "unnamed.wav" in caplog.text


def test_a_table_of_other_columns_is_refused(tmp_path):
    soundfile.write(tmp_path / "a.wav", tone(60), 16000)
    (tmp_path / "labels.csv").write_text("name,note\na.wav,60\n")
    with pytest.raises(ValueError, match=r"has the columns name, note: expected file and any of family, instrument"):
        recordings(tmp_path, csv=str(tmp_path / "labels.csv")).plan()
    with pytest.raises(FileNotFoundError):
        recordings(tmp_path, csv=str(tmp_path / "none.csv")).plan()


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("a.wav,viola,60,more\n", r"labels.csv row 2 has 4 cells: expected 3 \(file, instrument, pitch\); mend it"),
        ("a.wav,viola,60\na.wav\n", r"labels.csv row 3 has 1 cells: expected 3"),
        ("a.wav,viola,60\n\na.wav,oboe,61\n", r"labels.csv row 4 names .*a.wav again: expected each file once"),
    ],
)
def test_a_row_that_does_not_fit_is_refused(tmp_path, rows, message):
    soundfile.write(tmp_path / "a.wav", tone(60), 16000)
    (tmp_path / "labels.csv").write_text("file,instrument,pitch\n" + rows)
    with pytest.raises(ValueError, match=message):
        recordings(tmp_path, csv=str(tmp_path / "labels.csv")).plan()


def test_a_row_of_a_file_that_is_not_taken_is_a_failed_input(tmp_path):
    for name in ("a.wav", "out/b.wav", ".hidden.wav"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        soundfile.write(tmp_path / name, tone(60), 16000)
    (tmp_path / "c.opus").write_bytes(b"x")
    (tmp_path / "labels.csv").write_text("file\na.wav\nout/b.wav\nc.opus\n.hidden.wav\ngone.wav\n")
    _, faults = made(recordings(tmp_path, csv=str(tmp_path / "labels.csv"), out=str(tmp_path / "out")))
    faults = {Path(what).name: why.split(" names it, but it is ")[1] for what, why in faults.items()}
    assert faults.keys() == {"b.wav", "c.opus", ".hidden.wav", "gone.wav"}
    assert faults["b.wav"].startswith("not taken: it lies in out")
    assert faults["c.opus"].startswith("not taken (suffix .opus): expected one of .wav")
    assert faults["gone.wav"] == "not there"


def test_without_names_each_file_is_an_instrument_and_its_pitch_is_heard(tmp_path):
    soundfile.write(tmp_path / "low.wav", tone(40), 16000)
    soundfile.write(tmp_path / "high.wav", tone(90), 16000)
    soundfile.write(tmp_path / "noise.wav", 0.3 * np.random.default_rng(0).standard_normal(16000).clip(-3, 3), 16000)
    sounds, _ = made(recordings(tmp_path))
    assert {name: pitch for name, _, _, pitch, _ in labels_of(sounds)} == {
        "low.wav": 40,
        "high.wav": 90,
        "noise.wav": 0,
    }


FORMATS = {
    "wav44.wav": (44100, 2, "PCM_24"),
    "wav48.WAV": (48000, 1, "FLOAT"),
    "flac.flac": (22050, 1, "PCM_24"),
    "mp3.mp3": (44100, 2, "MPEG_LAYER_III"),
    "ogg.ogg": (32000, 1, "VORBIS"),
    "aiff.aiff": (96000, 2, "PCM_16"),
    "eight.wav": (8000, 1, "PCM_U8"),
}


@pytest.mark.parametrize("name", FORMATS)
def test_any_format_becomes_the_same_sound(tmp_path, name):
    rate, channels, subtype = FORMATS[name]
    wave = tone(69, 1.0, rate)
    soundfile.write(tmp_path / name, np.stack([wave] * channels, axis=1), rate, subtype)
    sounds, faults = made(recordings(tmp_path))
    assert faults == {}
    ((sound,),) = sounds.values()
    assert sound.pitch == 69
    assert abs(len(sound.wave) - 16000) < 200  # mp3 and its padding
    middle = slice(4000, 12000)
    expected = np.fft.rfft(tone(69, 1.0)[middle])
    assert np.abs(np.fft.rfft(sound.wave.numpy()[middle])).argmax() == np.abs(expected).argmax()
    assert float(sound.wave[middle].square().mean()) == pytest.approx(
        float((tone(69, 1.0)[middle] ** 2).mean()), rel=0.03
    )


BAD = {
    "empty.wav": (lambda p: p.write_bytes(b""), "the file is empty"),
    "text.wav": (lambda p: p.write_text("no sound " * 50), "cannot be read as audio"),
    "nothing.wav": (lambda p: soundfile.write(p, np.zeros(0), 16000), "holds no samples"),
    "nan.wav": (lambda p: soundfile.write(p, np.full(8000, np.nan), 16000, "FLOAT"), "NaN or infinite"),
    "silent.wav": (lambda p: soundfile.write(p, np.zeros(8000), 16000), "silent: its level is -240 dB"),
    "short.wav": (lambda p: soundfile.write(p, tone(60, 0.05), 16000), "short: 800 samples"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_named_and_the_good_one_made(tmp_path, name):
    make, message = BAD[name]
    soundfile.write(tmp_path / "good.wav", tone(60), 16000)
    make(tmp_path / name)
    sounds, faults = made(recordings(tmp_path))
    assert [instrument.name for instrument, made in sounds.items() if made] == ["good.wav"]
    ((what, why),) = faults.items()
    assert name in what
    assert message in why


def test_a_truncated_flac_is_named(tmp_path):
    soundfile.write(tmp_path / "cut.flac", np.random.default_rng(0).uniform(-0.5, 0.5, 40000), 16000)
    (tmp_path / "cut.flac").write_bytes((tmp_path / "cut.flac").read_bytes()[:20000])
    _, faults = made(recordings(tmp_path))
    assert "cut.flac" in next(iter(faults.values()))


def test_results_below_the_input_are_no_input(tmp_path):
    soundfile.write(tmp_path / "a.wav", tone(60), 16000)
    (tmp_path / "corpus").mkdir()
    soundfile.write(tmp_path / "corpus" / "b.wav", tone(60), 16000)
    assert [item.instrument.name for item in recordings(tmp_path, out=str(tmp_path / "corpus")).plan().items] == [
        "a.wav"
    ]


def test_a_label_can_be_put_to_the_test(tmp_path):
    soundfile.write(tmp_path / "a-60.wav", tone(60), 16000)
    soundfile.write(tmp_path / "a-61.wav", tone(62), 16000)
    sounds, faults = made(recordings(tmp_path, pattern="INSTRUMENT-PITCH", pitch_tolerance=50.0))
    assert [sound.pitch for (group) in sounds.values() for sound in group] == [60]
    assert "it sounds at pitch 62.0" in faults["a-61.wav from 0.00 s"]
    believed, _ = made(recordings(tmp_path, pattern="INSTRUMENT-PITCH"))
    assert [sound.pitch for (group) in believed.values() for sound in group] == [60, 61]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cut": "beats"}, "unknown cut 'beats': choose one of none, fixed, onsets"),
        ({"length_s": 0.01}, r"notes of 0.01 s are too short"),
        ({"pattern": "PITCH", "csv": "x.csv"}, "both source.pattern and source.csv are given"),
        ({"source": "wooden"}, "source 'wooden' is unknown: choose one of acoustic, electronic, synthetic"),
        ({"pitch": "H2"}, "'H2' is no pitch"),
        ({"velocity": 200}, "velocity is 200 in MIDI: expected 0 to 127"),
        ({"input": None}, r"nothing given for source.input: add source.input=recordings"),
    ],
)
def test_impossible_settings_are_refused(tmp_path, changes, message):
    soundfile.write(tmp_path / "a.wav", tone(60), 16000)
    with pytest.raises(ValueError, match=message):
        recordings(tmp_path, **changes)


def test_a_long_file_is_cut_where_notes_begin():
    rng = np.random.default_rng(0)
    starts, parts, position = [], [np.zeros(3000)], 3000
    for pitch in rng.permutation(np.arange(48, 84, 3)):
        length = int(rng.integers(8000, 30000))
        time = np.arange(length) / 16000
        parts.append(tone(pitch, length / 16000)[:length] * np.exp(-2.0 * time) * np.minimum(time / 0.005, 1))
        starts.append(position)
        position += length
    found = cuts.onsets(torch.from_numpy(np.concatenate(parts)).float())
    assert len(found) == len(starts)
    assert np.abs(np.array(found) - starts).max() < 320  # 20 ms


def test_onsets_do_not_depend_on_the_block_they_fall_in(monkeypatch):
    wave = torch.from_numpy(np.concatenate([tone(pitch, 1.0) for pitch in (60, 67, 55, 72)])).float()
    whole = cuts.onsets(wave)
    assert len(whole) == 4
    for block in (50, 100, 101):  # a note begins at frame 100
        monkeypatch.setattr(cuts, "_BLOCK", block)
        assert cuts.onsets(wave) == whole


def test_silence_has_no_onset_but_a_beginning():
    assert cuts.onsets(torch.zeros(20000)) == [0]


def test_pieces_cover_what_they_should():
    wave = torch.from_numpy(tone(60, 2.5)).float()
    assert cuts.pieces(wave, cut="none", length=16000) == [(0, 40000)]
    assert cuts.pieces(wave, cut="fixed", length=16000) == [(0, 16000), (16000, 32000), (32000, 40000)]
    assert cuts.pieces(wave, cut="onsets", length=16000) == [(0, 16000)]  # one note, longer than it may be
    assert cuts.pieces(wave, cut="fixed", length=40000) == [(0, 40000)]


@pytest.mark.parametrize("pitch", [28, 36, 52, 60, 71, 84, 96, 108])
def test_a_steady_tone_is_measured_to_five_cents(pitch):
    for partials in (1, 8):
        wave = torch.from_numpy(tone(pitch, 1.0, partials=partials)).float()
        assert measure(wave) == pytest.approx(pitch, abs=0.05)


def test_silence_and_hum_before_a_note_are_passed_over():
    """1.6 s of either, then the tone; the hum is 54 dB below it."""
    note, hum = tone(60, 1.0), 10 ** (-54 / 20) * tone(31, 1.6)
    for before in (np.zeros(25600), hum):
        assert measure(torch.from_numpy(np.concatenate([before, note])).float()) == pytest.approx(60, abs=0.05)


def test_a_hot_recording_is_scaled_with_all_of_its_instrument(tmp_path, caplog):
    """+6 dB in floating point: not clipped, and its soft notes keep their distance from it."""
    loud = 2 * tone(60) / np.abs(tone(60)).max()
    soundfile.write(tmp_path / "viola-60.wav", loud, 16000, "FLOAT")
    soundfile.write(tmp_path / "viola-61.wav", loud / 4, 16000, "FLOAT")
    soundfile.write(tmp_path / "oboe-60.wav", loud / 4, 16000, "FLOAT")
    sounds, faults = made(recordings(tmp_path, pattern="INSTRUMENT-PITCH"))
    assert faults == {}
    peaks = {instrument.name: [float(s.wave.abs().max()) for s in group] for instrument, group in sounds.items()}
    assert peaks["viola"] == pytest.approx([1, 0.25], abs=1e-4)
    assert peaks["oboe"] == pytest.approx([0.5], abs=1e-4)
    assert "viola (other, acoustic) peaks at 2.00 of full scale: all its notes are made 6.0 dB softer" in caplog.text


def test_what_a_cut_at_onsets_leaves_out_is_said(tmp_path, caplog):
    for name in "ab":
        soundfile.write(tmp_path / f"{name}.wav", tone(60, 10.0), 16000)
    sounds, left = made(recordings(tmp_path))
    assert [len(s.wave) for group in sounds.values() for s in group] == [64000] * 2
    assert left.keys() == {"a.wav from 4.00 s", "b.wav from 4.00 s"}
    assert caplog.text.count("6.0 s of a sound longer than source.length_s are cut off; source.cut=fixed keeps") == 1


def test_a_missing_fundamental_counts_and_noise_does_not():
    time = np.arange(16000) / 16000
    upper = sum(np.sin(2 * math.pi * 220 * k * time) for k in (2, 3, 4)) / 4
    assert measure(torch.from_numpy(upper).float()) == pytest.approx(57, abs=0.05)
    assert measure(torch.from_numpy(np.random.default_rng(0).uniform(-1, 1, 16000)).float()) is None
    assert measure(torch.zeros(16000)) is None
    assert measure(torch.ones(100)) is None


def test_a_resampled_recording_is_said_once(tmp_path, caplog):
    for name in "abc":
        soundfile.write(tmp_path / f"{name}.wav", np.stack([tone(60, 0.5, 37800)] * 2, axis=1), 37800)
    with caplog.at_level("WARNING"):
        made(recordings(tmp_path))
    assert caplog.text.count("37800 Hz resampled to 16000 Hz") == 1
    assert audio.SAMPLE_RATE == 16000

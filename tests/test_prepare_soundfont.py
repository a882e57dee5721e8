"""SoundFonts: rendered in tune, the same every time, and what does not pass the gates left out."""

import hashlib
import struct
from pathlib import Path

import numpy as np
import pytest

from wavenet_ae import audio, notes
from wavenet_ae.prepare import fluidsynth
from wavenet_ae.prepare.build import build
from wavenet_ae.prepare.fluidsynth import Preset, Synth
from wavenet_ae.prepare.pitch import measure
from wavenet_ae.prepare.soundfont import SoundFonts
from wavenet_ae.prepare.sources import LeftOut, Sound

GENERAL_MIDI = Path("/usr/share/sounds/sf2/FluidR3_GM.sf2")


def _absent():
    try:
        fluidsynth.library()
    except RuntimeError as error:
        return str(error)
    return ""


pytestmark = pytest.mark.skipif(bool(_absent()), reason=_absent() or "present")

DEFAULTS = {
    "programs": "all",
    "pitches": [60, 72],
    "velocities": [60, 110],
    "keys": "natural",
    "hold_s": 0.5,
    "release_s": 0.25,
    "peak_db": -3.0,
    "pitch_tolerance": 50.0,
    "silence_db": -60.0,
}


def chunk(name, data):
    return name + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2)


def text(words):
    return words.encode().ljust(20, b"\0")


def soundfont(path, presets):
    """A SoundFont of one looped sine of 440 Hz: presets are (program, root key, attenuation in centibels).

    All of them ask for as much reverb and chorus as there is.
    """
    rate, period = 44000, 100
    sine = np.round(16000 * np.sin(2 * np.pi * np.arange(40 * period) / period)).astype("<i2")
    phdr, pbag, pgen, inst, ibag, igen = (b"" for _ in range(6))
    for index, (program, root, attenuation) in enumerate(presets):
        phdr += struct.pack("<20sHHHIII", text(f"Sine {program}"), program, 0, index, 0, 0, 0)
        pbag += struct.pack("<HH", index, 0)
        pgen += struct.pack("<Hh", 41, index)
        inst += struct.pack("<20sH", text(f"Sine {program}"), index)
        ibag += struct.pack("<HH", 6 * index, 0)
        for generator, value in (
            (15, 1000),
            (16, 1000),
            (48, attenuation),
            (58, root),
            (54, 1),
            (53, 0),
        ):  # the sample comes last
            igen += struct.pack("<Hh", generator, value)
    count = len(presets)
    phdr += struct.pack("<20sHHHIII", text("EOP"), 0, 0, count, 0, 0, 0)
    inst += struct.pack("<20sH", text("EOI"), count)
    shdr = struct.pack("<20sIIIIIBbHH", text("sine"), 0, len(sine), 10 * period, 30 * period, rate, 69, 0, 0, 1)
    shdr += struct.pack("<20sIIIIIBbHH", text("EOS"), 0, 0, 0, 0, 0, 0, 0, 0, 0)
    info = chunk(b"ifil", struct.pack("<HH", 2, 1)) + chunk(b"isng", b"EMU8000\0") + chunk(b"INAM", b"Sines\0")
    data = chunk(b"smpl", sine.tobytes() + b"\0" * 92)
    tables = [
        (b"phdr", phdr), (b"pbag", pbag + struct.pack("<HH", count, 0)), (b"pmod", b"\0" * 10),
        (b"pgen", pgen + b"\0" * 4), (b"inst", inst), (b"ibag", ibag + struct.pack("<HH", 6 * count, 0)),
        (b"imod", b"\0" * 10), (b"igen", igen + b"\0" * 4), (b"shdr", shdr),
    ]  # fmt: skip
    lists = chunk(b"LIST", b"INFO" + info) + chunk(b"LIST", b"sdta" + data)
    lists += chunk(b"LIST", b"pdta" + b"".join(chunk(*table) for table in tables))
    path.write_bytes(chunk(b"RIFF", b"sfbk" + lists))
    return path


PIANO, ORGAN, VIOLIN, FLUTE, WHISPER = (0, 69, 0), (16, 81, 0), (40, 68, 0), (73, 69, 0), (52, 69, 1440)


@pytest.fixture
def font(tmp_path):
    """In tune; an organ an octave low; a violin a semitone high; a flute in tune; a voice nobody hears."""
    return soundfont(tmp_path / "sines.sf2", [PIANO, ORGAN, VIOLIN, FLUTE, WHISPER])


def fonts(path, **changes):
    return SoundFonts(**(DEFAULTS | {"input": str(path)} | changes))


def made(source):
    plan = source.plan()
    return {item.instrument.name: list(source.make(item)) for item in plan.items}, plan.failed


def sounds(events):
    return [event for event in events if isinstance(event, Sound)]


def test_a_soundfont_says_what_it_holds(font):
    with Synth(font) as synth:
        assert synth.presets() == [Preset(0, program, f"Sine {program}") for program in (0, 16, 40, 52, 73)]


def test_keys_sound_at_their_pitch_for_as_long_as_asked(font):
    everything, failed = made(fonts(font, programs="0 73"))
    assert failed == {}
    assert list(everything) == ["sines 0 Sine 0", "sines 73 Sine 73"]
    piano = sounds(everything["sines 0 Sine 0"])
    assert [(s.pitch, s.velocity) for s in piano] == [(60, 60), (60, 110), (72, 60), (72, 110)]
    for sound in piano:
        assert len(sound.wave) == 12000
        assert measure(sound.wave) == pytest.approx(sound.pitch, abs=0.05)
        assert sound.wave[:8000].square().mean() > 1e-3  # held
        assert float(sound.wave[9000:].abs().max()) < 1e-4  # released: no reverb


def test_a_note_cut_while_it_sounds_ends_without_a_click(font):
    for sound in sounds(made(fonts(font, programs=0, release_s=0.0))[0]["sines 0 Sine 0"]):
        assert float(sound.wave[-400:-200].abs().max()) > 0.05
        assert float(sound.wave[-1]) == 0
        assert float(sound.wave.diff().abs().max()) < 1.1 * float(sound.wave[:-200].diff().abs().max())


def test_the_loudest_note_has_the_peak_and_the_soft_stay_soft(font):
    piano = sounds(made(fonts(font, programs=0))[0]["sines 0 Sine 0"])
    peaks = [float(sound.wave.abs().max()) for sound in piano]
    assert max(peaks) == pytest.approx(10 ** (-3 / 20), rel=1e-4)
    assert peaks[0] < 0.5 * peaks[1]


def test_gates_leave_out_what_is_not_as_it_should_be(font):
    everything, _ = made(fonts(font))
    assert len(sounds(everything["sines 0 Sine 0"])) == 4
    assert len(sounds(everything["sines 16 Sine 16"])) == 4  # an octave low, as a 16' stop: it is an organ
    assert all(measure(s.wave) == pytest.approx(s.pitch - 12, abs=0.05) for s in sounds(everything["sines 16 Sine 16"]))
    violin = everything["sines 40 Sine 40"]
    assert [type(event) for event in violin] == [LeftOut] * 4
    assert "it sounds at pitch 61.0" in violin[0].why
    assert len(sounds(made(fonts(font, programs=40, pitch_tolerance=None))[0]["sines 40 Sine 40"])) == 4


def test_silence_and_clipping_are_left_out(font):
    whisper = made(fonts(font, programs=52))[0]["sines 52 Sine 52"]
    assert all(isinstance(event, LeftOut) and event.why.startswith("silent: its level is") for event in whisper)
    clipped = made(fonts(font, programs=0, peak_db=6.0))[0]["sines 0 Sine 0"]
    assert [event.why[:24] for event in clipped if isinstance(event, LeftOut)] == [
        "clipped: its peak is 1.9",
        "clipped: its peak is 2.0",
    ]


def test_keys_an_instrument_does_not_have_are_not_played(font):
    flute = sounds(made(fonts(font, programs=73, pitches="36-96/12"))[0]["sines 73 Sine 73"])
    assert sorted({s.pitch for s in flute}) == [60, 72, 84, 96]
    everything = sounds(made(fonts(font, programs=73, pitches="36-96/12", keys="all"))[0]["sines 73 Sine 73"])
    assert sorted({s.pitch for s in everything}) == [36, 48, 60, 72, 84, 96]


def test_a_corpus_is_the_same_bit_for_bit_every_time(font, tmp_path):
    settings = {"source": {}, "splits": {"train": 1.0}, "seed": 0, "format": "flac", "licence": None}
    for out in ("first", "second"):
        assert build(fonts(font), tmp_path / out, settings=settings, overwrite=False) == {}
    first, second = (
        {p.relative_to(tmp_path / out): hashlib.sha256(p.read_bytes()).digest() for p in (tmp_path / out).rglob("*.*")}
        for out in ("first", "second")
    )
    assert len(first) == 2 + 12  # two tables; piano, organ and flute
    assert first == second
    assert {note.family for note in notes.load(tmp_path / "first", "train")} == {"keyboard", "organ", "flute"}
    one = sounds(made(fonts(font, programs=73))[0]["sines 73 Sine 73"])  # alone it sounds as among others
    kept = [note for note in notes.load(tmp_path / "first", "train") if note.family == "flute"]
    assert len(one) == len(kept) == 4
    for sound, note in zip(one, kept, strict=True):
        assert (sound.wave - audio.read(note.path)).abs().max() <= 0.5 / 32768 + 1e-7


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"programs": [5]}, "it is not in the SoundFont: expected one of 0, 16, 40, 52, 73 in bank 0"),
        ({"programs": [73], "pitches": [36]}, "it plays keys 60 to 96 by nature, none of source.pitches"),
    ],
)
def test_a_program_that_cannot_be_had_is_a_failed_input(font, changes, message):
    plan = fonts(font, **changes).plan()
    assert plan.items == []
    ((_, why),) = plan.failed.items()
    assert message in why


def test_a_drum_kit_has_no_pitch(tmp_path):
    plan = fonts(soundfont(tmp_path / "a.sf2", [PIANO, (117, 69, 0)]), programs=[0, 117]).plan()
    assert [item.instrument.name for item in plan.items] == ["a 0 Sine 0"]
    assert "an effect or a drum without pitch" in plan.failed[f"{tmp_path}/a.sf2 program 117"]


def test_a_font_of_drums_says_why_nothing_can_be_made(tmp_path):
    plan = fonts(soundfont(tmp_path / "drums.sf2", [(117, 69, 0)])).plan()
    assert plan.items == []
    assert "none of its 1 programs in bank 0 (117) has a pitch" in plan.failed[f"{tmp_path}/drums.sf2"]


@pytest.mark.parametrize(
    "content", [b"", b"RIFF\0\0\0\0WAVE", b"not a soundfont, only words", b"RIFF\x10\0\0\0sfbk" + b"\0" * 50]
)
def test_a_file_that_is_no_soundfont_is_named_and_the_others_rendered(font, content):
    (font.parent / "bad.sf2").write_bytes(content)
    plan = fonts(font.parent).plan()
    assert len(plan.items) == 5
    ((what, why),) = plan.failed.items()
    assert what.endswith("bad.sf2")
    assert "expected" in why


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"keys": "white"}, "unknown keys 'white': choose natural"),
        ({"hold_s": 0.0}, r"a key held for 0.0 s and released for 0.25 s: expected hold_s above 0"),
        ({"hold_s": "abc"}, "source.hold_s=abc is no number: expected one"),
        ({"peak_db": "loud"}, "source.peak_db=loud is no number: expected one"),
        ({"velocities": "loud"}, "velocities=loud holds 'loud': expected numbers"),
        ({"input": None}, "nothing given for source.input: add source.input=FONT.sf2"),
    ],
)
def test_impossible_settings_are_refused(font, changes, message):
    with pytest.raises(ValueError, match=message):
        fonts(font, **changes)


def test_a_missing_library_says_how_to_get_it(font, monkeypatch):
    def none(name):
        raise OSError(name)

    fluidsynth.library.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr(fluidsynth.ctypes, "CDLL", none)
        with pytest.raises(
            RuntimeError, match=r"FluidSynth is not on this machine: .*; install it \(Debian: apt install"
        ):
            fonts(font).plan()
    fluidsynth.library.cache_clear()


@pytest.mark.skipif(not GENERAL_MIDI.exists(), reason=f"no {GENERAL_MIDI}: apt install fluid-soundfont-gm")
def test_the_box_is_rendered_again_bit_for_bit():
    """One instrument of data/notes from the SoundFont it came from."""
    box = Path(__file__).parents[1] / "data" / "notes"
    source = fonts(
        GENERAL_MIDI, programs=12, pitches=[36, 43, 48, 60, 67, 72], hold_s=3.0, release_s=1.0, velocities=[60, 110]
    )
    marimba = sounds(made(source)[0]["FluidR3_GM 12 Marimba"])
    kept = [note for note in notes.load(box, "train") if note.instrument == "mallet_acoustic_002"]
    assert len(marimba) == len(kept) == 8
    for sound, note in zip(marimba, kept, strict=True):
        assert (sound.wave - audio.read(note.path)).abs().max() <= 1.5 / 32768  # another FluidSynth rounds otherwise

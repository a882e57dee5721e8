"""export, end to end: folders of notes become instruments that play in tune in samplers that are here."""

import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
import zipfile

import numpy as np
import pytest
import soundfile
import torch
from test_instrument import held

from wavenet_ae import audio
from wavenet_ae.prepare import fluidsynth, pitch


@pytest.fixture
def organ(tmp_path):
    """Notes of two velocities, one key 30 cents sharp, in a folder whose name needs care."""
    folder = tmp_path / "glass harp. été (2)"
    for midi, cents in ((48, 0), (60, 30), (67, 0)):
        for velocity in (60, 110):
            wave = velocity / 127 * held(midi, cents=cents)
            audio.write(folder / f"glass harp. été-{midi:03d}-{velocity:03d}.wav", wave, comment="machine-made; seed 3")
    return folder


def preset(path):
    """The opcodes of each region of an SFZ; a sample's path has no space."""
    regions = path.read_text(encoding="utf-8").split("<region>")[1:]
    return [dict(word.split("=") for word in region.split() if "=" in word) for region in regions]


def test_a_folder_becomes_an_instrument_and_a_zip(command, organ, tmp_path):
    done = command("export", f"input={organ}")
    assert done.status == 0, done.err
    folder = tmp_path / "instruments" / "glass harp. été"
    regions = preset(folder / "glass harp. été.sfz")
    assert len(regions) == 6
    assert {(r["lokey"], r["hikey"], r["pitch_keycenter"]) for r in regions} == {
        ("0", "54", "48"),
        ("55", "63", "60"),
        ("64", "127", "67"),
    }
    assert {(r["lovel"], r["hivel"]) for r in regions} == {("1", "85"), ("86", "127")}
    for region in regions:
        with soundfile.SoundFile(folder / region["sample"]) as file:
            assert file.comment == "machine-made; seed 3", "a machine-made sound stays known as one"
            assert f"Start : {region['loop_start']:>5}  End : {region['loop_end']:>5}" in file.extra_info
    samples = ElementTree.parse(folder / "glass harp. été.dspreset").findall("groups/group/sample")
    assert [(s.get("path"), s.get("loNote"), s.get("hiVel"), s.get("loopEnd")) for s in samples] == [
        (r["sample"], r["lokey"], r["hivel"], r["loop_end"]) for r in regions
    ]
    with zipfile.ZipFile(tmp_path / "instruments" / "glass harp. été.zip") as packed:
        assert packed.testzip() is None
        assert {name.split("/", 1)[1] for name in packed.namelist()} == {
            "glass harp. été.sfz",
            "glass harp. été.dspreset",
            *(region["sample"] for region in regions),
        }


def test_what_is_done_is_skipped_until_a_note_changes(command, organ, tmp_path):
    assert command("export", f"input={organ}").status == 0
    made = tmp_path / "instruments" / "glass harp. été.zip"
    before = made.read_bytes()
    again = command("export", f"input={organ}")
    assert "is newer than its notes: skipped" in again.out
    assert command("export", f"input={organ}", "overwrite=true").status == 0
    assert made.read_bytes() == before, "the same notes give the same bytes"
    audio.write(organ / "glass harp. été-072-110.wav", held(72))
    assert command("export", f"input={organ}").status == 0
    assert made.read_bytes() != before


def test_notes_of_any_name_by_a_pattern_and_struck_ones_are_told(command, tmp_path):
    decay = torch.exp(-3 * torch.arange(32_000) / 16_000)
    soundfile.write(str(tmp_path / "a.b C#4.flac"), np.float32(held(61) * decay), 16_000)
    audio.write(tmp_path / "in" / "a.b C4.wav", held(60))
    shutil.move(tmp_path / "a.b C#4.flac", tmp_path / "in")
    done = command("export", "input=in", "pattern='* PITCH'", "name=piano", "format=sfz", "release=1")
    assert done.status == 0, done.err
    assert "2 notes, 1 of them without a steady part, which end by themselves" in done.out + done.err
    low, high = preset(tmp_path / "instruments" / "piano" / "piano.sfz")
    assert (low["pitch_keycenter"], low["loop_mode"], low["amp_veltrack"]) == ("60", "loop_sustain", "100")
    assert (high["pitch_keycenter"], high["loop_mode"]) == ("61", "no_loop")
    assert not (tmp_path / "instruments" / "piano" / "piano.dspreset").exists()


def test_bad_notes_are_named_and_the_rest_is_made(command, organ, tmp_path):
    (organ / "glass harp. été-072-060.wav").write_text("not a sound")
    audio.write(organ / "glass harp. été-073-060.wav", torch.zeros(16_000))
    audio.write(organ / "noname.wav", held(60))
    audio.write(organ / "x-060-000.wav", held(60))
    audio.write(organ / "x-128-060.wav", held(60))
    audio.write(organ / "again" / "glass harp. été-060-060.wav", held(60))
    done = command("export", f"input={organ}")
    assert done.status == 1
    assert "072-060.wav cannot be read as audio" in done.err
    assert "073-060.wav is silent (peak below 0.001)" in done.err
    assert "'noname' does not fit the pattern" in done.err
    assert "x-060-000.wav has velocity 0" in done.err
    assert "x-128-060.wav: pitch 128 is 128 in MIDI: expected 0 to 127" in done.err
    assert "are both pitch 60, velocity 60: remove one" in done.err
    assert (tmp_path / "instruments" / "glass harp. été.zip").exists()


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("format=sf2", "unknown format sf2: choose of sfz, decentsampler"),
        ("release=-1", "release is -1.0 seconds: expected 0 to 60"),
        ("release=long", "expected two times in seconds"),
        ("controllers=[1]", "expected two times in seconds and two numbers"),
        ("controllers=[1,1]", "expected two different numbers from 0 to 127"),
        ("pattern=INSTRUMENT", "does not say its pitch: give a pattern that holds PITCH"),
        ("pattern=PITCH", "does not fit the pattern"),
        ("input=gone", "gone does not exist"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_written(command, organ, tmp_path, setting, message):
    done = command("export", f"input={organ}", setting)
    assert done.status == 1
    assert message in done.err
    assert not (tmp_path / "instruments").exists()


# --- a morphing instrument


@pytest.fixture
def grid(command, tmp_path):
    """Two columns and two rows; each cell has a partial of its own that tells it apart."""
    for column in range(2):
        for row in range(2):
            for midi in (57, 69):
                wave = held(midi, partials=1) + 0.5 * held(midi + 12 * (1 + column + 2 * row), partials=1)
                audio.write(tmp_path / "cells" / f"{midi}-{column}-{row}.wav", wave)
    done = command("export", "input=cells", "pattern=PITCH-COLUMN-ROW", "name=pad", "controllers=[1,74]")
    assert done.status == 0, done.err
    return tmp_path / "instruments" / "pad" / "pad.sfz"


def test_a_grid_becomes_an_instrument_with_two_controllers(grid, command, tmp_path):
    assert len(preset(grid)) == 8
    text = grid.read_text()
    assert text.count("xfin_locc1=0 xfin_hicc1=127") == text.count("xfout_locc74=0 xfout_hicc74=127") == 2
    assert not grid.with_suffix(".dspreset").exists(), "DecentSampler has no crossfade between cells"
    for path in (tmp_path / "cells").glob("*-1-1.wav"):
        path.unlink()
    done = command("export", "input=cells", "pattern=PITCH-COLUMN-ROW", "name=pad", "out=other")
    assert done.status == 1
    assert "cells [(1, 1)] (column, row) of the grid have no note" in done.err


def test_what_interpolate_writes_is_known_by_its_names(command, tmp_path):
    for row, column in ((0, 0), (0, 1), (1, 0), (1, 1)):
        for key in (48, 60):
            name = f"keys/grid_{row}_{column}/mix_synthetic_{2 * row + column:03d}-{key:03d}-100.wav"
            audio.write(tmp_path / name, held(key))
        audio.write(tmp_path / "one" / f"grid_{row}_{column}.wav", held(60))
    assert command("export", "input=keys").status == 0
    assert len(preset(tmp_path / "instruments" / "keys" / "keys.sfz")) == 8
    groups = (tmp_path / "instruments" / "keys" / "keys.sfz").read_text().split("<group>")
    north_east = next(group for group in groups if "048-100-01-00.wav" in group)
    assert "xfin_locc16=0" in north_east, "column 1 is in the east"
    assert "xfout_locc17=0" in north_east, "and row 0 in the north"
    refused = command("export", "input=one")
    assert "grid_0_0.wav does not say its pitch" in refused.err
    assert command("export", "input=one", "pitch=C4").status == 0
    assert {r["pitch_keycenter"] for r in preset(tmp_path / "instruments" / "one" / "one.sfz")} == {"60"}


def test_a_second_take_is_no_other_note(command, tmp_path):
    for take in ("", "-01"):
        audio.write(tmp_path / "in" / f"organ_acoustic_003-060-100{take}.wav", held(60))
    done = command("export", "input=in")
    assert done.status == 1
    assert "are both pitch 60, velocity 100: remove one" in done.err


# --- in samplers and linters, where they are installed


def test_an_sfz_linter_finds_nothing(command, organ, grid, tmp_path):
    pytest.importorskip("sfzlint", reason="sfzlint is not installed")
    assert command("export", f"input={organ}").status == 0
    linter = [sys.executable, "-c", "from sfzlint.cli import sfzlint; sfzlint()", str(tmp_path / "instruments")]
    done = subprocess.run(linter, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == ""


def played(path, key, velocity=100, seconds=10.0, controllers=None):
    """What sfizz makes of a key held for some seconds, and of the second after, at 48 kHz."""
    synth = pytest.importorskip("pysfizz", reason="pysfizz is not installed").Synth(48_000, 512)
    in_memory = path.with_name("in memory.sfz")  # else the rest of a sample comes from disk, late on a busy machine
    in_memory.write_text("<control> hint_ram_based=1\n" + path.read_text(encoding="utf-8"), encoding="utf-8")
    assert synth.load_sfz_file(in_memory, quiet=False)
    for controller, value in (controllers or {}).items():
        synth._synth.cc(0, controller, value)
    return torch.from_numpy(synth.render_note(key, velocity, seconds, seconds + 1)[0]).float()


def test_a_sampler_plays_it_in_tune_and_for_as_long_as_the_key_is_held(command, organ, tmp_path):
    assert command("export", f"input={organ}", "release=0.2").status == 0
    path = tmp_path / "instruments" / "glass harp. été" / "glass harp. été.sfz"
    for key, expected in ((48, 48.0), (60, 60.3), (62, 62.3), (67, 67.0)):
        wave = played(path, key)
        later = audio.resample(wave[6 * 48_000 : 9 * 48_000], 48_000)
        assert abs(pitch.measure(later) - expected) < 0.05, "within 5 cents of the source"
        heard = wave[48_000 : 10 * 48_000]
        level = heard.unfold(0, 4800, 4800).pow(2).mean(dim=-1).sqrt()
        assert level.min() > 0.8 * level.max(), "it does not stop or throb"
        jerk = heard.diff(n=3).abs()
        once = jerk[:24_000].max()  # half a second, before or between the joints
        assert jerk.max() < 1.3 * once, "nor click"
        assert wave[-4800:].abs().max() < 1e-3, "and ends when it is let go"
    quiet, loud = (played(path, 48, velocity, 1.0)[24_000:40_000].pow(2).mean().sqrt() for velocity in (40, 120))
    assert float(loud / quiet) == pytest.approx(110 / 60, rel=0.03), "the layers' own loudness"


def test_a_sampler_morphs_between_the_cells(grid):
    def strengths(controllers):
        """How loud each cell's own octave is, north-west, north-east, south-west, south-east."""
        wave = played(grid, 57, seconds=2.0, controllers=controllers)[48_000:81_920].double().numpy()
        spectrum = np.abs(np.fft.rfft(wave * np.hanning(len(wave))))
        bins = [round(220 * 2**octave * len(wave) / 48_000) for octave in (1, 2, 3, 4)]
        found = np.array([spectrum[at - 3 : at + 4].max() for at in bins])
        return found / found.max()

    corners = {(0, 0): 0, (127, 0): 1, (0, 127): 2, (127, 127): 3}
    for (x, y), cell in corners.items():
        found = strengths({1: x, 74: y})
        assert found[cell] == 1
        assert np.delete(found, cell).max() < 0.02
    assert strengths({}).min() > 0.8, "the middle, where it stands at first: all four alike"


def test_polyphone_converts_it_and_fluidsynth_plays_that_in_tune(command, organ, tmp_path):
    polyphone = shutil.which("polyphone")
    if not polyphone:
        pytest.skip("polyphone is not installed")
    try:
        fluidsynth.library()
    except RuntimeError as error:
        pytest.skip(str(error))
    assert command("export", f"input={organ}").status == 0
    plain = tmp_path / "plain"
    shutil.copytree(tmp_path / "instruments" / "glass harp. été", plain)
    shutil.move(plain / "glass harp. été.sfz", plain / "plain.sfz")
    subprocess.run(
        [polyphone, "-1", "-i", str(plain / "plain.sfz"), "-d", str(tmp_path), "-o", "plain"],
        env={"QT_QPA_PLATFORM": "offscreen", "HOME": str(tmp_path), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        timeout=60,
        check=True,
    )
    with fluidsynth.Synth(tmp_path / "plain.sf2") as synth:
        synth.choose(synth.presets()[0])
        for key, expected in ((48, 48.0), (62, 62.3)):
            wave = audio.resample(synth.play(key, 100, hold_s=6.0, release_s=1.0), fluidsynth.RATE)
            assert abs(pitch.measure(wave[64_000:]) - expected) < 0.05
            level = wave[16_000:95_000].unfold(0, 1600, 1600).pow(2).mean(dim=-1).sqrt()
            assert level.min() > 0.8 * level.max()

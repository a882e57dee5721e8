"""Loops that nobody hears, WAV files that carry them, and every key with a sample."""

import math
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given
from hypothesis import strategies as st

from wavenet_ae import audio, instrument
from wavenet_ae.instrument import Loop, Place, arrange, cover, sfz, wav
from wavenet_ae.prepare import pitch

BOX = Path(__file__).parents[1] / "data" / "notes" / "test" / "audio"


def held(midi, seconds=2.0, cents=0.0, partials=6, vibrato=0.0, noise=0.0):
    """A note that begins in 50 ms, is held and ends in 0.2 s: 440 Hz, `cents` off, and its partials."""
    torch.manual_seed(0)
    time = torch.arange(round(seconds * audio.SAMPLE_RATE)).double() / audio.SAMPLE_RATE
    hz = 440 * 2 ** ((midi - 69 + cents / 100) / 12)
    phase = 2 * math.pi * hz * (time + vibrato * torch.sin(2 * math.pi * 5 * time) / (2 * math.pi * 5))
    tones = [torch.sin(k * phase + k) / k for k in range(1, partials + 1) if k * hz < 7000]
    envelope = (time / 0.05).clamp(max=1) * ((seconds - time) / 0.2).clamp(max=1)
    return (0.3 * envelope * (sum(tones) + noise * torch.randn(len(time)))).float()


def looped(wave, loop, seconds):
    """What a sampler plays while the key is held."""
    times = 1 + math.ceil((seconds * audio.SAMPLE_RATE - loop.start) / (loop.stop - loop.start))
    return torch.cat([wave[: loop.start], wave[loop.start : loop.stop].repeat(times)])


def joint(wave, loop):
    """The largest second difference within 2 ms of the joint, and the largest within the loop."""
    around = torch.cat([wave[loop.stop - 32 : loop.stop], wave[loop.start : loop.start + 32]])
    return around.diff(n=2).abs().max(), wave[loop.start : loop.stop].diff(n=2).abs().max()


# --- loops


@pytest.mark.parametrize("midi", [24, 45, 60.37, 84, 103])
@pytest.mark.parametrize("character", [{}, {"vibrato": 0.006}, {"noise": 0.1}], ids=["steady", "vibrato", "noisy"])
def test_a_held_note_keeps_its_pitch_for_ever_and_does_not_click(midi, character):
    wave = held(midi, **character)
    loop = instrument.find(wave)
    assert loop is not None
    assert 600 <= loop.start < loop.stop <= 29_300, "between the attack and where it has faded by 1.5 dB"
    smooth = instrument.smooth(wave, loop)
    at_joint, elsewhere = joint(smooth, loop)
    assert at_joint <= 1.05 * elsewhere
    later = looped(smooth, loop, 10)[5 * audio.SAMPLE_RATE :]
    assert abs(pitch.measure(later) - midi) < 0.05
    level = later.unfold(0, 2048, 2048).pow(2).mean(dim=-1).log10() * 10
    assert level.max() - level.min() < 2.0, "nor does it throb"


def test_real_notes_that_are_held_loop_and_struck_ones_do_not():
    for name in ("reed_acoustic_002-060-110", "vocal_acoustic_001-067-110"):
        wave = audio.read(BOX / f"{name}.flac")
        loop = instrument.find(wave)
        smooth = instrument.smooth(wave, loop)
        at_joint, elsewhere = joint(smooth, loop)
        assert at_joint <= elsewhere
        assert abs(pitch.measure(looped(smooth, loop, 6)[-24_000:]) - pitch.measure(wave)) < 0.05
    train = BOX.parents[1] / "train" / "audio"
    for name in ("mallet_acoustic_000-060-110", "guitar_acoustic_001-060-110", "keyboard_acoustic_001-060-110"):
        assert instrument.find(audio.read(train / f"{name}.flac")) is None


def test_an_offset_does_not_hide_the_loop():
    assert instrument.find(held(60) + 0.9)[:2] == instrument.find(held(60))[:2]


def test_what_cannot_be_held_has_no_loop():
    decay = torch.exp(-3 * torch.arange(32_000) / 16_000)
    assert instrument.find(held(60) * decay) is None, "26 dB a second"
    assert instrument.find(torch.zeros(32_000)) is None
    assert instrument.find(held(60)[:2000]) is None, "an eighth of a second"
    assert instrument.find(torch.zeros(1)) is None


def test_leaving_the_loop_and_the_end_are_smooth_too():
    torch.manual_seed(0)
    wave = held(57, noise=0.3)
    loop = Loop(9_000, 20_500, 0.2)  # nowhere near a period
    raw, smooth = wave, instrument.smooth(wave, loop)
    leaving = torch.cat([smooth[loop.stop - 40 : loop.stop], smooth[loop.stop : loop.stop + 40]])
    assert (
        leaving - torch.cat([raw[loop.start - 40 : loop.start], raw[loop.start : loop.start + 40]])
    ).abs().max() < 0.1
    assert torch.equal(smooth[: loop.stop - 512], raw[: loop.stop - 512])
    assert smooth[-1] == 0
    cut_off = instrument.smooth(torch.full((800,), 0.5), None)
    assert cut_off.diff().abs().max() < 0.004
    assert cut_off[600] == 0.5


# --- files


def test_a_wav_knows_its_pitch_and_loop_and_any_reader_takes_it(tmp_path):
    wave = held(61)[:20_001]
    wav.write(tmp_path / "a.wav", wave, pitch=61, loop=Loop(5_000, 9_000, 1.0), comment="machine-made; käse")
    with soundfile.SoundFile(tmp_path / "a.wav") as file:
        assert "Midi Note    : 61" in file.extra_info
        assert "Start :  5000  End :  8999" in file.extra_info
        assert "machine-made" in file.comment
    assert torch.allclose(audio.read(tmp_path / "a.wav"), wave, atol=1 / 32768)
    data = (tmp_path / "a.wav").read_bytes()
    assert struct.unpack("<I", data[4:8])[0] == len(data) - 8, "the RIFF header counts the new chunk"
    chunk = data[data.index(b"smpl") :]
    assert struct.unpack("<I", chunk[4:8])[0] == 36 + 24 == len(chunk) - 8
    assert struct.unpack("<9I", chunk[8:44]) == (0, 0, 62_500, 61, 0, 0, 0, 1, 0)
    assert struct.unpack("<6I", chunk[44:]) == (0, 0, 5_000, 8_999, 0, 0)
    wav.write(tmp_path / "b.wav", wave, pitch=61)
    assert (tmp_path / "b.wav").read_bytes()[-8:-4] == struct.pack("<I", 0), "no loops"


@given(st.sets(st.integers(0, 127), min_size=1))
def test_ranges_are_to_the_nearest_and_leave_no_gap(values):
    ranges = cover(values)
    assert sorted(key for low, high in ranges.values() for key in range(low, high + 1)) == list(range(128))
    for value, (low, high) in ranges.items():
        assert all(abs(value - key) == min(abs(other - key) for other in values) for key in (low, high))


@given(
    st.sets(
        st.builds(Place, st.integers(0, 127), st.integers(1, 127), st.integers(0, 2), st.integers(0, 2)), min_size=1
    )
)
def test_every_key_at_every_velocity_plays_one_sample_of_every_cell(places):
    zones = arrange(places)
    assert {zone.place for zone in zones} == places
    assert len({zone.sample for zone in zones}) == len(places)
    cells = {(place.column, place.row) for place in places}
    for key, velocity in ((0, 1), (60, 64), (127, 127)):
        playing = [
            (zone.place.column, zone.place.row)
            for zone in zones
            if zone.keys[0] <= key <= zone.keys[1] and zone.velocities[0] <= velocity <= zone.velocities[1]
        ]
        assert sorted(playing) == sorted(cells)


def test_a_morphing_preset_is_heard_evenly_wherever_its_controllers_stand():
    zones = arrange([Place(60, 100, column, row) for column in range(3) for row in range(2)])
    preset = sfz.text(zones, title="three by two", attack_s=0.0, release_s=0.1, controllers=(1, 74))
    groups = preset.split("<group>")[1:]
    assert len(groups) == 6

    def gain(group, position):
        opcodes = dict(word.split("=") for word in group.split() if "=" in word)
        power = 1.0
        for cc in (1, 74):
            for way in ("in", "out"):
                if f"xf{way}_locc{cc}" in opcodes:
                    low, high = (int(opcodes[f"xf{way}_{end}cc{cc}"]) for end in ("lo", "hi"))
                    part = float(np.clip((position[cc] - low) / (high - low), 0, 1))
                    power *= part if way == "in" else 1 - part
        return power

    for x in (0, 20, 64, 100, 127):
        for y in (0, 63, 127):
            assert sum(gain(group, {1: x, 74: y}) for group in groups) == pytest.approx(1), "power: xf_cccurve=power"
    assert [gain(group, {1: 64, 74: 127}) for group in groups] == [0, 0, 0, 0, 1, 0], "the middle of the south"
    assert "set_cc1=64" in preset
    with pytest.raises(ValueError, match="expected two different numbers"):
        sfz.text(zones, title="", attack_s=0.0, release_s=0.1, controllers=(1, 1))

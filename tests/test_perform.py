"""perform, end to end: MIDI files as they are written by others, and what is heard of them."""

import math
import re
from pathlib import Path

import mido
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_commands import save_model

from wavenet_ae import audio, checkpoint, embeddings, score
from wavenet_ae.performance import Band, Style
from wavenet_ae.prepare import pitch
from wavenet_ae.score import Played

HOP = 512


def on(note, time=0, velocity=100, channel=0):
    return mido.Message("note_on", note=note, velocity=velocity, time=time, channel=channel)


def off(note, time=0, channel=0):
    return mido.Message("note_off", note=note, time=time, channel=channel)


def pedal(value, time=0):
    return mido.Message("control_change", control=64, value=value, time=time)


def tempo(microseconds, time=0):
    return mido.MetaMessage("set_tempo", tempo=microseconds, time=time)


def midi(path, *tracks, ticks=480, kind=None):
    """A MIDI file of these tracks; 500,000 microseconds a beat unless it says otherwise: a tick is 16.67 samples."""
    file = mido.MidiFile(type=kind if kind is not None else int(len(tracks) > 1), ticks_per_beat=ticks)
    file.tracks.extend(mido.MidiTrack(track) for track in tracks)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    file.save(path)
    return path


# --- the score


def test_times_are_exact_through_tempo_changes_in_another_track(tmp_path):
    path = midi(
        tmp_path / "a.mid",
        [tempo(600_000), tempo(300_001, time=480), tempo(1_000_000, time=1)],
        [on(60), off(60, time=480), on(62), off(62, time=2)],
    )
    second = 0.6 * 16_000
    third = second + (300_001 + 1_000_000) / 480 * 16_000 / 1e6
    assert score.read(path) == [Played(0, 9600, 60, 100), Played(9600, round(third) - 9600, 62, 100)]


def test_an_hour_drifts_by_no_sample(tmp_path):
    beats = (
        [on(60)] + [message for _ in range(7199) for message in (off(60, time=479), on(60, time=1))] + [off(60, 480)]
    )
    notes = score.read(midi(tmp_path / "long.mid", [tempo(500_001), *beats]))
    assert len(notes) == 7200
    assert [note.start for note in notes] == [round(n * 500_001 * 16_000 / 1e6) for n in range(7200)]


def test_the_pedal_holds_and_a_key_struck_again_ends_its_own_note(tmp_path):
    beat = 8000
    held = [pedal(127), on(60), off(60, time=480), on(64), pedal(0, time=480), off(64, time=480)]
    assert score.read(midi(tmp_path / "held.mid", held)) == [
        Played(0, 2 * beat, 60, 100),
        Played(beat, 2 * beat, 64, 100),
    ]
    again = [on(60), on(60, time=480, velocity=50), off(60, time=480), off(60, time=480)]
    assert score.read(midi(tmp_path / "again.mid", again)) == [Played(0, beat, 60, 100), Played(beat, 2 * beat, 60, 50)]
    released = [on(60), on(60, time=480, velocity=0), on(60), mido.Message("control_change", control=123, time=240)]
    assert score.read(midi(tmp_path / "off.mid", released)) == [
        Played(0, beat, 60, 100),
        Played(beat, beat // 2, 60, 100),
    ]
    forgotten = [on(60), on(62, time=480), off(62, time=480)]
    assert score.read(midi(tmp_path / "open.mid", forgotten))[0] == Played(0, 2 * beat, 60, 100)


def test_channels_keep_to_themselves_and_drums_are_left_out(tmp_path):
    track = [on(60), on(60, channel=1), on(36, channel=9), off(60, time=480), off(60, time=480, channel=1)]
    assert score.read(midi(tmp_path / "a.mid", track)) == [Played(0, 8000, 60, 100), Played(0, 16_000, 60, 100)]


def test_smpte_time_and_songs_of_type_2(tmp_path):
    path = midi(tmp_path / "smpte.mid", [tempo(1), on(60), off(60, time=1000)])
    data = bytearray(path.read_bytes())
    data[12:14] = bytes([256 - 25, 40])  # 25 frames a second of 40 ticks: milliseconds, whatever the tempo
    path.write_bytes(data)
    assert score.read(path) == [Played(0, 16_000, 60, 100)]
    two = midi(tmp_path / "two.mid", [on(60), off(60, time=480)], [on(62), off(62, time=480)], kind=2)
    assert score.read(two) == [Played(0, 8000, 60, 100), Played(8000, 8000, 62, 100)]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cannot be read as MIDI (it ends too early)"),
        (b"RIFF....WAVEfmt ", "Probably not a MIDI file"),
        (b"MThd\0\0\0\6\0\1\0\1\1\xe0MTrk\0\0\0\x20\0\x90", "it ends too early"),
        (
            b"MThd\0\0\0\6\0\0\0\1\0\1MTrk\0\0\0\x0f\0\x90\x24\x40\x90\x80\x80\0\x80\x24\0\0\xff\x2f\0",
            "hours: expected 12",
        ),
        (b"MThd\0\0\0\6\0\0\0\1\0\0MTrk\0\0\0\4\0\xff\x2f\0", "its header gives 0 ticks a beat"),
        (b"MThd\0\0\0\6\0\0\0\1\1\xe0MTrk\0\0\0\4\0\xff\x2f\0", "holds no notes (1 tracks, 0 messages)"),
        (b"MThd\0\0\0\6\0\0\0\1\1\xe0MTrk\0\0\0\x08\0\x99\x24\x40\0\xff\x2f\0", "holds no notes but for drums"),
    ],
)
def test_what_is_no_music_is_said(tmp_path, content, message):
    (tmp_path / "a.mid").write_bytes(content)
    with pytest.raises(ValueError, match=re.escape(message)):
        score.read(tmp_path / "a.mid")
    with pytest.raises(FileNotFoundError, match="is not there: expected a MIDI file"):
        score.read(tmp_path / "gone.mid")


@given(st.data())
@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_damaged_file_is_played_or_refused_but_breaks_nothing(tmp_path, data):
    song = [tempo(400_000), on(60), pedal(127), off(60, time=200), on(62, time=40), off(62, time=500), pedal(0)]
    damaged = bytearray(
        midi(tmp_path / "good.mid", song, [on(50, channel=3), off(50, time=99, channel=3)]).read_bytes()
    )
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    (tmp_path / "damaged.mid").write_bytes(damaged[: data.draw(st.integers(0, len(damaged)))])
    try:
        notes = score.read(tmp_path / "damaged.mid")
    except ValueError:
        return
    assert all(note.start >= 0 and note.samples > 0 and 0 < note.velocity < 128 for note in notes)
    assert notes == sorted(notes)


def test_a_mix_adds_at_the_sample():
    parts = [(2, 0.5, torch.ones(3)), (4, 1.0, torch.full((9,), 2.0)), (7, 1.0, torch.ones(1))]
    assert score.mix(parts, 6).tolist() == [0, 0, 0.5, 0.5, 2.5, 2]


# --- the performance


@pytest.fixture
def here(command, tmp_path):
    """A folder with a model and a note to play on, at pitch 60."""
    save_model(tmp_path / "model.safetensors")
    torch.manual_seed(0)
    audio.write("reed_acoustic_000-060-100.wav", 0.2 * torch.randn(8000))
    return tmp_path


def perform(command, song, *given, inputs="reed_acoustic_000-060-100.wav", out="performed"):
    """The music, and what was said."""
    done = command(
        "perform",
        *("checkpoint=model.safetensors", f"midi={song}", f"inputs={inputs}", f"out={out}", "subtype=FLOAT"),
        *given,
    )
    assert done.status == 0, done.err
    return audio.read(Path(out) / Path(song).with_suffix(".wav").name), done.out


def generated(folder="performed"):
    return {path.name: path.stat().st_mtime_ns for path in (Path(folder) / "notes").iterdir()}


def test_notes_begin_and_end_at_their_samples_and_the_same_note_is_made_once(here, command):
    midi("song.mid", [on(60, time=7), off(60, time=480), on(60, time=480), off(60, time=480)])
    music, said = perform(command, "song.mid", "release=0.1")
    start, again = round(7 * 8000 / 480), round(967 * 8000 / 480)
    assert "2 notes: 1 different ones, 1 of them to be generated" in said
    assert len(generated()) == 1
    assert len(music) == again + 8000 + 1600
    assert not music[:start].any()
    assert music[start : start + 8].any()
    assert not music[start + 9600 : again].any(), "silence between, after the release"
    assert music[start + 8000 : start + 8800].any(), "which is no cut"
    assert torch.equal(music[start : start + 9600], music[again : again + 9600])


def test_a_chord_is_the_sum_of_its_notes_and_velocity_is_loudness(here, command):
    midi("high.mid", [on(60, velocity=20), off(60, time=960)])
    midi("low.mid", [on(55, time=240, velocity=10), off(55, time=480)])
    midi("both.mid", [on(60, velocity=20), on(55, time=240, velocity=10), off(55, time=480), off(60, time=240)])
    high, low, both = (perform(command, f"{name}.mid")[0] for name in ("high", "low", "both"))
    assert len(generated()) == 2, "one folder of notes for all three"
    together = high.clone()
    together[: len(low)] += low
    assert torch.allclose(both, together, atol=1e-6)
    midi("loud.mid", [on(55, time=240, velocity=20), off(55, time=480)])
    loud, _ = perform(command, "loud.mid")
    assert torch.allclose(loud, 4 * low, atol=1e-6), "twice the velocity is 12 dB"


def test_other_keys_are_played_in_tune_at_their_length(here, command):
    midi("song.mid", [on(60), off(60, time=960), on(67), off(67, time=960), on(52), off(52, time=960)])
    perform(command, "song.mid")
    for path in Path("performed/notes").iterdir():  # as if the model had made a perfect 60 of each
        time = torch.arange(audio.inspect(path).samples) / audio.SAMPLE_RATE
        audio.write(path, 0.3 * torch.sin(2 * math.pi * 261.6256 * time), subtype="FLOAT")
    music, said = perform(command, "song.mid", "overwrite=true")
    assert "3 different ones, 0 of them to be generated" in said
    for number, expected in enumerate((60, 67, 52)):
        assert abs(pitch.measure(music[number * 16_000 + 3000 : (number + 1) * 16_000]) - expected) < 0.02
    assert music[-4000:-2400].abs().max() > 0.25, "held to the end, whatever the transposition"
    assert 0.1 < music[-1280:-1120].abs().max() < 0.2, "half gone in the middle of the release"
    assert music[-80:].abs().max() < 0.002, "and no click at its end"


def test_the_nearest_note_of_an_instrument_is_played(here, command):
    for key in (48, 60, 72):
        audio.write(f"organ/organ_electronic_001-{key:03d}-100.wav", 0.2 * torch.randn(8000))
    names = {}
    for key in (49, 60, 66, 67):
        midi(f"{key}.mid", [on(key), off(key, time=480)])
        perform(command, f"{key}.mid", inputs="organ", out=f"of_{key}")
        names[key] = next(iter(generated(f"of_{key}")))
    assert names[60] != names[49]
    samples = {key: audio.inspect(f"of_{key}/notes/{name}").samples for key, name in names.items()}
    held = 8000 + round(0.15 * 16_000)
    assert samples == {
        key: -(-round(held * 2 ** (shift / 12)) // HOP) * HOP for key, shift in {49: 1, 60: 0, 66: 6, 67: -5}.items()
    }, "66 is as far from 60 as from 72: the lower"


def test_a_model_that_is_told_the_pitch_plays_every_key_itself(here, command):
    save_model("told.safetensors", pitch_conditioning=True)
    midi("song.mid", [on(60), off(60, time=480), on(65), off(65, time=480)])
    given = ["checkpoint=told.safetensors", "midi=song.mid", "inputs=reed_acoustic_000-060-100.wav"]
    done = command("perform", *given)
    assert done.status == 0, done.err
    lengths = [audio.inspect(path).samples for path in Path("performed/notes").iterdir()]
    assert lengths == [-(-10_400 // HOP) * HOP] * 2, "two notes, and none transposed"


def test_long_notes_are_held_or_end_by_themselves(here, command):
    midi("long.mid", [on(60), off(60, time=1920)])
    perform(command, "long.mid", out="held")
    perform(command, "long.mid", "hold=null", out="ended")
    assert generated("held").keys() != generated("ended").keys()


def test_a_morph_goes_from_sound_to_sound_over_the_piece(here, command):
    model = checkpoint.load("model.safetensors")
    for name, level in (("a", 0.9), ("b", 0.02)):
        torch.manual_seed(1)
        audio.write(f"{name}.wav", level * (2 * torch.rand(8000) - 1))
    midi("song.mid", [message for _ in range(4) for message in (on(60), off(60, time=480))])
    _, said = perform(command, "song.mid", "morph=true", "pitch=60", inputs="[a.wav,b.wav]")
    assert "4 notes: 4 different ones" in said
    _, alone = perform(command, "song.mid", "pitch=60", inputs="a.wav", out="alone")
    assert "4 notes: 1 different ones" in alone
    sounds = [embeddings.of_file(model, "", f"{name}.wav")._replace(pitch=60) for name in "ab"]
    parts = list(Band(model, [[each] for each in sounds], Style((0.4, 0.6), 16)).parts(score.read("song.mid")))
    first, last = parts[0].sound.embedding, parts[-1].sound.embedding
    assert torch.allclose(first[:, 0], sounds[0].values[:, 0])
    before_release = -3
    near_b = last[:, before_release] - sounds[1].values[:, 4:12].mean(dim=-1)
    assert near_b.norm() < 0.5 * (last[:, before_release] - sounds[0].values[:, 4:12].mean(dim=-1)).norm()


def test_a_stopped_performance_goes_on_with_what_it_has(here, command):
    midi("song.mid", [m for key in (60, 62, 64) for m in (on(key), off(key, time=480))])
    music, _ = perform(command, "song.mid")
    notes = sorted(Path("performed/notes").iterdir())
    before = generated()
    notes[0].unlink()
    Path("performed/song.wav").unlink()
    again, said = perform(command, "song.mid")
    assert "3 different ones, 1 of them to be generated" in said
    assert torch.equal(again, music), "the same seed gives the same music"
    assert {n: t for n, t in generated().items() if n != notes[0].name} == {
        n: t for n, t in before.items() if n != notes[0].name
    }
    _, said = perform(command, "song.mid")
    assert "1 of 1 are in performed already: skipped" in said
    other = command(
        "perform", "checkpoint=model.safetensors", "midi=song.mid", "inputs=reed_acoustic_000-060-100.wav", "seed=1"
    )
    assert other.status == 1
    assert "is there already, made with" in other.err


def test_several_pieces_a_bad_one_among_them(here, command):
    midi("songs/a b.mid", [on(60), off(60, time=48)])
    midi("songs/größe.MID", [on(62), off(62, time=48)])
    Path("songs/broken.mid").write_bytes(b"MThd")
    done = command("perform", "checkpoint=model.safetensors", "midi=songs", "inputs=reed_acoustic_000-060-100.wav")
    assert done.status == 1
    assert "1 of 3 inputs failed" in done.err
    assert "broken.mid cannot be read as MIDI" in done.err
    assert {path.name for path in Path("performed").glob("*.wav")} == {"a b.wav", "größe.wav"}


def test_too_loud_a_chord_is_made_softer_and_said(here, command):
    midi("loud.mid", [*(on(60, velocity=127, channel=c) for c in (0, 1, 2, 3, 4)), off(60, time=480)])
    music, said = perform(command, "loud.mid")
    assert "dB softer to fit" in said
    assert float(music.abs().max()) == pytest.approx(1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["inputs=nameless.wav"], "nameless.wav does not say its pitch: add pitch=..."),
        (["inputs=nameless.wav", "pitch=200"], "has pitch 200: expected a MIDI pitch"),
        (["inputs=gone.wav"], "gone.wav does not exist"),
        (["inputs=other.npz"], "was encoded by model feed, this is"),
        (["morph=true"], "one input and morph=true: expected two or more"),
        (["inputs=[reed_acoustic_000-060-100.wav,low-048]", "morph=true"], "no pitch in common"),
        (["hold=[0.6,0.4]"], "hold is [0.6, 0.4]: expected where the part held begins and ends"),
        (["hold=long"], "expected hold=[0.4,0.6] or null"),
        (["release=0"], "release is 0.0 seconds: expected 0.005 to 60"),
        (["midi=gone.mid"], "gone.mid does not exist"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_made(here, command, settings, message):
    midi("song.mid", [on(60), off(60, time=480)])
    audio.write("nameless.wav", 0.1 * torch.ones(800))
    audio.write("low-048/reed_acoustic_000-048-100.wav", 0.1 * torch.ones(800))
    embeddings.write("other.npz", embeddings.Embedding(torch.zeros(16, 4), "feed", 512, 16_000, 2048, "x", 60))
    given = {"midi": "song.mid", "inputs": "reed_acoustic_000-060-100.wav"} | dict(s.split("=", 1) for s in settings)
    done = command("perform", "checkpoint=model.safetensors", *(f"{key}={value}" for key, value in given.items()))
    assert done.status == 1
    assert message in done.err
    assert not Path("performed").exists()

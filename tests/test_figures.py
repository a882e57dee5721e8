"""Pictures show what is there: nothing for silence, a steady row for a steady tone; and the command that draws."""

import math
from pathlib import Path

import librosa
import matplotlib.image
import numpy as np
import pytest
import torch

from wavenet_ae import audio, embeddings, figures


def sine(hz, seconds=1.0, level=0.5):
    return level * torch.sin(2 * math.pi * hz * torch.arange(round(seconds * audio.SAMPLE_RATE)) / audio.SAMPLE_RATE)


def row_of(hz):
    """The row of a frequency: 40 to the octave from C2 up."""
    return round(40 * math.log2(hz / librosa.note_to_hz("C2")))


def test_silence_is_black():
    picture = figures.rainbowgram(torch.zeros(16_000))
    assert picture.shape == (240, 63, 3)
    assert not picture.any()


@pytest.mark.parametrize("samples", [1, 255, 257, 5000, 16_384, 40_001])
def test_any_length_gives_a_column_every_256_samples_and_colours_from_0_to_1(samples):
    torch.manual_seed(0)
    picture = figures.rainbowgram(torch.rand(samples) - 0.5)
    assert picture.shape == (240, -(-samples // 256), 3)
    assert picture.min() >= 0
    assert picture.max() <= 1
    assert picture.max() > 0.5, "the loudest point is bright"


@pytest.mark.parametrize("hz", [82.4, 440.0, 1567.98])
def test_a_steady_tone_is_one_bright_row_of_an_even_colour(hz):
    picture = figures.rainbowgram(sine(hz))
    middle = picture[:, 16:48]
    brightness = middle.max(axis=-1).mean(axis=1)
    assert abs(int(brightness.argmax()) - row_of(hz)) <= 1
    assert brightness.max() > 0.95
    far = np.abs(np.arange(240) - row_of(hz)) > 20
    assert brightness[far].max() < 0.35, "half an octave away it is dark"
    colour = middle[brightness.argmax()]
    assert colour.std(axis=0).max() < 0.1, "its phase turns evenly, so its hue stays"


def test_loudness_does_not_matter_and_an_onset_shows():
    quiet, loud = figures.rainbowgram(sine(440, level=0.01)), figures.rainbowgram(sine(440))
    np.testing.assert_allclose(quiet, loud, atol=0.02)
    late = figures.rainbowgram(torch.cat([torch.zeros(16_000), sine(440)]))
    brightness = late[row_of(440)].max(axis=-1)
    assert brightness[:50].max() < 0.1
    assert brightness[75:110].min() > 0.9


def test_a_sheet_is_a_picture_of_its_rows_and_columns(tmp_path):
    names = ["original", "reconstruction", "one sample"]
    waves = [sine(440, 2.0), sine(220, 0.5), torch.zeros(1)]
    figures.sheet(
        tmp_path / "new" / "a.png", [list(zip(names, waves, strict=True)), [("one", waves[0])]], title="viola"
    )
    picture = matplotlib.image.imread(tmp_path / "new" / "a.png")
    assert picture.shape[:2] == (round(110 * (2.5 * 2 + 0.9)), round(110 * (3.4 * 3 + 0.8)))
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.png"]


def test_a_sheet_that_cannot_be_written_leaves_the_old_one(tmp_path):
    (tmp_path / "a.png").write_text("old")
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="cannot write"):
        figures.sheet(tmp_path / "file" / "a.png", [[("a", sine(440, 0.1))]])
    with pytest.raises(ValueError, match="nothing to draw"):
        figures.sheet(tmp_path / "a.png", [])
    assert (tmp_path / "a.png").read_text() == "old"


def test_a_curve_is_a_picture_even_of_a_run_that_was_never_validated(tmp_path):
    lines = [{"step": step, "nats": 5.5 / step} for step in range(1, 20)]
    figures.curve(tmp_path / "a.png", [*lines, {"step": 10, "valid_nats": 1.0}])
    figures.curve(tmp_path / "b.png", lines)
    figures.curve(tmp_path / "c.png", [])
    assert matplotlib.image.imread(tmp_path / "a.png").shape[:2] == (396, 770)


def test_harmonics_are_found_at_their_levels():
    time = torch.arange(16_000) / audio.SAMPLE_RATE
    wave = sum(torch.sin(2 * math.pi * 220 * n * time) / n for n in (1, 2, 4)) / 4
    levels = figures._harmonic_levels(wave, [220.0, 440.0, 660.0, 880.0])[:, 10:40].mean(axis=1)
    np.testing.assert_allclose(levels[[1, 3]] - levels[0], [-6, -12], atol=0.7)
    assert levels[2] - levels[0] < -40, "the third is missing"


def test_principal_axes_are_those_of_the_variance():
    line = np.outer(np.arange(5.0), [3.0, 4.0, 0.0]) + 7
    places, shares = figures._principal(line)
    np.testing.assert_allclose(shares, [1, 0], atol=1e-12)
    np.testing.assert_allclose(np.abs(np.diff(places[:, 0])), 5)
    assert figures._principal(np.zeros((3, 1)))[0].shape == (3, 2), "one number, no variance at all"


def test_bars_stand_for_names_and_for_numbers_where_they_lie(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(figures, "_save", lambda figure, path: drawn.append(figure))
    figures.bars(tmp_path / "a.png", {"family": {"bass": 3, "reed": 1}, "pitch": {"40": 2, "52": 5}}, up="notes")
    names, numbers = drawn[0].axes
    assert [label.get_text() for label in names.get_xticklabels()] == ["bass", "reed"]
    assert [bar.get_height() for bar in names.patches] == [3, 1]
    assert [round(bar.get_center()[0]) for bar in numbers.patches] == [40, 52]
    assert names.get_ylabel() == "notes"


def test_a_pitch_above_what_the_sample_rate_holds_has_no_harmonics_to_draw(tmp_path):
    with pytest.raises(ValueError, match="nothing to draw"):
        figures.harmonics(tmp_path / "a.png", [("a", sine(440, 0.1))], hz=9000.0)


def test_pictures_of_a_sound_and_of_embeddings(tmp_path):
    sounds = [("original", sine(220, 0.2)), ("silence", torch.zeros(100))]
    figures.spectrogram(tmp_path / "a.png", sounds)
    figures.harmonics(tmp_path / "b.png", sounds, hz=220.0)
    figures.embedding(tmp_path / "c.png", np.zeros((4, 1)), hop=512)
    figures.scatter(tmp_path / "d.png", np.eye(13), list(range(13)), [f"family {i}" for i in range(13)])
    assert all(matplotlib.image.imread(path).shape[0] > 300 for path in sorted(tmp_path.iterdir()))
    assert len(list(tmp_path.iterdir())) == 4
    for draw in (figures.spectrogram, lambda path, none: figures.harmonics(path, none, hz=220.0)):
        with pytest.raises(ValueError, match="nothing to draw"):
            draw(tmp_path / "e.png", [])
    with pytest.raises(ValueError, match="1 points have no principal axes"):
        figures.scatter(tmp_path / "e.png", np.eye(1), [60], ["bass"])


# --- the command


def write_embedding(path, frames=5):
    values = torch.arange(4.0 * frames).reshape(4, frames) - 6
    embeddings.write(path, embeddings.Embedding(values, "", 64, 16_000, 64 * frames, "a.wav"))


@pytest.mark.parametrize("sound", ["rainbowgram", "spectrogram"])
def test_the_command_draws_sounds_embeddings_and_runs_each_as_what_it_is(command, monkeypatch, sound):
    drawn = []
    for name in ("sheet", "spectrogram", "embedding", "curve"):
        real = getattr(figures, name)
        monkeypatch.setattr(figures, name, lambda *a, real=real, name=name, **k: (drawn.append(name), real(*a, **k)))
    audio.write("in/deeper/tone.wav", sine(440, 0.3))
    audio.write("in/silence.flac", torch.zeros(100))
    write_embedding("in/a.npz")
    np.save("in/magenta.npy", np.ones((1, 3, 16), dtype=np.float32))
    Path("in/readme.txt").write_text("left out")
    Path("runs/small-1.5").mkdir(parents=True)
    Path("runs/small-1.5/metrics.jsonl").write_text('{"step": 1, "nats": 5.5}\n{"step": 2, "valid_nats": 5.4}\n')
    done = command("figures.__main__", "input=[in,runs/small-1.5]", f"sound={sound}")
    assert done.status == 0, done.err
    assert "5 pictures in figures" in done.out
    made = sorted(str(path.relative_to("figures")) for path in Path("figures").rglob("*.*"))
    assert made == ["a.png", "deeper/tone.png", "magenta.png", "silence.png", "small-1.5.png"]
    kind = "sheet" if sound == "rainbowgram" else "spectrogram"
    assert sorted(drawn) == sorted(["curve", "embedding", "embedding", kind, kind])
    assert all(matplotlib.image.imread(f"figures/{name}").shape[0] > 300 for name in made)


def test_several_sounds_are_drawn_together_if_asked_and_only_their_beginning(command, monkeypatch):
    shown = []
    monkeypatch.setattr(figures, "sheet", lambda path, rows, **_: shown.append((path, rows)))
    for name in ("b", "a"):
        audio.write(f"in/{name}.wav", sine(440, 0.3))
    done = command("figures.__main__", "input=[in/b.wav,in/a.wav]", "together=true", "seconds=0.1", "out=pictures")
    assert done.status == 0, done.err
    [(path, [row])] = shown
    assert str(path) == "pictures/b.png"
    assert [(name, wave.numel()) for name, wave in row] == [("b", 1600), ("a", 1600)]


def test_the_course_of_every_kind_of_training_is_drawn_in_its_own_unit(command, monkeypatch):
    labels = []
    monkeypatch.setattr(figures, "curve", lambda path, lines, *, unit, per: labels.append((path.stem, unit, per)))
    for name, key, target in (("w", "nats", "wavenet."), ("b", "error", "spectral."), ("c", "nats", "classifier.")):
        Path(name).mkdir()
        Path(name, "config.yaml").write_text(f"model:\n  _target_: wavenet_ae.models.{target}X\n")
        Path(name, "metrics.jsonl").write_text(f'{{"step": 0, "valid_{key}": 1.5}}\n{{"step": 2, "nat')
    assert command("figures.__main__", "input=[w,b,c]").status == 0
    assert labels == [
        ("w", "nats", "a sample"),
        ("b", "error", "of spectrograms (weighted, squared)"),
        ("c", "nats", "a note"),
    ]


def test_what_cannot_be_drawn_is_said_and_the_rest_is_drawn(command):
    audio.write("in/tone.wav", sine(440, 0.1))
    Path("in/broken.npz").write_text("no zip")
    Path("run").mkdir()
    Path("run/metrics.jsonl").touch()
    done = command("figures.__main__", "input=[in,run]")
    assert done.status == 1
    assert "2 of 3 inputs failed" in done.err
    assert "broken.npz cannot be read as an embedding" in done.err
    assert "run holds no measurements of a training yet: expected nats or error" in done.err
    assert [path.name for path in Path("figures").iterdir()] == ["tone.png"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "nothing given for input"),
        (["input=nowhere.wav"], "nowhere.wav does not exist"),
        (["input=in"], "no input in in: found nothing, expected files ending in"),
        (["input=a.wav", "sound=cepstrum"], "sound is 'cepstrum': expected rainbowgram or spectrogram"),
        (["input=[a.wav,a.flac]"], "a.wav and a.flac would both become figures/a.png"),
        (["input=a.wav", "seconds=0"], "seconds is 0: expected more than 0"),
    ],
)
def test_what_cannot_be_asked_of_figures_is_refused(command, arguments, message):
    Path("in").mkdir()
    for name in ("a.wav", "a.flac"):
        audio.write(name, sine(440, 0.1))
    done = command("figures.__main__", *arguments)
    assert done.status == 1
    assert message in done.err
    assert not Path("figures").exists()


def test_figures_help_names_what_it_draws(command):
    assert "embedding files" in command("figures.__main__", "--help").out

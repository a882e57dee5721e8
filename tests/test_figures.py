"""Rainbowgrams show what is there: nothing for silence, a steady row for a steady tone."""

import math

import librosa
import matplotlib.image
import numpy as np
import pytest
import torch

from wavenet_ae import audio, figures


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

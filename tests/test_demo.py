"""The demo as a newcomer runs it, in little."""

import shutil

import pytest
import soundfile

from wavenet_ae import audio, notes


@pytest.fixture
def two_families(corpus, tmp_path):
    """The corpus of tones with a second family to test on: the demo mixes two."""
    root = tmp_path / "notes"
    shutil.copytree(corpus, root)
    entries = list(notes.read_examples(root / "test").values())
    for note in notes.load(root, "test"):
        key = notes.Key("vocal_synthetic_000", note.pitch, note.velocity)
        entries.append(notes.describe(key, note=len(entries), instrument=1))
        shutil.copy(note.path, note.path.with_name(f"{notes.name(key)}.wav"))
    notes.write_examples(root / "test", entries)
    return root


def test_the_demo_trains_once_and_shows_two_notes_and_their_mix(command, two_families, tmp_path):
    settings = ["out=shown", f"root={two_families}", "minutes=0.03", "seconds=0.2"]
    done = command("demo", *settings)
    assert done.status == 0, done.err
    page = (tmp_path / "shown" / "index.html").read_text(encoding="utf-8")
    sounds = sorted((tmp_path / "shown").glob("*.wav"))
    assert len(sounds) == 5, "two originals, two reconstructions, one mix"
    assert all(path.name in page for path in sounds)
    assert {soundfile.info(path).frames for path in sounds} == {round(0.2 * audio.SAMPLE_RATE)}
    assert all((tmp_path / "shown" / name).stat().st_size > 5000 for name in ("rainbowgrams.png", "training.png"))
    trained = (tmp_path / "shown" / "run" / "metrics.jsonl").read_text()
    again = command("demo", *settings)
    assert again.status == 0, again.err
    assert "was trained by an earlier demo" in again.out
    assert (tmp_path / "shown" / "run" / "metrics.jsonl").read_text() == trained


def test_a_corpus_that_cannot_be_mixed_is_refused_before_training(command, corpus, tmp_path):
    done = command("demo", "out=shown", f"root={corpus}")
    assert done.status == 1
    assert "no two families at one pitch: expected notes that can be mixed" in done.err
    assert not (tmp_path / "shown").exists()


def test_a_training_that_fails_is_not_taken_for_one_that_ended(command, two_families, tmp_path):
    done = command("demo", "out=shown", f"root={two_families}", "minutes=0.01", "crop=1000")
    assert done.status == 1
    assert "wavenet_ae.train ended with status 1" in done.err
    assert not (tmp_path / "shown" / "run" / "trained").exists()

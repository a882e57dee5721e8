"""The demo as a newcomer runs it, in little."""

import shutil
from pathlib import Path

import pytest
import soundfile
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from wavenet_ae import audio, checkpoint, models, notes
from wavenet_ae.command import CONF


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


@pytest.fixture
def tiny_model(tmp_path):
    """A model to demonstrate, small and of no use."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        description = OmegaConf.to_container(compose("train", overrides=["model=tiny"]).model, resolve=True)
    torch.manual_seed(0)
    path, model = tmp_path / "tiny.safetensors", models.build(description)
    checkpoint.save(path, model, checkpoint.Meta(description, audio.SAMPLE_RATE, model.hop, 1, "ema", "none", "none"))
    return path


def test_the_demo_is_heard_then_learns_once_and_shows_what_came_of_it(command, two_families, tiny_model, tmp_path):
    settings = ["out=shown", f"root={two_families}", f"checkpoint={tiny_model}", "minutes=0.05", "seconds=0.2"]
    done = command("demo", *settings)
    assert done.status == 0, done.err
    page = (tmp_path / "shown" / "index.html").read_text(encoding="utf-8")
    sounds = sorted((tmp_path / "shown").glob("*.wav"))
    assert len(sounds) == 6, "two originals, two reconstructions, one mix, and one of them again after learning"
    assert all(path.name in page for path in sounds)
    assert {soundfile.info(path).frames for path in sounds} == {round(0.2 * audio.SAMPLE_RATE)}
    pictures = ("rainbowgrams.png", "training.png", "learnt.png")
    assert all((tmp_path / "shown" / name).stat().st_size > 5000 for name in pictures)
    (learning,) = (tmp_path / "shown").glob("learnt-*")
    (known,) = {path.name.split(".")[0] for path in sounds if "learnt" in path.name}
    learnt_from = {path.stem for path in (learning / "new-instrument").iterdir()}
    assert len(learnt_from) == 2
    assert known not in learnt_from, "the note that is heard again was not learnt"
    assert {name[:10] for name in learnt_from} == {known[:10]}, "but others of its instrument"
    trained = (learning / "run" / "metrics.jsonl").read_text()
    again = command("demo", *settings)
    assert again.status == 0, again.err
    assert "was trained by an earlier demo" in again.out
    assert (learning / "run" / "metrics.jsonl").read_text() == trained
    other = command("demo", *settings, "crop=1024")
    assert other.status == 0, other.err
    assert "was trained by an earlier demo" not in other.out, "it did not learn like this"


def test_a_demo_killed_before_it_kept_anything_is_begun_again(command, two_families, tiny_model, tmp_path):
    settings = ["out=shown", f"root={two_families}", f"checkpoint={tiny_model}", "minutes=0.02", "seconds=0.1"]
    assert command("demo", *settings).status == 0
    (learning,) = (tmp_path / "shown").glob("learnt-*")
    (learning / "run" / "ended").unlink()
    shutil.rmtree(learning / "run" / "states")
    again = command("demo", *settings)
    assert again.status == 0, again.err
    assert (learning / "run" / "ended").exists()


def test_a_demo_without_learning_is_the_first_half_of_it(command, two_families, tiny_model, tmp_path):
    arguments = [f"root={two_families}", f"checkpoint={tiny_model}", "minutes=0", "seconds=0.1"]
    done = command("demo", "out=shown", *arguments)
    assert done.status == 0, done.err
    assert len(list((tmp_path / "shown").glob("*.wav"))) == 5
    assert "learnt" not in (tmp_path / "shown" / "index.html").read_text(encoding="utf-8")
    assert not list((tmp_path / "shown").glob("learnt-*"))


def test_a_corpus_that_cannot_be_mixed_is_refused_before_anything_is_made(command, corpus, tmp_path):
    done = command("demo", "out=shown", f"root={corpus}")
    assert done.status == 1
    assert "no two families at one pitch: expected notes that can be mixed" in done.err
    assert not (tmp_path / "shown").exists()


def test_a_model_that_the_demo_cannot_show_is_refused(command, two_families, tmp_path):
    ear = Path(__file__).parents[1] / "data" / "models" / "classifier.safetensors"
    done = command("demo", "out=shown", f"root={two_families}", f"checkpoint={ear}")
    assert done.status == 1
    assert "holds a Classifier: expected a WaveNetAutoencoder" in done.err
    assert not (tmp_path / "shown").exists()


def test_a_training_that_fails_is_not_taken_for_one_that_ended(command, two_families, tiny_model, tmp_path):
    arguments = [f"root={two_families}", f"checkpoint={tiny_model}", "minutes=0.01", "crop=1000", "seconds=0.1"]
    done = command("demo", "out=shown", *arguments)
    assert done.status == 1
    assert "wavenet_ae.train ended with status 1" in done.err
    assert not list((tmp_path / "shown").rglob("ended"))

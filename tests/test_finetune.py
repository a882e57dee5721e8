"""Training that begins with a trained model: its weights and sizes, a few notes of one's own, and whence both."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from wavenet_ae import audio, checkpoint, mulaw, notes, sampler

BOX = Path(__file__).parents[1] / "data" / "models" / "small.safetensors"
SMOKE = ["experiment=smoke", "listen_every=0", "threads=1"]


@pytest.fixture
def trained(command, corpus):
    """A tiny model that learned a little: its file."""
    done = command("train", *SMOKE, "run=first", f"notes.root={corpus}", "ema_decay=0.5")
    assert done.status == 0, done.err
    return Path("first/model.safetensors").absolute()


def measured(run, key="valid_nats"):
    lines = map(json.loads, Path(run, "metrics.jsonl").read_text().splitlines())
    return [line[key] for line in lines if key in line]


def test_a_run_begins_with_the_weights_it_is_given(command, corpus, trained):
    done = command("train", *SMOKE, "run=second", f"notes.root={corpus}", f"init={trained}", "steps=10")
    assert done.status == 0, done.err
    assert measured("second")[0] == pytest.approx(measured("first")[-1], abs=1e-6)
    assert measured("second")[-1] < measured("second")[0], "and it goes on learning"


def test_the_sizes_are_those_of_the_model_begun_with(command, corpus, trained):
    done = command("train", "run=second", f"notes.root={corpus}", f"init={trained}", "steps=1", "listen_every=0")
    assert done.status == 0, done.err
    begun, made = checkpoint.describe(trained), checkpoint.describe("second/model.safetensors")
    assert made.model == begun.model, "although the default experiment trains another one"
    asked = ["model.decoder.width=24", f"init={trained}", "run=third", f"notes.root={corpus}"]
    done = command("train", *SMOKE, *asked)
    assert done.status == 1
    assert "is a model of other sizes than model.decoder.width=24 asks for: a trained model keeps its sizes" in done.err
    done = command("train", "experiment=baseline_small", f"init={trained}", "run=third", f"notes.root={corpus}")
    assert done.status == 1
    assert "is a model of other sizes than experiment=baseline_small asks for" in done.err
    assert not Path("third").exists()


def test_a_model_says_what_it_learned_from_first_and_then(command, corpus, trained, tmp_path):
    mine = tmp_path / "mine"
    shutil.copytree(corpus, mine)
    (mine / "prepare.json").write_text(json.dumps({"licence": "CC0"}))
    done = command("train", *SMOKE, "run=second", f"notes.root={mine}", f"init={trained}", "steps=2")
    assert done.status == 0, done.err
    meta = checkpoint.describe("second/model.safetensors")
    assert (meta.corpus, meta.licence) == (f"{corpus.name}, then mine", "unknown; then CC0")


def test_a_model_that_reads_no_pitch_may_learn_to_and_one_from_before_that_is_no_other_model(command, corpus, trained):
    model, meta = checkpoint.load(trained), checkpoint.describe(trained)
    assert meta.model.pop("pitch_reading") is False
    checkpoint.save("before.safetensors", model, meta)
    given = [
        *SMOKE,
        f"notes.root={corpus}",
        "init=before.safetensors",
        "steps=1",
        "~schedule.table",
        "+schedule.table={0:1e-9}",
    ]
    assert command("train", *given, "run=same").status == 0, "as `experiment` asks for"
    done = command("train", *given, "run=reads", "model.pitch_reading=true", "pitch_weight=0.1")
    assert done.status == 0, done.err
    same, reads = (checkpoint.load(f"{run}/model.safetensors").state_dict() for run in ("same", "reads"))
    assert reads.keys() - same.keys() == {"reader.weight", "reader.bias"}
    assert all(torch.allclose(reads[name], model.state_dict()[name], atol=1e-6) for name in same)


def test_a_run_goes_on_without_the_file_it_was_begun_with(command, corpus, trained):
    settings = [*SMOKE, f"notes.root={corpus}", f"init={trained}"]
    whole = command("train", *settings, "run=whole", "steps=10")
    assert whole.status == 0, whole.err
    assert command("train", *settings, "run=halves", "steps=5").status == 0
    trained.unlink()
    done = command("train", "resume=halves", "steps=10")
    assert done.status == 0, done.err
    ours, theirs = (checkpoint.load(f"{run}/model.safetensors").state_dict() for run in ("halves", "whole"))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert checkpoint.describe("halves/model.safetensors") == checkpoint.describe("whole/model.safetensors")


@pytest.mark.parametrize(
    ("init", "message"),
    [
        ("nowhere.safetensors", "nowhere.safetensors does not exist: expected a checkpoint (.safetensors)"),
        ("noise.safetensors", "is not a safetensors file: expected a checkpoint of wavenet_ae"),
    ],
)
def test_what_cannot_be_begun_with_is_refused_before_anything_is_made(command, corpus, init, message):
    Path("noise.safetensors").write_bytes(bytes(100))
    done = command("train", *SMOKE, "run=run", f"notes.root={corpus}", f"init={init}")
    assert done.status == 1
    assert message in done.err
    assert not Path("run").exists()


def test_ten_recordings_of_one_instrument_lower_the_loss_on_those_held_out(command, corpus, trained):
    """As the README says it: recordings to a corpus, the corpus to a model."""
    tones = [note.path for note in notes.load(corpus, "test")]
    for number in range(10):
        wave = audio.read(tones[number % len(tones)])
        audio.write(Path("my sounds") / f"flute-{50 + number}.wav", 0.7 * wave.roll(100 * number))
    done = command(
        "prepare.__main__", "corpus=own", "source.input=my sounds", "source.pattern=INSTRUMENT-PITCH", "out=own"
    )
    assert done.status == 0, done.err
    assert notes.splits("own") == ["train"]
    arguments = ["notes.root=own", f"init={trained}", "run=mine", "steps=40", "valid_batches=4", "listen_every=0"]
    rate = "schedule.table={0: 3.0e-4}"  # a tiny model of few steps has more to learn than the one in the box
    done = command("train", "experiment=finetune", rate, *arguments)
    assert done.status == 0, done.err
    assert "8 notes to learn, 2 held out" in done.out
    assert measured("mine")[-1] < measured("mine")[0] - 0.01


@pytest.mark.parametrize("share", ["0", "1", "0.9", "-0.2"])
def test_a_share_that_leaves_nothing_is_refused(command, corpus, share):
    done = command("train", *SMOKE, "run=run", f"notes.root={corpus}", f"valid_share={share}", "notes.pitches=[45,45]")
    assert done.status == 1
    assert f"valid_share={float(share)} of the 2 notes in the train split" in done.err


def test_the_model_in_the_box_is_what_its_card_says():
    """`experiment=finetune` and the demo begin with it."""
    model, meta = checkpoint.load(BOX), checkpoint.describe(BOX)
    assert BOX.stat().st_size < 8e6
    assert sum(parameter.numel() for parameter in model.parameters()) == 1_368_720
    assert (meta.step, meta.weights, meta.corpus) == (8061, "ema", "gm, every key (data/models/README.md)")


def test_silence_comes_back_as_silence_from_the_model_in_the_box():
    """Encoded, and decoded at its own temperature: less than a 16-bit file can hold."""
    model = checkpoint.load(BOX)
    embedding = model.embed(torch.zeros(1, 8192))
    wave = mulaw.decode(sampler.generate(model.decoder, embedding, seed=0))
    assert wave.shape == (1, 8192)
    assert wave.square().mean().sqrt() < 10 ** (-80 / 20)


def test_a_broken_validation_note_is_named_and_not_listened_to(command, corpus, tmp_path):
    root = tmp_path / "notes"
    shutil.copytree(corpus, root)
    for note in notes.load(root, "valid")[:1]:
        note.path.write_bytes(b"no sound")
    broken = notes.load(root, "valid")[0].name
    arguments = ["experiment=smoke", "threads=1", "run=run", f"notes.root={root}", f"listen=[{broken}]", "steps=2"]
    done = command("train", *arguments, "listen_every=2", "validate_every=0", "max_unreadable=10")
    assert done.status == 0, done.err
    assert not list(Path("run").rglob("*.wav"))

"""probe: what it reads off models of every kind, what it writes, the experiment in one line, and bad input."""

import csv
import json
import runpy
import sys
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
from omegaconf import OmegaConf
from test_evaluate import EAR, WAVENET, corpus_of, save

from wavenet_ae import audio, checkpoint, figures, models, probe
from wavenet_ae.command import CONF
from wavenet_ae.metrics import accuracy
from wavenet_ae.notes import Note

BASELINE = OmegaConf.to_container(OmegaConf.load(CONF / "model" / "baseline_tiny.yaml"))


@pytest.fixture
def run(command, tmp_path, corpus):
    """Run probe on the tones with four models at hand: two kinds, told the pitch and not, of three sizes."""
    save("a.safetensors", WAVENET)
    save("told.safetensors", WAVENET | {"pitch_conditioning": True}, seed=1)
    model = models.build(BASELINE)
    meta = checkpoint.Meta(BASELINE, 16_000, model.hop, 5, "raw", "tones", "CC0-1.0")
    checkpoint.save("runs/base/model.safetensors", model, meta)
    small = BASELINE | {"latent": 3, "pitch_conditioning": False}
    checkpoint.save("runs/small-base/model.safetensors", models.build(small), meta._replace(model=small))

    def run(*arguments):
        given = {"notes.root": corpus, "seconds": 0.1, "threads": 1}
        given |= dict(each.split("=", 1) for each in arguments)
        return command("probe", *(f"{key}={value}" for key, value in given.items()))

    return run


def test_models_of_every_kind_and_size_side_by_side(run):
    done = run("checkpoint=[a.safetensors,told.safetensors,runs]", "learn_split=train", "split=train")
    assert done.status == 0, done.err
    for row in (
        r"a WaveNet no 4 4 0",
        "told WaveNet yes 4 4 0",
        "base Spectral yes 13 16 5",
        "small-base Spectral no 4 16 5",
    ):
        lines = [" ".join(line.split()) for line in done.out.splitlines()]
        assert sum(line.startswith(row) for line in lines) == 2, "classes alike, and plainly"
    found = json.loads(Path("probe/probe.json").read_text())
    assert found["notes"] == {"train": {"notes": 6, "instruments": 2}}
    assert found["chance"] == pytest.approx(
        {"pitch_balanced": 1 / 3, "pitch_plain": 1 / 3, "family_balanced": 1 / 2, "family_plain": 1 / 2}
    )
    told = {name: (each["kind"], each["told_pitch"], each["numbers"]) for name, each in found["models"].items()}
    assert told == {
        "a": ("WaveNet", False, 4),
        "told": ("WaveNet", True, 4),
        "base": ("Spectral", True, 13),
        "small-base": ("Spectral", False, 4),
    }
    estimate = found["models"]["base"]["accuracy"]["pitch_mean_plain"]
    assert estimate["value"] == 1, "six notes and thirteen numbers: learnt by heart"
    assert estimate["notes"] == 6
    with open("probe/probe.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["model"] for row in rows] == ["a", "told", "base", "small-base"]
    assert float(rows[2]["pitch_mean_plain_value"]) == 1
    assert {row["told_pitch"] for row in rows} == {"True", "False"}
    assert matplotlib.image.imread("probe/probe.png").shape[0] > 300


def test_of_a_folder_every_autoencoder_is_probed_by_the_shortest_name_that_tells_it_apart(run):
    save("sweep/one/run/model.safetensors", WAVENET)
    save("sweep/two/run/model.safetensors", WAVENET, seed=1)
    save("sweep/other/model.safetensors", WAVENET, seed=2)
    save("sweep/ear/model.safetensors", EAR)
    done = run("checkpoint=sweep", "split=train")
    assert done.status == 0, done.err
    assert set(json.loads(Path("probe/probe.json").read_text())["models"]) == {"one/run", "two/run", "other"}


def test_as_many_notes_are_learnt_from_as_is_said(run, monkeypatch):
    monkeypatch.setattr("wavenet_ae.metrics.entanglement.ROWS", 4)
    done = run("checkpoint=a.safetensors", "split=train")
    assert done.status == 0, done.err
    assert "learnt from 4 notes of train, asked of 6 of train" in done.out


def test_the_same_again_and_in_other_company_says_the_same(run):
    assert run("checkpoint=[a.safetensors,runs/base]", "split=train").status == 0
    first = json.loads(Path("probe/probe.json").read_text())["models"]["a"]
    assert run("checkpoint=a.safetensors", "split=train", "out=other").status == 0
    assert json.loads(Path("other/probe.json").read_text())["models"]["a"] == first


def test_what_no_classifier_learnt_is_left_out_and_said(run, tmp_path, corpus):
    done = run("checkpoint=a.safetensors")  # the test split's family, flute, is not in train
    assert done.status == 0, done.err
    assert "Left out: family: of 3 of 3 notes it is unknown, or was not among those to learn from." in done.out
    measured = json.loads(Path("probe/probe.json").read_text())["models"]["a"]["accuracy"]
    assert {key.split("_")[0] for key in measured} == {"pitch"}
    sounds = {f"whistle_acoustic_000-000-10{n}": audio.read(next(corpus.rglob("*.wav")))[:3000] for n in range(3)}
    corpus_of(tmp_path / "odd", sounds, "train")
    corpus_of(tmp_path / "odd", sounds, "test")
    done = run("checkpoint=a.safetensors", f"notes.root={tmp_path / 'odd'}", "out=odd-probe")
    assert done.status == 1
    assert "nothing can be learnt: pitch: the notes to learn from are of 0 classes, expected two or more" in done.err
    assert not Path("odd-probe").exists()


def test_one_note_alone_has_no_interval(run):
    done = run("checkpoint=a.safetensors", "limit=1")
    assert done.status == 0, done.err
    found = json.loads(Path("probe/probe.json").read_text())["models"]["a"]["accuracy"]["pitch_mean_plain"]
    assert (found["notes"], found["low"]) == (1, None)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["checkpoint=ear.safetensors"], "ear.safetensors holds a Classifier: expected an autoencoder of sounds"),
        (["checkpoint=nowhere.safetensors"], "nowhere.safetensors does not exist"),
        (["checkpoint=empty"], "empty has no autoencoder's model.safetensors: expected runs of train"),
        (["checkpoint=[a.safetensors,a.safetensors]"], "would be called a, a: expected as many different names; give"),
        (["checkpoint=a.safetensors", "names=[x,y]"], "1 checkpoints would be called x, y"),
        (["checkpoint=a.safetensors", "split=holdout"], "has no split 'holdout'"),
        (["checkpoint=a.safetensors", "learn_limit=0"], "0 notes were asked for: expected at least one"),
        (["checkpoint=a.safetensors", "seconds=0"], "seconds is 0: expected more than 0"),
        (["checkpoint=a.safetensors", "learn_limit=1"], "nothing can be learnt"),
        ([], "nothing given for checkpoint"),
    ],
)
def test_bad_input_is_refused_before_any_work(run, arguments, message):
    save("ear.safetensors", EAR)
    Path("empty").mkdir()
    done = run(*arguments)
    assert done.status == 1
    assert message in done.err
    assert not Path("probe").exists()


# --- its parts


def note(pitch, family):
    return Note("x", Path(), pitch, 100, f"{family}_acoustic_000", family, "acoustic")


def test_accuracies_are_those_of_what_can_be_read_and_classes_count_alike():
    rng = np.random.default_rng(0)
    every = [note(40 if i % 4 else 52, "reed" if i % 2 else "bass") for i in range(80)]
    values = [rng.normal(size=(3, 5)) for _ in every]
    for value, each in zip(values, every, strict=True):
        value[1] += 8 * (each.pitch == 52)  # and nothing says the family
    found = probe._accuracies(values[:40], every[:40], values[40:], every[40:])
    assert found["pitch", "mean", "plain"].value == 1
    assert found["pitch", "frames", "balanced"].value > 0.95
    assert 0.2 < found["family", "mean", "plain"].value < 0.8
    flat = [np.zeros((3, 5))] * 40
    blind = probe._accuracies(flat, every[:40], flat, every[40:])
    for counted in ("plain", "balanced"):
        assert blind["pitch", "mean", counted].value == probe._chance("pitch", counted, every[:40], every[40:])
    assert probe._chance("pitch", "plain", every, every) == 0.75
    assert probe._chance("pitch", "balanced", every, every) == 0.5
    assert np.isnan(probe._chance("pitch", "plain", every, [note(99, "reed")]))
    assert found["pitch", "mean", "plain"] == accuracy.plain(np.ones(40))


def test_a_picture_over_sizes_has_every_line_even_of_one_point_without_an_interval(tmp_path):
    lines = {f"line {n}": [figures.Point(16, 0.1 * n, np.nan, np.nan)] for n in range(9)}
    lines["line 9"] = [figures.Point(16, 0.5, 0.4, 0.6), figures.Point(2000, 0.9, 0.8, 1.0)]
    figures.sizes(tmp_path / "a.png", {"pitch": (lines, 0.1), "family": ({}, np.nan)}, across="size", up="share")
    assert matplotlib.image.imread(tmp_path / "a.png").shape[1] > 900


# --- the experiment


def test_the_experiment_from_nothing_in_one_line_and_again_after_a_stop(tmp_path, monkeypatch, corpus):
    monkeypatch.chdir(tmp_path)
    script = Path(__file__).parents[1] / "examples" / "entanglement.py"
    monkeypatch.setattr(sys, "argv", ["entanglement.py"])
    example = runpy.run_path(str(script))
    asked = []

    def train(name, *arguments):
        given = dict(each.split("=", 1) for each in arguments)
        asked.append((name, given))
        if name == "train":
            (Path(given["run"])).mkdir(parents=True)
            (Path(given["run"]) / "model.safetensors").touch()

    main = example["main"]
    monkeypatch.setitem(main.__globals__, "command", train)
    Path("runs-unfinished/states").mkdir(parents=True)
    main("runs", f"notes.root={corpus}", "minutes=1")
    names = {path.name for path in Path("runs").iterdir()}
    assert len(names) == 10
    assert {"baseline_small-1984-told", "small-8-untold"} <= names
    assert asked[0][1]["minutes"] == "1"
    assert asked[-1] == ("probe", {"checkpoint": "runs", "notes.root": str(corpus), "out": "runs/probe"})
    (Path("runs/small-16-told/model.safetensors")).unlink()
    Path("runs/small-16-told").rmdir()
    asked.clear()
    main("runs")
    assert [name for name, _ in asked] == ["train", "probe"]
    assert asked[0][1]["model.encoder.embedding_dims"] == "16"
    assert asked[0][1]["model.pitch_conditioning"] == "true"


@pytest.mark.slow
def test_the_experiment_s_two_commands_fit_together(tmp_path, monkeypatch, corpus):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["entanglement.py"])
    main = runpy.run_path(str(Path(__file__).parents[1] / "examples" / "entanglement.py"))["main"]
    monkeypatch.setitem(main.__globals__, "SIZES", {"smoke": ("model.encoder.embedding_dims", [4])})
    main("runs", f"notes.root={corpus}", "steps=1", "crop=512", "threads=1", "listen_every=0")
    found = json.loads(Path("runs/probe/probe.json").read_text())["models"]
    assert {name: each["told_pitch"] for name, each in found.items()} == {"smoke-4-told": True, "smoke-4-untold": False}

"""evaluate, end to end: models side by side, what is written, what is left out and said so, and bad input."""

import csv
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import tone
from omegaconf import OmegaConf

from wavenet_ae import audio, checkpoint, models, mulaw, notes, tables
from wavenet_ae.command import CONF
from wavenet_ae.evaluate import report, scores
from wavenet_ae.evaluate.ears import Ears
from wavenet_ae.evaluate.trial import Trial
from wavenet_ae.metrics import constant_q, entanglement, pitch, spectral
from wavenet_ae.metrics.bootstrap import Estimate
from wavenet_ae.synthesis import Sampling

WAVENET = {
    "_target_": "wavenet_ae.models.wavenet.WaveNetAutoencoder",
    "pitch_conditioning": False,
    "encoder": {
        "_target_": "wavenet_ae.models.wavenet.Encoder",
        **{"layers": 2, "stages": 2, "width": 4, "kernel_size": 3, "embedding_dims": 4, "hop": 64},
    },
    "decoder": {
        "_target_": "wavenet_ae.models.wavenet.Decoder",
        **{"layers": 2, "stages": 2, "width": 4, "skip_width": 4, "kernel_size": 3, "embedding_dims": 4, "hop": 64},
    },
}
EAR = {
    "_target_": "wavenet_ae.models.classifier.Classifier",
    **{"bands": 32, "n_fft": 1024, "hop": 256, "widths": [4], "features": 6},
}


def save(path, description, seed=0):
    torch.manual_seed(seed)
    model = models.build(description)
    checkpoint.save(path, model, checkpoint.Meta(description, 16_000, 64, 0, "raw", "tones", "CC0-1.0"))


@pytest.fixture
def evaluate(command, tmp_path, corpus):
    """Run evaluate on the tones, with a model, its conditioned sister and an ear at hand."""
    save("a.safetensors", WAVENET)
    save("told.safetensors", WAVENET | {"pitch_conditioning": True}, seed=1)
    save("ear.safetensors", EAR)

    def run(*arguments):
        given = {"notes.root": corpus, "seconds": 0.02, "engine": "cached", "classifier": "ear.safetensors", "show": 0}
        given |= dict(each.split("=", 1) for each in arguments)
        return command("evaluate.__main__", *(f"{key}={value}" for key, value in given.items()))

    return run


def found(folder="evaluation"):
    return json.loads(Path(folder, "evaluation.json").read_text())


def corpus_of(root, sounds, split="test"):
    """A corpus of waves by note_str."""
    entries = []
    for name, wave in sounds.items():
        key = notes.parse(name)
        entries.append(notes.describe(key, note=len(entries), instrument=0))
        audio.write(root / split / "audio" / f"{name}.wav", wave)
    notes.write_examples(root / split, entries)
    return root


def test_two_models_side_by_side(evaluate):
    done = evaluate("checkpoint=[a.safetensors,told.safetensors]", "show=1")
    assert done.status == 0, done.err
    assert re.search(r"measure +unit +better +original +a +told\n", done.out)
    results = found()["results"]
    unsaid = {"cents", "probe_family", "probe_family_frames"}  # made of noise; of a family that was not learnt
    unsaid |= {"frechet_vggish", "frechet_cnn14"}  # nobody gave their weights
    assert set(scores.MEASURES) - unsaid <= set(results["a"]) & set(results["told"])
    assert "Left out: a: family is not read off embeddings" in done.out
    assert 5 < results["a"]["nats"]["value"] < 6, "an untrained model knows nothing"
    assert results["a"]["bits"]["value"] == pytest.approx(results["a"]["nats"]["value"] / math.log(2))
    assert {each["notes"] for key, each in results["a"].items() if key not in unsaid} == {3}
    assert found()["models"]["told"]["pitch_conditioning"] is True
    assert found()["models"]["a"]["generate_s"] > 0
    assert found()["balance"]["pitch"] == {"45": 1, "57": 1, "64": 1}
    with open("evaluation/notes.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["model"] for row in rows] == ["original"] * 3 + ["a"] * 3 + ["told"] * 3
    mean = np.mean([float(row["nats"]) for row in rows if row["model"] == "a"])
    assert mean == pytest.approx(results["a"]["nats"]["value"])
    page = Path("evaluation/report.html").read_text()
    assert not re.search(r'(src|href)="(?!data:)', page), "it stands alone"
    assert page.count("data:audio/wav;base64,") == 3, "one note: the original and two reconstructions"
    assert page.count("data:image/png;base64,") == 3 + 2 * 2 + 1


def test_what_is_made_is_not_made_again_and_neither_batch_nor_company_changes_it(evaluate):
    assert evaluate("checkpoint=a.safetensors").status == 0
    first = found()["results"]["a"]
    sounds = {path: path.stat().st_mtime_ns for path in Path("evaluation/sounds").rglob("*.wav")}
    assert len(sounds) == 3
    assert evaluate("checkpoint=a.safetensors").status == 0
    assert {path: path.stat().st_mtime_ns for path in sounds} == sounds
    assert found()["results"]["a"] == first
    assert evaluate("checkpoint=[told.safetensors,a.safetensors]", "batch=1", "out=other").status == 0
    again = found("other")["results"]["a"]
    for key, each in first.items():
        assert again[key] == pytest.approx(each, rel=1e-5), key
    assert evaluate("checkpoint=a.safetensors", "limit=1", "overwrite=true").status == 0
    assert {path: path.stat().st_mtime_ns for path in Path("evaluation/sounds").rglob("*.wav")} != sounds


def test_silence_short_and_long_notes_and_notes_without_labels(evaluate, tmp_path):
    sounds = {
        "whistle_acoustic_000-000-100": torch.zeros(300),
        "whistle_acoustic_000-000-101": tone(57, 0.001)[:1],
        "whistle_acoustic_000-000-102": tone(57, 0.1),
    }
    root = corpus_of(tmp_path / "odd", sounds)
    done = evaluate("checkpoint=a.safetensors", f"notes.root={root}", "seconds=null")
    assert done.status == 0, done.err
    assert "Left out: 3 of 3 notes have no pitch" in done.out
    assert "Left out: 3 of 3 notes have no family" in done.out
    assert "Left out: there are no other notes to learn from" in done.out
    column = found()["results"]["a"]
    assert {"nats", "spectral_db", "constant_q", "source", "frechet"} <= set(column)
    assert not {"pitch", "family", "family_balanced", "probe_pitch"} & set(column)
    lengths = {path.name: audio.inspect(path).samples for path in Path("evaluation/sounds").rglob("*.wav")}
    assert sorted(lengths.values()) == [1, 300, 1600]
    done = evaluate("checkpoint=told.safetensors", f"notes.root={root}")
    assert done.status == 1
    assert "told is conditioned on pitch and 3 notes have none (whistle_acoustic_000-000-100, " in done.err


BASELINE = OmegaConf.to_container(OmegaConf.load(CONF / "model" / "baseline_tiny.yaml")) | {"pitch_conditioning": False}
BOTH = "checkpoint=[a.safetensors,baseline.safetensors]"


@pytest.fixture
def baseline(evaluate):
    """A spectral model beside the WaveNet."""
    save("baseline.safetensors", BASELINE)


def test_silence_alone_is_measured_as_far_as_silence_can_be(evaluate, baseline, tmp_path):
    root = corpus_of(tmp_path / "silent", {f"bass_acoustic_000-{p:03d}-100": torch.zeros(3000) for p in (40, 52)})
    done = evaluate(BOTH, f"notes.root={root}", "seconds=null", "show=2", "iterations=1")
    assert done.status == 0, done.err
    for name in ("a", "baseline"):
        assert f"Left out: {name}: in no frame have both it and the original a pitch." in done.out
        column = found()["results"][name]
        assert "cents" not in column
        assert all(math.isfinite(each["value"]) for each in column.values())
    assert found()["results"]["baseline"]["spectral_db"]["value"] == 0, "its level says so: silence stays silence"
    assert found()["results"]["baseline"]["voicing"]["value"] == 1
    assert Path("evaluation/report.html").stat().st_size > 100_000


def test_notes_of_100_samples_have_all_but_a_frechet_distance(evaluate, baseline, tmp_path):
    names = ["bass_acoustic_000-040-100", "reed_acoustic_001-127-100"]  # the second above half the sample rate
    root = corpus_of(tmp_path / "short", {name: tone(57, 0.1)[:100] for name in names})
    done = evaluate(BOTH, f"notes.root={root}", "seconds=null", "show=2", "iterations=1")
    assert done.status == 0, done.err
    for name in ("a", "baseline"):
        column = found()["results"][name]
        assert {"spectral_db", "constant_q", "voicing", "pitch", "family_balanced", "frechet"} <= set(column)
        assert column["spectral_db"]["notes"] == 2
    assert found()["models"]["a"]["frechet"]["frechet"]["windows"] == 2, "a short note is a window of its own"
    done = evaluate("checkpoint=a.safetensors", f"notes.root={root}", "seconds=null", "limit=1", "out=one")
    assert done.status == 0, done.err
    assert "Left out: a: a Frechet distance needs two windows of sound, of about a second each." in done.out
    assert "frechet" not in found("one")["results"]["a"]


def test_one_note_alone_has_values_and_no_intervals(evaluate):
    done = evaluate("checkpoint=a.safetensors", "limit=1", "classifier=null", "probe_split=null")
    assert done.status == 0, done.err
    assert "Left out: no classifier was given" in done.out
    column = found()["results"]["a"]
    assert set(column) <= {"nats", "bits", "spectral_db", "constant_q", "cents", "voicing"}
    assert column["nats"]["low"] is None
    assert column["nats"]["notes"] == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["checkpoint=ear.safetensors"], "holds a Classifier: expected a"),
        (["checkpoint=nowhere.safetensors"], r"nowhere\.safetensors does not exist"),
        (["checkpoint=a.safetensors", "classifier=told.safetensors"], "expected a Classifier"),
        (["checkpoint=[a.safetensors,a.safetensors]"], "would be called a, a: expected as many different names"),
        (["checkpoint=a.safetensors", "names=[original]"], "none of them 'original'"),
        (["checkpoint=a.safetensors", "split=holdout"], "has no split 'holdout': found test, train, valid"),
        (["checkpoint=a.safetensors", "probe_split=holdout"], "has no split 'holdout'"),
        (["checkpoint=a.safetensors", "show=[tuba]"], "show names tuba: not among the 3 notes"),
        (["checkpoint=a.safetensors", "limit=0"], "0 notes were asked for: expected at least one"),
        (["checkpoint=a.safetensors", "seconds=-1"], "seconds is -1: expected more than 0"),
        (["checkpoint=a.safetensors", "engine=warp"], "unknown engine 'warp'"),
    ],
)
def test_bad_input_is_refused_before_any_work(evaluate, arguments, message):
    done = evaluate(*arguments)
    assert done.status == 1
    assert re.search(message, done.err)
    assert not Path("evaluation").exists()


# --- its parts


@pytest.mark.parametrize("batch", [1, 3])
def test_nats_are_those_of_the_whole_network_whatever_the_lengths(tmp_path, batch):
    torch.manual_seed(0)
    model = models.build(WAVENET).eval()
    trial = Trial("a", model, "", tmp_path)
    waves = [torch.rand(samples) - 0.5 for samples in (2000, 300, 64)]
    values, _ = trial.embed(waves, lambda count: None)
    known = [notes.Note(str(i), tmp_path, 60, 100, "", "", "") for i in range(3)]
    told = []
    sounds = trial.sounds(known, waves, values)
    nats = trial.nats(sounds, waves, Sampling(engine="cached", batch=batch), told.append)
    assert sum(told) == sum(map(len, waves))
    for wave, found_nats, value in zip(waves, nats, values, strict=True):
        code = torch.nn.functional.pad(mulaw.encode(wave), (0, -len(wave) % 64), value=mulaw.SILENCE)[None]
        with torch.no_grad():
            cost = torch.nn.functional.cross_entropy(model.decoder(code, value[None]), code, reduction="none")
        assert found_nats == pytest.approx(float(cost[0, : len(wave)].double().mean()), rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("description", [WAVENET, BASELINE], ids=["wavenet", "baseline"])
def test_a_note_of_a_minute_is_made_and_measured_whole(tmp_path, description):
    torch.manual_seed(0)
    model, wave = models.build(description).eval(), 0.3 * torch.sin(torch.arange(60 * 16_000) * 0.0864)
    trial = Trial("a", model, "", tmp_path)
    note = notes.Note("long", tmp_path, 57, 100, "", "", "")
    values, _ = trial.embed([wave], lambda count: None)
    [sound] = trial.sounds([note], [wave], values)
    sampling = Sampling(threads=1, iterations=1)
    trial.reconstruct([sound], sampling, lambda count: None)
    made = trial.heard(sound)
    assert len(made) == len(wave)
    assert math.isfinite(spectral.distance(wave, made))
    assert math.isfinite(constant_q.error(wave, made))
    [nats] = trial.nats([sound], [wave], sampling, lambda count: None)
    assert math.isnan(nats) if description is BASELINE else nats == pytest.approx(math.log(256), rel=0.1)
    torch.manual_seed(0)
    heard = Ears(models.build(EAR).eval()).features(wave)["frechet"]
    assert heard.shape == (59, 6), "pieces of 1.024 s; a last one of more than half would be another"


def test_a_copy_is_perfect():
    wave = tone(57, 0.5)
    track = pitch.track(wave)
    copied = scores.compare(wave, wave.clone(), (track, track))
    assert copied == {"spectral_db": 0, "constant_q": 0, "cents": 0, "voicing": 1}


def test_probes_read_what_is_there_and_not_what_is_not():
    rng = np.random.default_rng(0)
    pitches = [(40, 50, 60)[i % 3] for i in range(60)]
    every = [notes.Note(str(i), Path(), p, 100, "", "bass" if i % 2 else "reed", "") for i, p in enumerate(pitches)]
    values = [rng.normal(size=(5, 4)) for _ in every]
    for value, each in zip(values, every, strict=True):
        value[2] += each.pitch  # and nothing says the family
    probed = entanglement.read_off(values[:40], every[:40], values[40:], every[40:])
    assert probed["pitch", "mean"].mean() == 1
    assert probed["pitch", "frames"].mean() > 0.95
    assert 0.2 < probed["family", "mean"].mean() < 0.8
    assert np.isnan(entanglement.read_off(values[:1], every[:1], values, every)["pitch", "mean"]).all(), (
        "one class is none"
    )
    unknown = [notes.Note("x", Path(), 41, 100, "", "bass", "")]
    assert np.isnan(entanglement.read_off(values, every, values[:1], unknown)["pitch", "mean"]).all(), "never learnt"


def test_a_table_in_plain_text():
    table = {"a": {"nats": Estimate(2.5, 2.0, 3.0, 9)}, "b": {"nats": Estimate(1234.5, math.nan, math.nan, 1)}}
    lines = tables.text(report.results(table)).splitlines()
    assert lines[0].split() == ["measure", "unit", "better", "a", "b"]
    assert lines[2].endswith("nats/sample  lower   2.5 [2, 3]  1,234")
    assert tables.cell(None) == "-"

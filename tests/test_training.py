"""The command that trains: a run's folder, what it says and shows, and what it refuses."""

import math
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from google.protobuf import text_format
from memory import PEAK, needs_proc
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.projector.projector_config_pb2 import ProjectorConfig

from wavenet_ae import audio, checkpoint, notes
from wavenet_ae.training import memory
from wavenet_ae.training.run import Run

SMOKE = ["experiment=smoke", "run=run", "listen_every=0"]


def test_training_makes_a_run_folder_whose_model_loads(command, corpus):
    done = command("train", *SMOKE, f"notes.root={corpus}", "steps=4", "validate_every=2", "checkpoint_every=1")
    assert done.status == 0, done.err
    assert "a new run in run: 25,904 parameters on cpu, 6 notes to learn, 3 held out" in done.out
    assert "all steps done after 4 steps; the last 4 measured cost 5." in done.out
    assert "go on:  python -m wavenet_ae.train resume=run" in done.out
    assert sorted(path.name for path in Path("run").iterdir() if "tfevents" not in path.name) == [
        *["config.yaml", "metrics.jsonl", "model.safetensors", "states"],
    ]
    assert Run("run").states() == [3, 4]
    lines = Run("run").metrics()
    assert [line["step"] for line in lines if "valid_nats" in line] == [0, 2, 4]
    assert all(abs(line["nats"] - math.log(256)) < 0.2 for line in lines if "nats" in line)
    meta = checkpoint.describe("run/model.safetensors")
    assert (meta.step, meta.weights, meta.hop, meta.sample_rate) == (4, "ema", 512, 16_000)
    _, tensors = Run("run").restore()
    kept = checkpoint.load("run/model.safetensors").state_dict()
    assert all(torch.equal(tensors[f"ema.{name}"], tensor) for name, tensor in kept.items())
    assert not [path for path in Path().iterdir() if path.name != "run"], "nothing is written beside the run"


def test_a_run_is_heard_and_seen(command, corpus):
    done = command("train", *SMOKE, f"notes.root={corpus}", "steps=2", "listen_every=1", "listen_seconds=0.04")
    assert done.status == 0, done.err
    heard = sorted(path.name for path in Path("run/sounds").iterdir())
    assert len(heard) == 2 * 3, "two notes: the original and two reconstructions of each"
    assert heard[0].startswith("reed_synthetic_000-045-100.original"), "of held-out notes"
    assert heard[2] == "reed_synthetic_000-045-100.step-00000002.wav"
    seen = EventAccumulator("run", size_guidance={"images": 0, "audio": 0}).Reload().Tags()
    note = "reed_synthetic_000-045-100"
    assert f"{note}/original, reconstruction" in seen["images"]
    assert {f"{note}/original", f"{note}/step"} <= set(seen["audio"])
    assert {"nats", "bits", "valid_nats", "valid_bits", "grad_norm", "rate", "steps_per_s", "samples_per_s"} <= set(
        seen["scalars"]
    )


def test_memory_is_measured_beside_the_rates(command, corpus):
    assert command("train", *SMOKE, f"notes.root={corpus}", "steps=2", "device=cpu").status == 0
    logged = [line["resident_mb"] for line in Run("run").metrics() if "nats" in line]
    assert len(logged) == 2
    assert all(100 < megabytes < 10_000 for megabytes in logged), "of a process with torch in it"
    board = EventAccumulator("run").Reload()
    assert [event.value for event in board.Scalars("resident_mb")] == pytest.approx(logged)
    before = memory.used(torch.device("cpu"))["resident_mb"]
    reserved = torch.empty(100_000_000)
    assert memory.used(torch.device("cpu"))["resident_mb"] - before < 0.2 * reserved.nbytes / 1e6, "nothing is in it"
    held = torch.ones(50_000_000)
    assert memory.used(torch.device("cpu"))["resident_mb"] - before == pytest.approx(held.nbytes / 1e6, rel=0.2)


def projected():
    """What TensorBoard's projector is told of a run: by step the vectors, and rows of labels by their header."""
    config = text_format.Parse(Path("run/projector_config.pbtxt").read_text(), ProjectorConfig())

    def table(path):
        return [line.split("\t") for line in (Path("run") / path).read_text().splitlines()]

    found = {}
    for entry in config.embeddings:
        header, *rows = table(entry.metadata_path)
        vectors = [[float(cell) for cell in row] for row in table(entry.tensor_path)]
        found[entry.tensor_name] = vectors, [dict(zip(header, row, strict=True)) for row in rows]
    return found


def test_validation_notes_lie_where_their_mean_embeddings_do(command, corpus, tmp_path):
    root = shutil.copytree(corpus, tmp_path / "notes")
    heard = ["listen_every=2", "listen=1", "listen_seconds=0.1", f"notes.root={root}"]
    assert command("train", *SMOKE, "steps=4", *heard).status == 0
    model = checkpoint.load("run/model.safetensors")
    found = projected()
    assert list(found) == ["step-00000004", "step-00000002"], "the newest first"
    vectors, labels = found["step-00000004"]
    assert labels == [
        {"name": note.name, "pitch": str(note.pitch), "family": "reed", "instrument": "reed_synthetic_000",
         "source": "synthetic", "velocity": "100"}
        for note in notes.load(root, "valid")
    ]  # fmt: skip
    for vector, note in zip(vectors, notes.load(root, "valid"), strict=True):
        expected = model.embed(audio.read(note.path)[None, :1600])[0].mean(dim=-1)
        assert vector == pytest.approx(expected.tolist(), rel=1e-4)
    assert found["step-00000002"][0] != vectors
    broken = root / "valid" / "audio" / "reed_synthetic_000-064-100.wav"
    whole = broken.read_bytes()
    broken.write_bytes(b"no sound")
    done = command("train", "resume=run", "steps=6", "validate_every=0")
    broken.write_bytes(whole)
    assert done.status == 0, done.err
    assert "reed_synthetic_000-064-100 is left out of the projector" in done.err
    found = projected()
    counts = {name: len(rows) for name, (rows, _) in found.items()}
    assert counts == {"step-00000006": 2, "step-00000004": 3, "step-00000002": 3}, "what was there is kept"
    assert command("train", *SMOKE, "run=none", "steps=1", *heard[1:], "listen_every=1", "project=0").status == 0
    assert not Path("none/projector").exists()


@needs_proc
def test_training_the_small_model_takes_less_than_3_gb(corpus, tmp_path):
    script = PEAK + textwrap.dedent("""
        from wavenet_ae.train import main
        main()
        print(peak())
    """)
    settings = ["steps=2", "listen_every=0", "valid_batches=1", "run=run", f"notes.root={corpus}"]
    done = subprocess.run(
        [sys.executable, "-c", script, *settings], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert 300 < int(done.stdout.split()[-1]) < 3000


def test_a_learning_rate_of_a_million_is_stopped_and_costs_no_state(command, corpus):
    rate = ["schedule.table={0:1.0e6}", "schedule.warmup=0", "checkpoint_every=1", f"notes.root={corpus}"]
    done = command("train", *SMOKE, *rate)
    assert done.status == 1
    assert "train: training diverged after" in done.err
    assert "lower the learning rate (1e+06)" in done.err
    assert Run("run").states() == [], "the first update spoilt them all"
    assert "there is no state yet to keep" in done.err
    good = command("train", *SMOKE, f"notes.root={corpus}", "run=late", "steps=4", "checkpoint_every=2")
    assert good.status == 0, good.err
    before = Path("late/model.safetensors").read_bytes()
    config = Path("late/config.yaml")
    config.write_text(config.read_text().replace("0: 0.002", "0: 0.002\n    4: 1000000.0"))
    late = command("train", "resume=late", "steps=20", "checkpoint_every=1")
    assert late.status == 1
    assert "the states of steps [2, 4] are whole: resume=late" in late.err
    assert Path("late/model.safetensors").read_bytes() == before


def test_a_folder_that_exists_is_left_alone(command, corpus):
    Path("run").mkdir()
    Path("run/thesis.txt").write_text("years of work")
    done = command("train", *SMOKE, f"notes.root={corpus}")
    assert done.status == 1
    assert "train: run exists already: a new run needs a new folder (run=...); to go on with the old one" in done.err
    assert [path.name for path in Path("run").iterdir()] == ["thesis.txt"]
    Path("run/thesis.txt").unlink()
    assert command("train", *SMOKE, f"notes.root={corpus}", "steps=1").status == 0, "an empty folder will do"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["resume=nowhere"], "nowhere is no run: expected config.yaml and states/ in it (for a model: init=)"),
        (["resume=run", "batch=3"], "batch=3 cannot change: only steps, minutes, log_every, validate_every"),
        (["resume=run", "model=small"], "model=small cannot change"),
        (["resume=run", "++seed=3"], "seed=3 cannot change"),
        (["resume=run", "resume_step=3"], "run has no state to resume from of step 3: found 4; choose one of these"),
    ],
)
def test_a_resume_that_cannot_be_exact_is_refused(command, corpus, arguments, message):
    assert command("train", *SMOKE, f"notes.root={corpus}", "steps=4").status == 0
    before = {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file()}
    done = command("train", *arguments)
    assert done.status == 1
    assert message in done.err
    assert {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["notes.root=nowhere"], "nowhere is not there: expected a corpus"),
        (["valid_split=holdout"], "has no split 'holdout': found test, train, valid; choose one of these"),
        (["crop=1000"], "crop is 1000: expected a multiple of the model's hop, 512"),
        (["skip=4096"], "skip is 4096: expected at least 0 and less than the crop, 2048"),
        (["restart=1000"], "restart is 1000: expected 0, or a multiple of the model's hop, 512, that divides the crop"),
        (["restart=1536"], "restart is 1536: expected 0, or a multiple"),
        (["restart=512", "accumulate=2"], "an even number of crops at a time (here 1)"),
        (["pitch_weight=0.1"], "pitch_weight is 0.1: expected 0, or more of a model that reads the pitch"),
        (["keep_best=true", "valid_batches=0"], "keep_best=true and valid_batches=0: nothing would say which is best"),
        (["attacks=2.0"], "attacks is 2.0: expected a share, from 0 to 1"),
        (["device=tpu"], "device 'tpu' is not here: expected auto, "),
        (["precision=fp8"], "unknown precision 'fp8': choose one of auto, fp32, bf16"),
        (["crop_by=loudness"], "unknown crop_by 'loudness': choose one of uniform, energy"),
        (["batch=0"], "no batches of 0 crops"),
        (["only=[a_b_000-060-100]"], "a_b_000-060-100 is not in the train split"),
        (["listen=[x]"], "no note is called x in this split, which has"),
        (["schedule=nsynth"], "from step 90,000 are never used in 20 steps"),
        (["log_every=0"], "log_every is 0: expected 1 or more"),
        (["ema_decay=2.0"], "ema_decay is 2.0: expected at least 0 and below 1"),
        (["valid_split=train"], "train and valid share 2 instruments: bass_synthetic_000, organ_synthetic_001"),
    ],
    ids=lambda value: str(value[0]) if isinstance(value, list) else "",
)
def test_bad_settings_are_one_message_before_anything_is_made(command, corpus, arguments, message):
    root = [] if arguments[0].startswith("notes.root") else [f"notes.root={corpus}"]
    done = command("train", *SMOKE, *root, *arguments)
    assert done.status == 1
    assert message in done.err
    assert done.err.count("\n") <= 2, "one message, no traceback"
    assert not Path("run").exists()


def test_a_misspelt_key_is_hydra_s_error(command, corpus):
    done = command("train", *SMOKE, f"notes.root={corpus}", "stesp=3")
    assert done.status == 1
    assert "Key 'stesp' is not in struct" in done.err
    assert not Path("run").exists()


def test_some_notes_alone_are_learnt_and_validated_on(command, corpus):
    name = "bass_synthetic_000-057-100"
    done = command("train", *SMOKE, f"notes.root={corpus}", "steps=1", f"only=[{name},{name}]")
    assert done.status == 0, done.err
    assert "1 notes to learn" in done.out

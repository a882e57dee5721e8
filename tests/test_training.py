"""How fast to learn, what is minimised, what a run keeps, and what it says when it goes wrong."""

import contextlib
import dataclasses
import json
import math
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from google.protobuf import text_format
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from memory import PEAK, needs_proc
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.projector.projector_config_pb2 import ProjectorConfig
from torch import nn

from wavenet_ae import audio, checkpoint, models, mulaw, notes
from wavenet_ae.command import CONF
from wavenet_ae.training import memory
from wavenet_ae.training.clock import Clock, Plan
from wavenet_ae.training.descent import Diverged
from wavenet_ae.training.loop import Hooks, Loop
from wavenet_ae.training.objectives import Likelihood
from wavenet_ae.training.run import Run
from wavenet_ae.training.schedule import MovingAverage, Steps

BOX = Path(__file__).parents[1] / "data" / "notes"
SMOKE = ["experiment=smoke", "run=run", "listen_every=0"]


def settings(*overrides):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("train", overrides=list(overrides))


# --- how fast to learn


def test_the_published_learning_rates():
    rate = instantiate(settings("experiment=nsynth").schedule)
    published = {0: 2e-4, 89_999: 2e-4, 90_000: 4e-4 / 3, 120_000: 6e-5, 150_000: 4e-5, 180_000: 2e-5, 199_999: 2e-5}
    assert {step: rate(step) for step in published} == pytest.approx(published, rel=1e-12)
    rate.check(200_000)
    with pytest.raises(
        ValueError, match="from step 90,000 are never used in 100 steps: train longer, or leave them out by"
    ):
        rate.check(100)


def test_warmup_rises_linearly_to_the_rate():
    rate = Steps(table={0: 1.0, 10: 0.5}, warmup=4)
    assert [rate(step) for step in (0, 1, 3, 4, 9, 10)] == pytest.approx([0.2, 0.4, 0.8, 1.0, 1.0, 0.5])


@pytest.mark.parametrize("table", [{}, {1: 1e-3}, {0: 0.0}, {0: 1e-3, 5: -1.0}])
def test_a_table_that_means_nothing_is_refused(table):
    with pytest.raises(ValueError, match="expected positive rates, the first from step 0"):
        Steps(table=table, warmup=0)


def test_the_moving_average_by_hand():
    model = nn.BatchNorm1d(1)  # two weights, and buffers
    average = MovingAverage(model, decay=0.5)
    expected = model.weight.item()
    for step, value in enumerate([3.0, -1.0, 7.0, 2.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0]):
        with torch.no_grad():
            model.weight.fill_(value)
            model.running_mean.fill_(value)
        average.update(model, step)
        decay = min(0.5, (1 + step) / (10 + step))  # 1/10, 2/11, ... and 0.5 from step 8 on
        expected = decay * expected + (1 - decay) * value
        assert average.model.weight.item() == pytest.approx(expected, rel=1e-6)
    assert decay == 0.5, "both branches were taken"
    assert float(average.model.running_mean) == 9.0, "buffers are taken over as they are"
    assert model.weight.item() == 9.0, "the model itself is left alone"
    assert not average.model.weight.requires_grad
    with pytest.raises(ValueError, match=r"ema_decay is 1\.0: expected at least 0 and below 1"):
        MovingAverage(model, decay=1.0)


# --- what is minimised


def likelihood(tiny_autoencoder, *, optimizer=torch.optim.Adam, lr=1e-3, **changes):
    torch.manual_seed(0)
    model = tiny_autoencoder(torch.float32)
    options = {"ema_decay": 0.5, "max_grad_norm": 1.0, "skip": 0, "autocast": None}
    return Likelihood(model, optimizer(model.parameters(), lr=lr), Steps(table={0: lr}, warmup=0), **options | changes)


def batch(samples=64):
    torch.manual_seed(1)
    return notes.Batch(torch.rand(2, samples) * 2 - 1, torch.tensor([60, 60]), ["loud_noise", "more_noise"])


def weights(module):
    return torch.cat([parameter.detach().flatten() for parameter in module.parameters()])


@pytest.mark.parametrize("norm", [0.0, -1.0, math.nan])
def test_a_length_that_would_stop_or_turn_gradients_is_refused(tiny_autoencoder, norm):
    with pytest.raises(ValueError, match=f"max_grad_norm is {norm}: expected a positive number"):
        likelihood(tiny_autoencoder, max_grad_norm=norm)


def test_the_loss_is_the_mean_cost_of_a_sample_beyond_the_skipped(tiny_autoencoder):
    crops = batch()
    code = mulaw.encode(crops.wave)
    for skip in (0, 31):
        objective = likelihood(tiny_autoencoder, skip=skip)
        odds = objective.model(code).log_softmax(dim=1).detach()
        cost = [-float(odds[b, code[b, t], t]) for b in range(2) for t in range(skip, 64)]
        assert objective.measure(crops)["nats"] == pytest.approx(sum(cost) / len(cost), rel=1e-5)
        assert objective.learn(crops, 0)["nats"] == pytest.approx(sum(cost) / len(cost), rel=1e-5)


def test_an_untrained_model_costs_what_knowing_nothing_does():
    cfg = settings("experiment=overfit_one_note")
    torch.manual_seed(0)
    model = models.build(json.loads(json.dumps(cfg.model, default=dict)))
    code = mulaw.encode(torch.rand(2, 2048) - 0.5)
    with torch.no_grad():
        assert abs(F.cross_entropy(model(code), code) - math.log(256)) < 0.1


def test_measuring_learns_nothing_and_uses_the_average(tiny_autoencoder):
    objective, crops = likelihood(tiny_autoencoder, lr=0.1, ema_decay=0.99), batch()
    for step in range(5):
        objective.learn(crops, step)
    before, average = weights(objective.model), weights(objective.average.model)
    measured = objective.measure(crops)["nats"]
    assert torch.equal(weights(objective.model), before)
    assert torch.equal(weights(objective.average.model), average)
    objective.model.load_state_dict(objective.average.model.state_dict())
    assert measured == objective.learn(crops, 5)["nats"] != objective.measure(crops)["nats"]


@pytest.mark.parametrize("most", [0.01, 1e9])
def test_a_gradient_is_shortened_to_the_norm_allowed_and_no_further(tiny_autoencoder, most):
    objective = likelihood(tiny_autoencoder, optimizer=torch.optim.SGD, lr=1.0, max_grad_norm=most)
    before = weights(objective.model)
    measured = objective.learn(batch(), 0)
    assert measured["grad_norm"] > 0.01, "what is reported is the norm before"
    moved = float((weights(objective.model) - before).norm())
    assert moved == pytest.approx(min(most, measured["grad_norm"]), rel=1e-3)


def test_the_schedule_sets_the_rate_of_every_step(tiny_autoencoder):
    objective = likelihood(tiny_autoencoder, optimizer=torch.optim.SGD, max_grad_norm=1.0, lr=123.0)
    objective.rate = Steps(table={0: 1e-2, 1: 1e-4}, warmup=0)
    moves = []
    for step in range(2):
        before = weights(objective.model)
        measured = objective.learn(batch(), step)
        moves.append(float((weights(objective.model) - before).norm()) / min(1.0, measured["grad_norm"]))
    assert moves == pytest.approx([1e-2, 1e-4], rel=0.02)


@pytest.mark.parametrize("fault", ["nan", "exploded"])
def test_divergence_stops_before_the_update_and_names_the_notes(tiny_autoencoder, fault):
    objective, crops = likelihood(tiny_autoencoder), batch()
    objective.learn(crops, 0)
    with torch.no_grad():
        objective.model.decoder.logits.weight.mul_(float("nan") if fault == "nan" else 1e6)
    before, average = weights(objective.model), weights(objective.average.model)
    message = (
        r"training diverged after 1 steps: loss .* nats \(knowing nothing costs 5\.55\), gradient norm .*; lower the "
        r"learning rate \(0\.001\) or max_grad_norm \(1\), or look at the notes loud_noise, more_noise"
    )
    with pytest.raises(Diverged, match=message):
        objective.learn(crops, 1)
    with pytest.raises(Diverged, match="training diverged after 1 steps"):
        objective.check(crops, 1)
    assert torch.equal(weights(objective.model).nan_to_num(), before.nan_to_num())
    assert torch.equal(weights(objective.average.model), average)


@pytest.mark.slow
def test_one_note_is_learnt_by_heart():
    """Full size is 300 steps; below 1 nat is reached by 250."""
    cfg = settings("experiment=overfit_one_note", f"notes.root={BOX}")
    train = [note for note in notes.load(split="train", **cfg.notes) if note.name in cfg.only]
    assert len(train) == 1
    torch.manual_seed(0)
    model = models.build(json.loads(json.dumps(cfg.model, default=dict)))
    rate = instantiate(cfg.schedule)
    optimizer = instantiate(cfg.optimizer)(model.parameters(), lr=rate(0))
    objective = Likelihood(
        model, optimizer, rate, ema_decay=cfg.ema_decay, max_grad_norm=cfg.max_grad_norm, skip=0, autocast=None
    )
    crops = {"batch": cfg.batch, "crop": cfg.crop, "seed": 0, "crop_by": cfg.crop_by}
    validation = list(notes.batches(train, steps=4, **crops))
    first = sum(objective.measure(each)["nats"] for each in validation) / 4
    assert abs(first - math.log(256)) < 0.2
    for step, crop in zip(range(250), notes.batches(train, **crops), strict=False):
        objective.learn(crop, step)
    assert sum(objective.measure(each)["nats"] for each in validation) / 4 < 1.0


# --- the loop


class Counting:
    """An objective that counts instead of learning."""

    unit = "nats"

    def __init__(self, diverge_at=None, spoilt_at=None):
        self.steps, self.diverge_at, self.spoilt_at = 0, diverge_at, spoilt_at

    def learn(self, batch, step):
        assert step == self.steps
        if step == self.diverge_at:
            raise Diverged("it diverged")
        self.steps += 1
        return {"nats": 1.0 / self.steps}

    def measure(self, batch):
        return {"nats": float(batch.wave.mean())}

    def check(self, batch, step):
        if step == self.spoilt_at:
            raise Diverged("it is spoilt")

    def state(self):
        return {"steps": torch.tensor(self.steps)}

    def assembled(self):
        return contextlib.nullcontext()


def loop(folder, objective, kept=None, listened=None, validation=(1.0, 2.0), **pace):
    pace = {"steps": 10, "minutes": None, "log_every": 1, "validate_every": 0} | pace
    plan = Plan(**{"checkpoint_every": 0, "listen_every": 0} | pace)
    hooks = Hooks(
        log=lambda step, values: None,
        keep=lambda step: kept is None or kept.append(step),
        listen=lambda step: listened is None or listened.append(step),
    )
    endless = iter(lambda: batch(8), None)
    values = [batch(8)._replace(wave=torch.full((2, 8), value)) for value in validation]
    return Loop(objective, endless, values, Run(folder), plan, hooks)


def test_what_held_out_notes_cost_least_is_kept_if_asked(tmp_path):
    costs = iter([3.0, 2.0, 1.5, 1.5, 1.7, 1.9])
    objective, kept = Counting(), []
    objective.measure = lambda batch: {"nats": next(costs)}
    pace = {"keep_best": True, "validate_every": 2, "checkpoint_every": 2, "validation": (1.0,)}
    assert loop(tmp_path, objective, kept, **pace).train() == (10, "all steps done")
    assert kept == [0, 2, 4], "not the same cost again, and not what came after"
    assert Run(tmp_path).best("nats") == (4, 1.5)
    told = Run(tmp_path).summary("nats", "a sample", ".2f", best=True)
    assert told.endswith("held-out notes 1.90 nats (2.741 bits), 3.00 at first; kept is the model of step 4, 1.50")
    with pytest.raises(ValueError, match="keep_best=true and validate_every=0: nothing says which is best"):
        loop(tmp_path, objective, keep_best=True)


def test_everything_happens_at_its_own_pace(tmp_path):
    kept, listened = [], []
    pace = {"log_every": 3, "validate_every": 4, "checkpoint_every": 5, "listen_every": 6}
    run = loop(tmp_path, Counting(), kept, listened, **pace)
    assert run.train() == (10, "all steps done")
    lines = run.run.metrics()
    assert [line["step"] for line in lines if "nats" in line] == [3, 6, 9]
    assert [line["step"] for line in lines if "valid_nats" in line] == [0, 4, 8, 10]
    assert lines[0]["valid_nats"] == 1.5, "the mean over the batches"
    assert lines[0]["valid_bits"] == pytest.approx(1.5 / math.log(2))
    assert {"steps_per_s", "samples_per_s", "nats", "bits", "seconds"} <= lines[1].keys()
    assert kept == [5, 6, 10], "before it listens too, which takes long"
    assert listened == [6, 10]
    assert run.run.states() == [6, 10]


def test_whoever_is_killed_while_listening_has_lost_nothing(tmp_path):
    """A preempted job has some 30 s; a reconstruction can take minutes."""
    found = []
    pace = {"checkpoint_every": 5, "listen_every": 3, "validate_every": 3}
    run = loop(tmp_path, Counting(), **pace)
    hooks = dataclasses.replace(run.hooks, listen=lambda step: found.append((step, run.run.states()[-1])))
    dataclasses.replace(run, hooks=hooks).train()
    assert found == [(3, 3), (6, 6), (9, 9), (10, 10)]


def test_never_is_never(tmp_path):
    listened = []
    run = loop(tmp_path, Counting(), listened=listened)
    run.train()
    assert listened == []
    assert run.run.states() == [10], "the end is always kept"
    assert not [line for line in run.run.metrics() if "valid_nats" in line]
    without = loop(tmp_path, Counting(), validation=(), validate_every=2)
    assert without.train() == (10, "all steps done"), "no validation notes, no validation"


def test_minutes_end_a_run(tmp_path):
    step, ended = loop(tmp_path, Counting(), steps=10**9, minutes=0.01, log_every=10**6).train()
    assert ended == "0.01 minutes over"
    assert 0 < step < 10**9
    assert Run(tmp_path).states() == [step]


@pytest.mark.parametrize("fault", ["diverge_at", "spoilt_at"])
def test_divergence_keeps_the_last_good_state(tmp_path, fault):
    """Weights that an update has just spoilt cost nothing yet: they are measured before they are kept."""
    kept = []
    run = loop(tmp_path, Counting(**{fault: 8}), kept, checkpoint_every=2)
    with pytest.raises(Diverged, match="it"):
        run.train()
    last = {"diverge_at": 8, "spoilt_at": 6}[fault]
    assert run.run.states() == [last - 2, last] == kept[-2:]
    step, state = run.run.restore()
    assert (step, int(state["steps"])) == (last, last)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 0}, "steps is 0: expected 1 or more"),
        ({"log_every": 0}, "log_every is 0: expected 1 or more"),
        ({"minutes": -1.0}, "minutes is -1.0: expected 0 or more"),
        ({"checkpoint_every": -5}, "checkpoint_every is -5: expected 0 or more"),
    ],
)
def test_a_pace_that_means_nothing_is_refused(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        loop(tmp_path, Counting(), **change)


def test_signals_are_given_back(tmp_path):
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    plan = Plan(steps=5, minutes=None, log_every=1, validate_every=0, checkpoint_every=0, listen_every=0)
    with Clock(plan, 0) as clock:
        signal.raise_signal(signal.SIGTERM)
        assert clock.ended(1) == "SIGTERM received"
        with pytest.raises(KeyboardInterrupt):  # noqa: PT012
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


# --- the folder


def state(value):
    return {"weights": torch.full((3,), float(value)), "scalar": torch.tensor(value)}


def test_the_last_two_states_are_kept_and_come_back_with_the_dice(tmp_path):
    run = Run(tmp_path)
    for step in (10, 20, 30):
        torch.manual_seed(step)
        run.save(step, state(step))
    expected = torch.rand(3)
    assert run.states() == [20, 30]
    assert sorted(path.name for path in tmp_path.rglob("*.*")) == [
        "state-00000020.safetensors",
        "state-00000030.safetensors",
    ]
    torch.manual_seed(0)
    step, restored = Run(tmp_path).restore()
    assert step == 30
    assert restored.keys() == state(30).keys()
    assert all(torch.equal(restored[name], tensor) for name, tensor in state(30).items())
    assert torch.equal(torch.rand(3), expected)


def test_an_earlier_state_can_be_gone_back_to_and_nothing_newer_is_lost(tmp_path):
    run = Run(tmp_path)
    for step in (10, 20):
        run.log(step - 5, {"nats": 1.0})
        run.log(step, {"nats": 1.0})
        run.save(step, state(step))
    run.log(25, {"nats": 1.0})
    step, restored = run.restore(10)
    assert (step, int(restored["scalar"])) == (10, 10)
    assert run.states() == [10]
    assert (tmp_path / "states" / "state-00000020.set-aside").exists()
    assert [line["step"] for line in run.metrics()] == [5, 10], "what was measured later is measured again"
    with pytest.raises(ValueError, match="has no state to resume from of step 20: found 10; choose one of these"):
        run.restore(20)


@pytest.mark.parametrize("damage", ["flipped", "truncated", "empty", "another file"])
def test_a_damaged_state_is_refused_by_name_and_the_one_before_offered(tmp_path, damage):
    run = Run(tmp_path)
    run.save(10, state(10))
    run.save(20, state(20))
    path = tmp_path / "states" / "state-00000020.safetensors"
    data = bytearray(path.read_bytes())
    at = data.index(torch.full((3,), 20.0).numpy().tobytes())
    flipped = bytes(data[: at + 1]) + bytes([data[at + 1] ^ 1]) + bytes(data[at + 2 :])
    path.write_bytes({"flipped": flipped, "truncated": data[:-10], "empty": b"", "another file": b"x" * 99}[damage])
    run.log(15, {"nats": 1.0})
    with pytest.raises(ValueError, match=r"state-00000020\.safetensors is damaged: .*of step 10: add resume_step=10"):
        run.restore()
    assert [line["step"] for line in run.metrics()] == [15], "nothing was changed by trying"
    assert run.restore(10)[0] == 10
    assert run.states() == [10]
    first = tmp_path / "states" / "state-00000010.safetensors"
    first.write_bytes(first.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"state-00000010\.safetensors is damaged: .*start anew"):
        run.restore()


def test_what_a_killed_run_left_half_written_is_swept_up(tmp_path):
    run = Run(tmp_path)
    run.save(10, state(10))
    (tmp_path / "states" / ".state-00000020.ab12cd34.partial.safetensors").write_bytes(b"half")
    run.log(10, {"nats": 1.0})
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 11, "na')
    assert run.restore()[0] == 10
    assert [path.name for path in (tmp_path / "states").iterdir()] == ["state-00000010.safetensors"]
    run.log(11, {"nats": 2.0})
    assert [(line["step"], line["nats"]) for line in run.metrics()] == [(10, 1.0), (11, 2.0)]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, a disk without room")
def test_measurements_on_a_full_disk_stop_with_a_message(tmp_path):
    (tmp_path / "metrics.jsonl").symlink_to("/dev/full")
    with pytest.raises(OSError, match=r"cannot write .*metrics\.jsonl: No space left on device; free space and resume"):
        Run(tmp_path).log(1, {"nats": 1.0})


def test_a_state_of_another_model_is_refused(tiny_autoencoder):
    objective = likelihood(tiny_autoencoder)
    tensors = objective.state()
    tensors["model.decoder.logits.bias"] = torch.zeros(7)
    with pytest.raises(ValueError, match="the run's state is of another model"):
        objective.restore(tensors)


# --- the command


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

"""A recorded step is the step: the same losses and weights, whatever way the gradient is computed."""

import copy

import pytest
import torch
from tape import Tape

from wavenet_ae import notes
from wavenet_ae.training.objectives import Likelihood
from wavenet_ae.training.processes import ALONE, Group
from wavenet_ae.training.recording import WARM, CudaRecorder
from wavenet_ae.training.schedule import Steps

STEPS = 20


def batches(device="cpu", crop=32):
    die = torch.Generator().manual_seed(0)
    for _ in range(STEPS):
        wave = torch.rand(4, crop, generator=die) / 8
        yield notes.Batch(wave.to(device), torch.tensor([60, 0, 61, 60]), ["noise"] * 4)


def objective_of(model, recorder=None, *, autocast=None, fused=False, taught=None, **how):
    model = copy.deepcopy(model)
    optimizer, rate = torch.optim.Adam(model.parameters(), lr=1e-3, fused=fused), Steps(table={0: 3e-3}, warmup=0)
    usual = {"ema_decay": 0.9, "max_grad_norm": 0.2, "autocast": autocast, "skip": 0}
    objective = Likelihood(model, optimizer, rate, **usual, **(taught or {}))
    group = Group(0, 1, objective.device)
    objective.arrange(group, recorder=recorder, **{"accumulate": 1, "compiled": False, "recompute": False} | how)
    return objective


def learn(objective, **options):
    measured = []
    for step, batch in enumerate(batches(**options)):
        measured.append(objective.learn(batch, step))
        if step == STEPS // 2:
            objective.check(batch, step)
            measured.append(objective.measure(batch))
    return measured


@pytest.mark.parametrize(("accumulate", "autocast"), [(1, None), (2, None), (1, torch.bfloat16)])
def test_a_recorded_step_measures_and_learns_the_same_to_the_bit(tiny_autoencoder, accumulate, autocast):
    model, tape = tiny_autoencoder(torch.float32), Tape()
    plain = objective_of(model, autocast=autocast, accumulate=accumulate)
    recorded = objective_of(model, tape, autocast=autocast, accumulate=accumulate)
    expected = learn(plain)
    assert expected[-1]["nats"] < expected[0]["nats"] - 0.1, "it learns"
    assert expected[-1]["grad_norm"] > 0.2, "and gradients are shortened"
    assert learn(recorded) == expected
    ours, theirs = recorded.state(), plain.state()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert (tape.warmed, tape.recorded, tape.replayed) == (WARM, 1, STEPS - WARM)


def test_a_recorded_step_begins_anew_and_reads_pitches_too(tiny_autoencoder):
    model, tape = tiny_autoencoder(torch.float32, pitch_reading=True), Tape()
    taught = {"restart": 16, "pitch_weight": 0.5}
    expected = learn(objective_of(model, taught=taught))
    assert expected[-1]["pitch_nats"] < expected[0]["pitch_nats"] - 0.5, "it learns to"
    assert learn(objective_of(model, tape, taught=taught)) == expected
    assert tape.replayed


def test_a_recording_does_not_ask_for_a_number(tiny_autoencoder):
    tape = Tape()
    with pytest.raises(RuntimeError, match="not permitted"):
        tape.record(lambda: {"sum": torch.tensor(float(torch.ones(2).sum()))})
    objective = objective_of(tiny_autoencoder(torch.float32), tape)
    learn(objective)
    assert len(tape.operations) > 500, "all of a step, there and back"


def test_a_recording_that_goes_on_from_a_state_goes_on_exactly(tiny_autoencoder):
    model = tiny_autoencoder(torch.float32)
    whole, first, second = (objective_of(model, Tape()) for _ in range(3))
    expected = [whole.learn(batch, step) for step, batch in enumerate(batches())]
    found = []
    for step, batch in enumerate(batches()):
        if step == 7:
            second.restore({name: tensor.clone() for name, tensor in first.state().items()})
        found.append((first if step < 7 else second).learn(batch, step))
    assert found == expected


def test_a_step_that_asks_for_pitches_is_not_recorded(tiny_autoencoder):
    model = tiny_autoencoder(torch.float32, pitch_conditioning=True)
    with pytest.raises(ValueError, match="graph=true: expected one process without compile or recompute, and a WaveN"):
        objective_of(model, Tape())
    assert learn(objective_of(model)), "but it can be trained"
    with pytest.raises(ValueError, match="graph=true: expected one process without compile or recompute"):
        objective_of(tiny_autoencoder(torch.float32), Tape(), recompute=True)
    assert ALONE.count == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["graph=true", "device=cpu"], "graph=true: the device is cpu, and graphs are CUDA's; leave it out"),
        (["graph=perhaps"], "graph is 'perhaps': expected auto, true or false"),
        (["stretches=perhaps"], "stretches is 'perhaps': expected auto, true or false"),
    ],
)
def test_a_graph_that_cannot_be_is_one_message(command, corpus, arguments, message):
    done = command("train", "experiment=smoke", "run=run", f"notes.root={corpus}", *arguments)
    assert done.status == 1
    assert message in done.err


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(("accumulate", "autocast"), [(1, None), (2, None), (1, torch.bfloat16)])
def test_a_cuda_graph_has_the_losses_of_the_plain_step(tiny_autoencoder, accumulate, autocast):
    model, device = tiny_autoencoder(torch.float32).cuda(), torch.device("cuda", 0)
    how = {"accumulate": accumulate, "autocast": autocast, "fused": True}
    expected = learn(objective_of(model, **how), crop=1024)
    found = learn(objective_of(model, CudaRecorder(device), **how), crop=1024)
    assert expected[-1]["nats"] < expected[0]["nats"] - 0.1, "it learns"
    for ours, theirs in zip(found, expected, strict=True):
        assert ours == pytest.approx(theirs, abs=0.02 if autocast else 1e-3)

"""Every way to compute a step gives the same losses: in parts, recomputed, in 16 bits, by fused products."""

import copy
import shutil
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from test_resume import measured

from benchmarks.training import plain
from wavenet_ae import notes
from wavenet_ae.training.objectives import Likelihood
from wavenet_ae.training.processes import ALONE
from wavenet_ae.training.schedule import Steps

STEPS = 50


def batches():
    die = torch.Generator().manual_seed(0)
    for _ in range(STEPS):
        wave = torch.rand(4, 32, generator=die) / 8
        yield notes.Batch(wave, torch.full((4,), 60), ["noise"] * 4)


def objective_of(model, *, autocast=None, **how):
    model = copy.deepcopy(model)
    optimizer, rate = torch.optim.Adam(model.parameters(), lr=1e-3), Steps(table={0: 1e-3}, warmup=0)
    objective = Likelihood(model, optimizer, rate, ema_decay=0.9, max_grad_norm=1.0, autocast=autocast, skip=0)
    objective.arrange(ALONE, **how)
    return objective


def losses(model, **how):
    objective = objective_of(model, **how)
    return [objective.learn(batch, step)["nats"] for step, batch in enumerate(batches())]


@pytest.fixture(scope="module")
def model(tiny_autoencoder):
    return tiny_autoencoder(torch.float32)


@pytest.fixture(scope="module")
def expected(model):
    found = losses(model)
    assert found[-1] < found[0] - 0.3, "it learns"
    return found


@pytest.mark.parametrize(
    ("how", "rounding"),
    [
        ({"recompute": True}, 1e-6),
        ({"accumulate": 4}, 1e-4),
        ({"accumulate": 2, "recompute": True}, 1e-4),
        ({"autocast": torch.bfloat16}, 0.05),
    ],
    ids=str,
)
def test_every_variant_has_the_same_losses(model, expected, how, rounding):
    assert losses(model, **how) == pytest.approx(expected, abs=rounding)


@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a C++ compiler on a CPU")
def test_a_compiled_run_has_the_same_losses(tmp_path, corpus):
    asked = ["experiment=smoke", "model.encoder.layers=2", "model.decoder.layers=2", "crop=512", "batch=4"]
    asked += [f"steps={STEPS}", "listen_every=0", f"notes.root={corpus}"]
    runs = {"compiled": "compile=true", "plain": "compile=false"}
    for run, how in runs.items():
        command = [sys.executable, "-m", "wavenet_ae.train", *asked, how, f"run={run}"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
    compiled, plainly = ([line["nats"] for line in measured(tmp_path / run) if "nats" in line] for run in runs)
    assert len(plainly) == STEPS
    assert compiled == pytest.approx(plainly, abs=1e-4)


def test_in_16_bits_the_weights_and_the_loss_keep_32(model):
    objective, seen = objective_of(model, autocast=torch.bfloat16), []
    objective.model.decoder.blocks[1].register_forward_hook(lambda *passed: seen.append(passed[2][1].dtype))
    cost, _ = objective._cost(objective.model, next(batches()), 0)
    assert seen == [torch.bfloat16]
    assert {cost.dtype} | {parameter.dtype for parameter in objective.model.parameters()} == {torch.float32}


def test_the_fast_step_is_the_plain_one(tiny_autoencoder):
    """Outputs and every gradient, and no two gradients in one place: clipping would scale it twice."""
    model, code = tiny_autoencoder(torch.float64), torch.randint(256, (3, 32))
    wanted, found = plain(model, code), model(code)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-10)
    weights = list(model.parameters())
    gradients = torch.autograd.grad(F.cross_entropy(wanted, code), weights, allow_unused=True)
    F.cross_entropy(found, code).backward()
    for weight, gradient in zip(weights, gradients, strict=True):
        assert (weight.grad is None) == (gradient is None)
        if gradient is not None:
            torch.testing.assert_close(weight.grad, gradient, rtol=0, atol=1e-10)
    places = [weight.grad.data_ptr() for weight in weights if weight.grad is not None]
    assert len(places) == len(set(places))

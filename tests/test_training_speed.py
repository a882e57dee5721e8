"""Every way to compute a step gives the same losses: in parts, recomputed, in 16 bits, by fused products."""

import copy

import pytest
import torch
import torch.nn.functional as F

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


def objective_of(model, *, autocast=None, accumulate=1, recompute=False):
    model = copy.deepcopy(model)
    optimizer, rate = torch.optim.Adam(model.parameters(), lr=1e-3), Steps(table={0: 1e-3}, warmup=0)
    objective = Likelihood(model, optimizer, rate, ema_decay=0.9, max_grad_norm=1.0, autocast=autocast, skip=0)
    objective.arrange(ALONE, accumulate=accumulate, compiled=False, recompute=recompute)
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

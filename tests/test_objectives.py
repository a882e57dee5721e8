"""What is minimised, and what a step does with a gradient."""

import json
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from wavenet_ae import models, mulaw, notes
from wavenet_ae.command import CONF
from wavenet_ae.training.descent import Diverged
from wavenet_ae.training.objectives import Likelihood
from wavenet_ae.training.schedule import Steps

BOX = Path(__file__).parents[1] / "data" / "notes"


def settings(*overrides):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("train", overrides=list(overrides))


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


def test_a_state_of_another_model_is_refused(tiny_autoencoder):
    objective = likelihood(tiny_autoencoder)
    tensors = objective.state()
    tensors["model.decoder.logits.bias"] = torch.zeros(7)
    with pytest.raises(ValueError, match="the run's state is of another model"):
        objective.restore(tensors)

"""How fast to learn: the published rates, warm-up, and the average of the weights."""

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from torch import nn

from wavenet_ae.command import CONF
from wavenet_ae.training.schedule import MovingAverage, Steps


def settings(*overrides):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("train", overrides=list(overrides))


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

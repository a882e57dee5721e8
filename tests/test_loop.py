"""Everything at its own pace until the end, a signal or a divergence."""

import contextlib
import dataclasses
import math
import signal

import pytest
import torch
from test_objectives import batch

from wavenet_ae.training.clock import Clock, Plan
from wavenet_ae.training.descent import Diverged
from wavenet_ae.training.loop import Hooks, Loop
from wavenet_ae.training.run import Run


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

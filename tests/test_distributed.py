"""Several processes train as one: the same losses, one writer, nothing lost with one of them."""

import math
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from test_objectives import likelihood
from test_resume import last_step, measured

from wavenet_ae import checkpoint
from wavenet_ae.training.processes import Group

SETTINGS = ["experiment=smoke", "batch=4", "crop=512", "listen_every=0", "valid_batches=3", "threads=1", "run=run"]
QUIET = {**os.environ, "OMP_NUM_THREADS": "1"}


def train(folder, *arguments, **many):
    """Start training in so many processes."""
    return begun(folder, "-m", "wavenet_ae.train", *arguments, **many)


def begun(folder, *arguments, processes=1, restarts=0):
    """Start Python in so many processes; torchrun's own options only where it is needed."""
    python = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    start = [*python, f"--max-restarts={restarts}", "--monitor-interval=0.1"] if processes > 1 else [sys.executable]
    return subprocess.Popen(
        [*start, *arguments],
        cwd=folder,
        env=QUIET,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def finished(process):
    said, _ = process.communicate(timeout=240)
    assert process.returncode == 0, said
    return said


def values(run, key):
    return [line[key] for line in measured(run) if key in line]


def until(process, run, step):
    while last_step(run) < step or not list(run.glob("states/state-*.safetensors")):
        assert process.poll() is None, f"it ended by itself: {process.stdout.read()}"
        time.sleep(0.005)


def workers_of(process):
    """The processes that torchrun started, by number."""
    return [int(word) for word in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]


@pytest.fixture(scope="module")
def alone(tmp_path_factory, corpus):
    folder = tmp_path_factory.mktemp("alone")
    finished(train(folder, *SETTINGS, f"notes.root={corpus}", "steps=50"))
    return folder / "run"


def assert_same_learning(run, alone):
    """50 steps, each once, that cost the same; the same weights, averages and moments at their end."""
    assert [line["step"] for line in measured(run) if "nats" in line] == list(range(1, 51))
    assert values(run, "nats") == pytest.approx(values(alone, "nats"), abs=1e-5)
    assert values(run, "grad_norm") == pytest.approx(values(alone, "grad_norm"), rel=1e-3)
    ours = {line["step"]: line["valid_nats"] for line in measured(run) if "valid_nats" in line}
    theirs = {line["step"]: line["valid_nats"] for line in measured(alone) if "valid_nats" in line}
    assert all(ours[step] == pytest.approx(theirs[step], abs=1e-5) for step in (0, 10, 20, 30, 40, 50))
    for name in ("model.safetensors", "states/state-00000050.safetensors"):
        ours, theirs = load_file(run / name), load_file(alone / name)
        assert {key: tensor.shape for key, tensor in ours.items()} == {key: t.shape for key, t in theirs.items()}
        assert all(torch.allclose(ours[key].float(), theirs[key].float(), atol=1e-4) for key in ours)


def test_two_processes_learn_what_one_does_and_their_states_move_between_them(tmp_path, corpus, alone):
    """25 steps by two, 10 by one, 15 by two again: the same losses as 50 by one, and one line for each."""
    said = finished(train(tmp_path, *SETTINGS, f"notes.root={corpus}", "steps=25", processes=2))
    assert said.count("a new run in run") == 1, "the first speaks for all"
    finished(train(tmp_path, "resume=run", "steps=35"))
    finished(train(tmp_path, "resume=run", "steps=50", processes=2))
    assert_same_learning(tmp_path / "run", alone)


def test_shares_of_every_weight_learn_the_same_and_their_states_move_too(tmp_path, corpus, alone):
    """15 steps in shares, 10 by one process, 10 in shares again, 15 by two that hold all."""
    said = finished(train(tmp_path, *SETTINGS, f"notes.root={corpus}", "steps=15", "parallel=fsdp", processes=2))
    assert said.count("a new run in run: 25,904 parameters") == 1
    finished(train(tmp_path, "resume=run", "steps=25"))
    finished(train(tmp_path, "resume=run", "steps=35", processes=2))
    finished(train(tmp_path, "resume=run", "steps=50", "parallel=ddp", processes=2))
    assert_same_learning(tmp_path / "run", alone)


def test_shares_may_pass_in_parts_be_recomputed_and_are_heard(tmp_path, corpus, alone):
    ways = ["parallel=fsdp", "accumulate=2", "recompute=true", "listen_every=50", "listen=1", "listen_seconds=0.1"]
    finished(train(tmp_path, *SETTINGS, *ways, f"notes.root={corpus}", "steps=50", processes=2))
    assert_same_learning(tmp_path / "run", alone)
    assert len(list((tmp_path / "run" / "sounds").glob("*.step-00000050.wav"))) == 1


def test_a_decoder_that_begins_anew_and_pitches_that_are_read_cost_the_same_in_any_number_of_pieces(tmp_path, corpus):
    taught = ["crop=1024", "attacks=0.3", "restart=512", "pitch_weight=0.1", "model.pitch_reading=true", "steps=12"]
    pace = ["experiment=smoke", "batch=8", "listen_every=0", "valid_batches=2", "threads=1", "validate_every=4"]
    settings = [*pace, *taught, "keep_best=true", f"notes.root={corpus}"]
    said = finished(train(tmp_path, *settings, "run=alone"))
    finished(train(tmp_path, *settings, "run=shares", "parallel=fsdp", processes=2))
    finished(train(tmp_path, *settings, "run=parts", "accumulate=2", processes=2))
    for run in (tmp_path / "shares", tmp_path / "parts"):
        for name in ("nats", "pitch_nats", "valid_nats", "valid_pitch_nats"):
            assert values(run, name) == pytest.approx(values(tmp_path / "alone", name), abs=1e-5)
    assert values(tmp_path / "alone", "pitch_nats")[:1] == [pytest.approx(math.log(128), abs=0.5)], "it is asked"
    costs = values(tmp_path / "alone", "valid_nats")
    assert f"kept is the model of step {4 * costs.index(min(costs))}, {min(costs):.3f}" in said
    kept = [checkpoint.describe(tmp_path / run / "model.safetensors").step for run in ("alone", "shares", "parts")]
    assert kept == 3 * [4 * costs.index(min(costs))]


def test_what_reads_the_pitch_may_stand_idle(tmp_path, corpus):
    idle = [*SETTINGS, "model.pitch_reading=true", "steps=3", f"notes.root={corpus}"]
    finished(train(tmp_path, *idle, processes=2))
    assert len(values(tmp_path / "run", "nats")) == 3


HALVES = """
    import torch
    from hydra import compose, initialize_config_dir
    from wavenet_ae import notes, train
    from wavenet_ae.command import CONF
    from wavenet_ae.training import processes
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("train", ["experiment=smoke", "batch=2", "precision=fp32", "threads=1", "parallel=fsdp"])
    with processes.joined("cpu", "fsdp") as group:
        objective = train._objective(cfg, group)
        objective.learn(notes.Batch(torch.rand(1, 512), torch.tensor([60]), ["one"]), 0)
        def held(tensors):
            return sum(processes.own(tensor).numel() for tensor in tensors)
        moments = [v for s in objective.optimizer.state.values() for v in s.values() if v.dim()]
        counts = [held(objective.model.parameters()), held(w.grad for w in objective.weights if w.grad is not None)]
        counts += [held(moments), held(objective.average.weights), held(objective.average.model.parameters())]
        whole = sum(weight.numel() for weight in objective.model.parameters())
        said = group.gathered([count / whole for count in counts])
        if group.is_first:
            print("HELD", *sum(said, []))
    processes.leave()
"""


def test_each_process_holds_no_more_than_its_share(tmp_path):
    script = tmp_path / "halves.py"
    script.write_text(textwrap.dedent(HALVES))
    said = finished(begun(tmp_path, str(script), processes=2))
    shares = [float(word) for word in re.search(r"HELD (.*)", said)[1].split()]
    weights, gradients, moments, averages, pieces = zip(shares[:5], shares[5:], strict=True)
    assert sum(weights) == sum(averages) == 1
    assert all(0.4 < share < 0.6 for share in (*weights, *averages))
    assert all(0.3 < share < 0.6 for share in gradients), "the last residual has none"
    assert all(0.6 < share < 1.2 for share in moments), "two of each"
    assert set(pieces) == {0}, "what was assembled is let go"


def test_ways_to_be_spread_that_do_not_go_together_are_refused(command, corpus, tiny_autoencoder):
    done = command("train", *SETTINGS, f"notes.root={corpus}", "parallel=both")
    assert done.status == 1
    assert "parallel is 'both': expected one of ddp, fsdp" in done.err
    group = Group(0, 2, torch.device("cpu"), "fsdp")
    with pytest.raises(ValueError, match="compile=true and parallel=fsdp: expected one of the two"):
        likelihood(tiny_autoencoder).arrange(group, accumulate=1, compiled=True, recompute=False)


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_a_lost_worker_costs_what_came_after_the_last_state(tmp_path, corpus, alone, parallel):
    settings = [*SETTINGS, f"notes.root={corpus}", "steps=50", "checkpoint_every=5", f"parallel={parallel}"]
    process = train(tmp_path, *settings, processes=2, restarts=2)
    until(process, tmp_path / "run", 12)
    os.kill(workers_of(process)[-1], signal.SIGKILL)
    said = finished(process)
    assert re.search(r"going on from step \d+ in run", said)
    assert values(tmp_path / "run", "nats") == pytest.approx(values(alone, "nats"), abs=1e-5)


AGAIN = """
    import os, signal, time
    from wavenet_ae.training import processes
    if processes.restarted() and os.environ["RANK"] == "0":
        time.sleep(2)  # the other looks for it before it is there
    with processes.joined("cpu", "ddp") as group:
        group.wait()
        if not processes.restarted() and group.rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        said = group.gathered(group.rank)
        if group.is_first:
            print("TOGETHER", said)
"""


def test_who_starts_again_does_not_look_for_those_who_are_gone(tmp_path):
    """torchrun keeps its store, with the addresses of the processes before (pytorch/pytorch#135712)."""
    script = tmp_path / "again.py"
    script.write_text(textwrap.dedent(AGAIN))
    assert "TOGETHER [0, 1]" in finished(begun(tmp_path, str(script), processes=2, restarts=1))


def test_a_preempted_job_keeps_every_step(tmp_path, corpus):
    process = train(tmp_path, *SETTINGS, f"notes.root={corpus}", "steps=100000", processes=2)
    run = tmp_path / "run"
    until(process, run, 12)
    process.terminate()
    said, _ = process.communicate(timeout=30)  # what a scheduler grants before it kills
    assert "SIGTERM received after" in said
    states = sorted(path.stem for path in (run / "states").iterdir())
    last = last_step(run)
    assert states[-1] == f"state-{last:08d}"
    assert f"going on from step {last} in run" in finished(train(tmp_path, "resume=run", f"steps={last + 2}"))
    assert [line["step"] for line in measured(run) if "nats" in line] == list(range(1, last + 3)), "each step once"


def test_shares_are_a_batch_and_an_uneven_one_is_refused(command, corpus):
    first, second = (Group(rank, 2, torch.device("cpu")) for rank in (0, 1))
    assert (first.share(8), second.share(8)) == ((0, 4), (4, 8))
    with pytest.raises(ValueError, match="batch is 3: expected a multiple of the 2 processes that share it"):
        first.share(3)
    done = command("train", *SETTINGS, f"notes.root={corpus}", "batch=4", "accumulate=3")
    assert done.status == 1
    assert "batch is 4, in 3 parts in each of 1 processes: expected a multiple of 3" in done.err


def test_several_processes_need_a_run_with_a_name(command, corpus, monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    done = command("train", *SETTINGS[:-1], f"notes.root={corpus}")
    assert done.status == 1
    assert "name their run's folder by run=..." in done.err


@pytest.mark.parametrize("restarts", ["0", "1"])
def test_a_start_again_does_not_go_on_with_a_run_of_other_settings(command, corpus, monkeypatch, restarts):
    """Or torchrun would, after a first start was refused because the folder is another run's."""
    assert command("train", *SETTINGS, f"notes.root={corpus}", "steps=2").status == 0
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", restarts)
    done = command("train", *SETTINGS, f"notes.root={corpus}", "steps=2", "batch=2")
    assert done.status == 1
    assert "run exists already" in done.err
    done = command("train", *SETTINGS, f"notes.root={corpus}", "steps=2")
    assert done.status == 0, done.err
    assert "going on from step 2 in run" in done.out


@pytest.mark.parametrize("end", ["steps=6", "minutes=0.02"])
def test_a_queue_may_start_a_job_again_and_a_run_that_is_over_stays_as_it_is(tmp_path, corpus, end):
    asked = [*SETTINGS, f"notes.root={corpus}", end]
    finished(train(tmp_path, *asked, processes=2, restarts=3))
    before = (tmp_path / "run" / "metrics.jsonl").read_text(), load_file(tmp_path / "run" / "model.safetensors")
    said = finished(train(tmp_path, *asked, processes=2, restarts=3))
    step = last_step(tmp_path / "run")
    assert f"going on from step {step} in run" in said
    assert f"after {step} steps" in said
    assert "exists already" not in said
    after = (tmp_path / "run" / "metrics.jsonl").read_text(), load_file(tmp_path / "run" / "model.safetensors")
    assert after[0] == before[0]
    assert all(torch.equal(after[1][name], tensor) for name, tensor in before[1].items())


def test_a_job_that_was_preempted_goes_on_when_it_is_started_again(tmp_path, corpus):
    asked = [*SETTINGS, f"notes.root={corpus}", "steps=2000"]
    process = train(tmp_path, *asked, processes=2)
    until(process, tmp_path / "run", 12)
    process.terminate()
    process.communicate(timeout=30)
    last = last_step(tmp_path / "run")
    process = train(tmp_path, *asked, processes=2)
    until(process, tmp_path / "run", last + 12)
    process.terminate()
    said, _ = process.communicate(timeout=30)
    assert f"going on from step {last} in run" in said
    steps = [line["step"] for line in measured(tmp_path / "run") if "nats" in line]
    assert steps == list(range(1, len(steps) + 1)), "each step once"


def test_blocks_by_stretches_learn_the_same_in_two_processes(tmp_path, corpus):
    widths = [f"model.{each}=32" for each in ("encoder.width", "decoder.width", "decoder.skip_width")]
    asked = [*SETTINGS[:-1], *widths, "stretches=true", f"notes.root={corpus}", "steps=20"]
    finished(train(tmp_path, *asked, "run=alone"))
    finished(train(tmp_path, *asked, "run=two", processes=2))
    alone, two = (values(tmp_path / name, "nats") for name in ("alone", "two"))
    assert len(alone) == 20
    assert two == pytest.approx(alone, abs=1e-5)

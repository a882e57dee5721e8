"""Several processes train as one: the same losses, one writer, nothing lost with one of them."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from test_resume import last_step, measured

from wavenet_ae.training.processes import Group

SETTINGS = ["experiment=smoke", "batch=4", "crop=512", "listen_every=0", "valid_batches=3", "threads=1", "run=run"]
QUIET = {**os.environ, "OMP_NUM_THREADS": "1"}


def train(folder, *arguments, processes=1, restarts=0):
    """Start training in so many processes; torchrun's own options only where it is needed."""
    python = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    start = [*python, f"--max-restarts={restarts}", "--monitor-interval=0.1"] if processes > 1 else [sys.executable]
    return subprocess.Popen(
        [*start, "-m", "wavenet_ae.train", *arguments],
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


def test_two_processes_learn_what_one_does_and_their_states_move_between_them(tmp_path, corpus, alone):
    """25 steps by two, 10 by one, 15 by two again: the same losses as 50 by one, and one line for each."""
    said = finished(train(tmp_path, *SETTINGS, f"notes.root={corpus}", "steps=25", processes=2))
    assert said.count("a new run in run") == 1, "the first speaks for all"
    finished(train(tmp_path, "resume=run", "steps=35"))
    finished(train(tmp_path, "resume=run", "steps=50", processes=2))
    run = tmp_path / "run"
    assert [line["step"] for line in measured(run) if "nats" in line] == list(range(1, 51))
    assert values(run, "nats") == pytest.approx(values(alone, "nats"), abs=1e-5)
    ours = {line["step"]: line["valid_nats"] for line in measured(run) if "valid_nats" in line}
    theirs = {line["step"]: line["valid_nats"] for line in measured(alone) if "valid_nats" in line}
    assert all(ours[step] == pytest.approx(theirs[step], abs=1e-5) for step in (0, 10, 20, 30, 40, 50))


def test_a_lost_worker_costs_what_came_after_the_last_state(tmp_path, corpus, alone):
    settings = [*SETTINGS, f"notes.root={corpus}", "steps=50", "checkpoint_every=5"]
    process = train(tmp_path, *settings, processes=2, restarts=2)
    until(process, tmp_path / "run", 12)
    os.kill(workers_of(process)[-1], signal.SIGKILL)
    said = finished(process)
    assert re.search(r"going on from step \d+ in run", said)
    assert values(tmp_path / "run", "nats") == pytest.approx(values(alone, "nats"), abs=1e-5)


def test_a_preempted_job_keeps_every_step(tmp_path, corpus):
    process = train(tmp_path, *SETTINGS, f"notes.root={corpus}", "steps=100000", processes=2)
    run = tmp_path / "run"
    until(process, run, 12)
    process.terminate()
    said, _ = process.communicate(timeout=60)
    assert "SIGTERM received after" in said
    states = sorted(path.stem for path in (run / "states").iterdir())
    assert states[-1] == f"state-{last_step(run):08d}"


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


def test_a_start_again_does_not_go_on_with_a_run_of_other_settings(command, corpus, monkeypatch):
    """Or torchrun would, after a first start was refused because the folder is another run's."""
    assert command("train", *SETTINGS, f"notes.root={corpus}", "steps=2").status == 0
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    done = command("train", *SETTINGS, f"notes.root={corpus}", "steps=2", "batch=2")
    assert done.status == 1
    assert "run exists already" in done.err
    done = command("train", *SETTINGS, f"notes.root={corpus}", "steps=2")
    assert done.status == 0, done.err
    assert "going on from step 2 in run" in done.out

"""A run that was stopped, however rudely, goes on as if it had not been: same losses, same weights, to the bit."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from wavenet_ae.training.run import Run

STEPS = 100
SETTINGS = ["experiment=smoke", "batch=2", "crop=1024", f"steps={STEPS}", "checkpoint_every=5", "listen_every=0"]
CLOCK = ("seconds", "steps_per_s", "samples_per_s", "resident_mb")  # what two runs may differ in
ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1"}


def begin(folder, *arguments):
    """Start training in a process of its own."""
    command = [sys.executable, "-m", "wavenet_ae.train", *arguments]
    return subprocess.Popen(
        command, cwd=folder, env=ONE_THREAD, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def finish(process):
    """Wait for it; its status and what it said."""
    said, _ = process.communicate(timeout=300)
    return process.returncode, said


def last_step(run):
    path = run / "metrics.jsonl"
    lines = (
        [line for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")] if path.exists() else []
    )
    return json.loads(lines[-1])["step"] if lines else -1


def stop_at(process, run, step, number):
    """Send a signal once a step is logged and a state is kept; the process must still be running then."""
    while last_step(run) < step or not list(run.glob("states/state-*")):
        assert process.poll() is None, f"it ended by itself: {process.stdout.read()}"
        time.sleep(0.002)
    process.send_signal(number)
    return finish(process)


def measured(run):
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in CLOCK} for line in lines]


def assert_same_run(run, reference, but=()):
    assert measured(run) == measured(reference)
    for name in ("model.safetensors", f"states/state-{STEPS:08d}.safetensors"):
        ours, theirs = load_file(run / name), load_file(reference / name)
        assert ours.keys() == theirs.keys()
        different = [key for key in ours if key not in but and not torch.equal(ours[key], theirs[key])]
        assert not different, f"{name}: {different}"


@pytest.fixture(scope="module")
def reference(tmp_path_factory, corpus):
    """A run that nobody stopped."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    status, said = finish(begin(folder, *SETTINGS, f"notes.root={corpus}", "run=run"))
    assert status == 0, said
    lines = measured(folder / "run")
    assert [line["step"] for line in lines if "nats" in line] == list(range(1, STEPS + 1))
    assert len({line["nats"] for line in lines if "nats" in line}) == STEPS, "it learns: every step differs"
    return folder / "run"


@pytest.mark.parametrize("workers", [0, 2])
def test_a_killed_run_goes_on_exactly(tmp_path, corpus, reference, workers):
    step = random.randint(10, 40)  # wherever it stands then
    settings = [*SETTINGS, f"notes.root={corpus}", "run=run", f"workers={workers}"]
    status, _ = stop_at(begin(tmp_path, *settings), tmp_path / "run", step, signal.SIGKILL)
    assert status == -signal.SIGKILL, "it was finished before it could be killed"
    killed_at = last_step(tmp_path / "run")
    assert killed_at < STEPS
    status, said = finish(begin(tmp_path, "resume=run"))
    assert status == 0, said
    assert f"all steps done after {STEPS} steps" in said
    # torch's loader throws a die of its own when it starts workers; nothing else in training does
    assert_same_run(tmp_path / "run", reference, but=["rng.torch"] if workers else [])


def test_a_run_interrupted_politely_and_often_keeps_every_step_and_goes_on_exactly(tmp_path, corpus, reference):
    run, arguments = tmp_path / "run", [*SETTINGS, f"notes.root={corpus}", "run=run"]
    for number, at_least in ((signal.SIGINT, 13), (signal.SIGTERM, 41)):
        status, said = stop_at(begin(tmp_path, *arguments), run, at_least, number)
        assert status == 0, said
        assert f"{number.name} received after" in said
        states = sorted(path.name for path in (run / "states").iterdir())
        assert states[-1] == f"state-{last_step(run):08d}.safetensors", "nothing that was learnt is lost"
        assert "Traceback" not in said
        arguments = ["resume=run"]
    status, said = finish(begin(tmp_path, "resume=run"))
    assert status == 0, said
    assert_same_run(run, reference)


AGAIN = """
    import os, sys
    from pathlib import Path
    from wavenet_ae import train
    while True:
        child = os.fork()  # it has torch already: 20 starts of it would take minutes
        if child:
            print(child, flush=True)
            if os.waitpid(child, 0)[1] == 0:
                break
            continue
        is_begun = any(Path("run").glob("states/state-*.safetensors"))
        sys.argv = ["train", "resume=run"] if is_begun else ["train", *sys.argv[1:]]
        train.main()
        os._exit(0)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs fork")
def test_a_run_killed_twenty_times_at_random_moments_goes_on_exactly(tmp_path, corpus, reference):
    settings = [*SETTINGS, f"notes.root={corpus}", "run=run", "checkpoint_every=1"]
    begun = [sys.executable, "-c", textwrap.dedent(AGAIN), *settings]
    with open(tmp_path / "said", "w") as said:
        process = subprocess.Popen(begun, cwd=tmp_path, env=ONE_THREAD, text=True, stdout=subprocess.PIPE, stderr=said)
    run, killed_at = tmp_path / "run", []
    for number in range(20):
        child = int(next(line for line in process.stdout if line.strip().isdigit()))
        while not (states := Run(run).states()) or (killed_at and states[-1] <= killed_at[-1]):
            assert process.poll() is None, (tmp_path / "said").read_text()
            time.sleep(0.002)
        time.sleep(random.uniform(0, 0.05))
        while number % 2 and last_step(run) <= Run(run).states()[-1]:  # half of them with a step measured but not kept
            assert process.poll() is None, (tmp_path / "said").read_text()
        os.kill(child, signal.SIGKILL)
        killed_at.append(states[-1])
    process.communicate(timeout=120)
    assert process.returncode == 0, (tmp_path / "said").read_text()
    assert killed_at[-1] < STEPS
    assert_same_run(run, reference)


def test_an_earlier_state_leads_to_the_same_end(tmp_path, reference):
    """Resumed from the state before the last, as after damage; and a finished run can be told to go further."""
    run = tmp_path / "run"
    for path in reference.rglob("*"):
        if path.is_file() and "tfevents" not in path.name:
            (run / path.relative_to(reference)).parent.mkdir(parents=True, exist_ok=True)
            (run / path.relative_to(reference)).write_bytes(path.read_bytes())
    status, said = finish(begin(tmp_path, "resume=run", f"resume_step={STEPS - 5}"))
    assert status == 0, said
    assert_same_run(run, reference)
    assert (run / "states" / f"state-{STEPS:08d}.set-aside").exists()
    status, said = finish(begin(tmp_path, "resume=run", f"steps={STEPS + 5}"))
    assert status == 0, said
    assert f"going on from step {STEPS}" in said
    assert last_step(run) == STEPS + 5
    assert Path(run / "states" / f"state-{STEPS + 5:08d}.safetensors").exists()


def test_a_run_goes_on_with_the_notes_it_was_begun_with_wherever_they_are_now(command, corpus, tmp_path):
    settings = ["experiment=smoke", "run=run", "steps=3", "listen_every=0", f"notes.root={corpus}"]
    assert command("train", *settings).status == 0
    shutil.copytree(corpus, tmp_path / "moved")
    done = command("train", "resume=run", "steps=4", f"notes.root={tmp_path / 'moved'}")
    assert done.status == 0, done.err
    table = tmp_path / "moved" / "train" / "examples.json"
    entries = json.loads(table.read_text())
    del entries[min(entries)]
    table.write_text(json.dumps(entries))
    done = command("train", "resume=run", "steps=5", f"notes.root={tmp_path / 'moved'}")
    assert done.status == 1
    assert "holds other notes than run was begun with (5 to learn, 3 held out now)" in done.err


def test_a_folder_is_trained_in_by_one_process_at_a_time(command, corpus, tmp_path):
    process = begin(tmp_path, *SETTINGS, f"notes.root={corpus}", "run=run", "steps=100000")
    while not list(tmp_path.glob("run/states/*.safetensors")):
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.05)
    done = command("train", "resume=run")
    process.terminate()
    finish(process)
    assert done.status == 1
    assert "another process is training in run: wait for it or stop it" in done.err

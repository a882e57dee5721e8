"""Several runs by one command, and runs begun at the same moment: each has a folder of its own."""

import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from omegaconf import OmegaConf

from wavenet_ae import checkpoint, files

SMOKE = ["experiment=smoke", "steps=2", "listen_every=0", "validate_every=0", "threads=1"]


def start(folder, *arguments):
    """Train in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "wavenet_ae.train", *arguments],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def runs(folder):
    return sorted(path.parent for path in folder.glob("runs/*/config.yaml"))


def test_a_sweep_makes_a_whole_run_of_each_choice(tmp_path, corpus):
    sweep = ["-m", *SMOKE, f"notes.root={corpus}", "model.decoder.width=16,20", "seed=0,1"]
    said, _ = (process := start(tmp_path, *sweep)).communicate(timeout=240)
    assert process.returncode == 0, said
    found = {}
    for run in runs(tmp_path):
        cfg = OmegaConf.load(run / "config.yaml")
        assert str(tmp_path / cfg.run) == str(run)
        model = checkpoint.load(run / "model.safetensors")
        assert model.decoder.start.weight.shape[0] == cfg.model.decoder.width
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        assert [line["step"] for line in lines] == [1, 2]
        assert len(list(run.glob("events.out.tfevents.*"))) == 1
        found[cfg.model.decoder.width, cfg.seed] = lines[-1]["nats"]
    assert set(found) == {(16, 0), (16, 1), (20, 0), (20, 1)}
    assert len(set(found.values())) == 4
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {"sweeps", *(run.name for run in runs(tmp_path))}
    assert [path.name for path in tmp_path.iterdir()] == ["runs"], "nothing is written beside the runs"


def test_one_that_fails_does_not_cost_those_after_it(command, corpus):
    done = command("train", "-m", *SMOKE, f"notes.root={corpus}", "crop=1000,512", "run=runs/${crop}")
    assert done.status == 1
    assert "train: crop is 1000: expected a multiple of the model's hop" in done.err
    assert "train: 1 of the runs failed: " in done.err
    assert "crop=1000 run=" in done.err
    assert [path.name for path in runs(Path())] == ["512"]
    assert (Path("runs/512") / "model.safetensors").exists()


def test_an_interrupt_ends_all_of_a_sweep(tmp_path, corpus):
    process = start(tmp_path, "-m", *SMOKE, f"notes.root={corpus}", "steps=100000", "seed=0,1", "checkpoint_every=1")
    end = time.monotonic() + 120
    while not list(tmp_path.glob("runs/*/states/state-*.safetensors")):
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < end
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "SIGINT received after" in said
    assert "train: interrupted; what was finished is kept" in said
    assert len(runs(tmp_path)) == 1, "the second was not begun"


def test_runs_begun_in_the_same_second_do_not_meet(command, tmp_path, corpus, monkeypatch):
    """The clock stands still for these; the third finds two folders that are taken."""
    sitecustomize = tmp_path / "sitecustomize.py"
    sitecustomize.write_text(STILL)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    together = [start(tmp_path, *SMOKE, f"notes.root={corpus}", f"seed={seed}") for seed in range(2)]
    for process in together:
        said, _ = process.communicate(timeout=240)
        assert process.returncode == 0, said
    third = start(tmp_path, "-m", *SMOKE, f"notes.root={corpus}", "seed=2,3")
    said, _ = third.communicate(timeout=240)
    assert third.returncode == 0, said
    name = "smoke-2026-01-01_00-00-00"
    assert {run.name for run in runs(tmp_path)} == {name, f"{name}-2", f"{name}-3", f"{name}-4"}
    assert {OmegaConf.load(run / "config.yaml").seed for run in runs(tmp_path)} == {0, 1, 2, 3}
    assert all(OmegaConf.load(run / "config.yaml").run == f"runs/{run.name}" for run in runs(tmp_path))
    named = command("train", *SMOKE, f"notes.root={corpus}", f"run=runs/{name}")
    assert named.status == 1, "a name that somebody gave is taken as it is"
    assert f"runs/{name} exists already" in named.err


STILL = """
import sys
if "wavenet_ae.train" in sys.orig_argv:
    from datetime import datetime
    from hydra.core import utils
    class Still:
        now = staticmethod(lambda: datetime(2026, 1, 1))
    utils.datetime = Still
"""


def test_an_unused_folder_is_one_asker_s_alone(tmp_path):
    with ThreadPoolExecutor(16) as pool:
        given = list(pool.map(lambda _: files.unused(tmp_path / "runs" / "a"), range(50)))
    assert len(set(given)) == 50
    assert all(Path(path).is_dir() for path in given)
    assert str(tmp_path / "runs" / "a-50") in given


def test_help_shows_how_to_sweep(command):
    said = command("train", "--help").out
    assert "python -m wavenet_ae.train -m experiment=smoke batch=2,4 seed=0,1" in said
    assert "each in a folder of its own" in said

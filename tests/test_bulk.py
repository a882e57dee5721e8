"""prepare, encode and generate with their work shared out: the same files as from one process, whatever happens."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from test_commands import save_model
from test_prepare import contents

from wavenet_ae import audio

QUIET = {**os.environ, "OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0"}
MODEL = ("checkpoint=model.safetensors", "input=in", "out={}")
COMMANDS = {
    "prepare.__main__": ("source=folder", "source.input=in", "source.pattern=INSTRUMENT-PITCH", "out={}"),
    "encode": MODEL,
    "generate": (*MODEL, "batch=2"),
}
MANY = {"prepare.__main__": 240, "encode": 240, "generate": 60}  # sounds: there is time to kill who works on them


@pytest.fixture(params=[2, "ray"])
def several(request):
    """What shares the work: two processes here, or a cluster."""
    return request.getfixturevalue("ray") and "ray" if request.param == "ray" else request.param


@pytest.fixture
def here(command, tmp_path):
    """A folder with a model, and with sounds in `in`: two notes each of five instruments, and a file that is none."""
    save_model(tmp_path / "model.safetensors")
    sounds(10)
    Path("in/tone9-70.wav").write_text("no sound at all")
    return tmp_path


def sounds(count):
    for number in range(count):
        torch.manual_seed(number)
        audio.write(f"in/tone{number // 2}-{60 + number % 60}.wav", torch.rand(2000 + 30 * number) * 0.5)


def arguments(verb, out, *more):
    return [*(each.format(out) for each in COMMANDS[verb]), *more]


def start(verb, *given, **environment):
    """A command as a user starts it, in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", f"wavenet_ae.{verb.removesuffix('.__main__')}", *given],
        env=QUIET | environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def processes_of(ancestor, name):
    """The processes below one whose command line holds a name, by number."""
    parents, found = {}, []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if name in (folder / "cmdline").read_text():
                found.append(int(folder.name))
        except OSError:
            continue  # it ended meanwhile

    def below(pid):
        return pid == ancestor or (pid in parents and below(parents[pid]))

    return [pid for pid in found if pid != ancestor and below(pid)]


def killed_midway(process, name, out):
    """Kill all the processes that share the work, once some of it is done: one at least had begun with more of it."""
    end = time.monotonic() + 120
    while len(list(Path(out).rglob("*-*.*"))) < 3:
        assert process.poll() is None, f"it ended by itself: {process.stdout.read()}"
        assert time.monotonic() < end
        time.sleep(0.005)
    process.send_signal(signal.SIGSTOP)  # or the work may be done before they are found
    for victim in processes_of(process.pid, name):
        os.kill(victim, signal.SIGKILL)
    process.send_signal(signal.SIGCONT)


@pytest.mark.parametrize("verb", COMMANDS)
def test_several_make_what_one_makes(here, command, verb, several):
    alone = command(verb, *arguments(verb, "alone"))
    shared = command(verb, *arguments(verb, "shared", f"workers={several}"))
    assert (alone.status, shared.status) == (1, 1), "there is a bad file among them"
    for done in (alone, shared):
        assert "tone9-70.wav cannot be read as audio: Format not recognised" in done.err
    made = contents(Path("shared"))
    assert len(made) >= 10
    assert made == contents(Path("alone"))
    Path("in/tone9-70.wav").unlink()
    again = command(verb, *arguments(verb, "shared", f"workers={several}"))
    assert again.status == 0, again.err
    assert contents(Path("shared")).items() >= {n: d for n, d in made.items() if n != "prepare.json"}.items()


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds processes by /proc")
@pytest.mark.parametrize("verb", COMMANDS)
@pytest.mark.parametrize("crew", [2, "ray"])
def test_a_worker_killed_midway_loses_nothing(command, tmp_path, verb, crew, request):
    if crew == "ray":
        request.getfixturevalue("ray")  # or it is skipped
    save_model(tmp_path / "model.safetensors")
    sounds(MANY[verb])
    process = start(verb, *arguments(verb, "shared", f"workers={crew}"))
    killed_midway(process, "ray::Servant" if crew == "ray" else "spawn_main", "shared")
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 0, said
    assert "what it did is done again" in said
    assert command(verb, *arguments(verb, "alone")).status == 0
    made = contents(Path("shared"))
    assert {name: digest for name, digest in made.items() if ".partial" not in name} == contents(Path("alone"))


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds processes by /proc")
@pytest.mark.parametrize("verb", COMMANDS)
def test_a_command_killed_midway_goes_on_where_it_was(command, tmp_path, verb):
    save_model(tmp_path / "model.safetensors")
    sounds(MANY[verb])
    process = start(verb, *arguments(verb, "shared", "workers=2"))
    end = time.monotonic() + 120
    while len(list(Path("shared").rglob("*-*.*"))) < 20:
        assert process.poll() is None, f"it ended by itself: {process.stdout.read()}"
        assert time.monotonic() < end
        time.sleep(0.005)
    crew = processes_of(process.pid, "spawn_main")
    process.kill()
    process.communicate()
    assert crew
    while any(Path(f"/proc/{pid}").exists() for pid in crew):
        assert time.monotonic() < end, "nobody is left behind"
        time.sleep(0.01)
    before = {path: path.stat().st_mtime_ns for path in Path("shared").rglob("*-*.*") if ".partial" not in path.name}
    assert len(before) < 240
    again = command(verb, *arguments(verb, "shared", "workers=2"))
    assert again.status == 0, again.err
    kept = sum(path.exists() and path.stat().st_mtime_ns == changed for path, changed in before.items())
    moved = verb.startswith("prepare")  # into their places
    assert moved or kept == len(before)
    assert command(verb, *arguments(verb, "alone")).status == 0
    made = contents(Path("shared"))
    assert {name: digest for name, digest in made.items() if ".partial" not in name} == contents(Path("alone"))


def test_an_interrupt_is_heard_and_leaves_nobody(command, tmp_path):
    save_model(tmp_path / "model.safetensors")
    sounds(240)
    process = start("encode", *arguments("encode", "shared", "workers=2"))
    while len(list(Path("shared").rglob("*.npz"))) < 5:
        assert process.poll() is None, f"it ended by itself: {process.stdout.read()}"
        time.sleep(0.005)
    crew = processes_of(process.pid, "spawn_main")
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted; what was finished is kept" in said
    assert "Traceback" not in said
    assert not any(Path(f"/proc/{pid}").exists() for pid in crew)
    assert not list(tmp_path.rglob(".*partial*"))


def test_a_sound_that_kills_is_named_and_costs_its_neighbours_nothing(here, command, monkeypatch):
    """A process that makes a certain sound is killed, as by the system when memory runs out."""
    Path("in/tone9-70.wav").unlink()
    Path("sitecustomize.py").write_text(DEADLY)
    monkeypatch.setenv("PYTHONPATH", str(here))
    done = command("generate", *arguments("generate", "shared", "workers=2", "batch=4"))
    assert done.status == 1
    assert "1 of 10 inputs failed" in done.err
    assert "in/tone2-64.wav: the process that worked on it was lost 3 times, at last: it ended by SIGKILL" in done.err
    assert len(list(Path("shared").iterdir())) == 9


DEADLY = """
import os, signal, sys
if "spawn_main" in " ".join(sys.orig_argv):
    from wavenet_ae import embeddings
    obtain = embeddings.obtain
    def deadly(model, fingerprint, path, otherwise):
        if path.name == "tone2-64.wav":
            os.kill(os.getpid(), signal.SIGKILL)
        return obtain(model, fingerprint, path, otherwise=otherwise)
    embeddings.obtain = deadly
"""


def test_a_cluster_that_is_there_is_used(here, command, ray):
    Path("in/tone9-70.wav").unlink()
    address = ray.get_runtime_context().gcs_address
    known = {name: value for name, value in os.environ.items() if name == "RAY_AUTH_MODE"}  # as Ray itself set it
    process = start("encode", *arguments("encode", "shared", "workers=ray"), **known, RAY_ADDRESS=address)
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 0, said
    assert len(list(Path("shared").iterdir())) == 10
    process = start("encode", *arguments("encode", "other", "workers=ray"), RAY_ADDRESS="127.0.0.1:1")
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "no Ray cluster at RAY_ADDRESS=127.0.0.1:1" in said


@pytest.mark.parametrize("verb", COMMANDS)
def test_workers_that_cannot_be_had_are_one_message(here, command, verb):
    done = command(verb, *arguments(verb, "out", "workers=-2"))
    assert done.status == 1
    assert "workers is -2: expected 0 (this process alone), a number of processes, or ray" in done.err
    assert not Path("out").exists()


@pytest.mark.parametrize("verb", COMMANDS)
def test_without_ray_each_command_says_how_to_get_it_before_any_work(here, command, verb, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)  # as if it were not installed
    done = command(verb, *arguments(verb, "out", "workers=ray"))
    assert done.status == 1
    name = verb.removesuffix(".__main__")
    assert done.err == f"{name}: workers=ray, but Ray is not installed: pip install 'wavenet_ae[ray]'\n"
    assert not Path("out").exists()


def test_devices_and_workers_are_two_ways_to_share(here, command):
    done = command("generate", *arguments("generate", "out", "workers=2", "devices=cpu"))
    assert done.status == 1
    assert "devices and workers=2: expected one of the two to share the sounds" in done.err

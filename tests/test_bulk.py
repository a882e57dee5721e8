"""prepare, encode and generate with their work shared out: the same files as from one process, whatever happens."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from test_commands import save_model
from test_prepare import contents

from wavenet_ae import audio, embeddings, notes

QUIET = {**os.environ, "OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0"}


@pytest.fixture(params=[2, "ray"])
def several(request):
    """What shares the work: two processes here, or a cluster."""
    return request.getfixturevalue("ray") and "ray" if request.param == "ray" else request.param


@pytest.fixture
def here(command, tmp_path):
    """A folder with a model, ten sounds of a fraction of a second in `in`, of which one is none, and a recording."""
    save_model(tmp_path / "model.safetensors")
    for number in range(10):
        torch.manual_seed(number)
        audio.write(tmp_path / "in" / f"tone{number // 2}-{60 + number}.wav", torch.rand(700 + 300 * number) * 0.5)
    (tmp_path / "in" / "tone9-70.wav").write_text("no sound at all")
    return tmp_path


def start(*arguments):
    """A command as a user starts it, in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", *arguments], env=QUIET, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def children(process):
    """The processes that one has started to share its work, by number."""
    found = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return [int(pid) for pid in found if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def until(process, ready):
    end = time.monotonic() + 60
    while not ready():
        assert process.poll() is None, f"it ended by itself: {process.stdout.read()}"
        assert time.monotonic() < end
        time.sleep(0.01)


MODEL = ("checkpoint=model.safetensors", "input=in", "out={}")
COMMANDS = {
    "prepare.__main__": ("source=folder", "source.input=in", "source.pattern=INSTRUMENT-PITCH", "format=wav", "out={}"),
    "encode": MODEL,
    "generate": (*MODEL, "batch=2"),
}


@pytest.mark.parametrize("verb", COMMANDS)
def test_several_make_what_one_makes(here, command, verb, several):
    asked = COMMANDS[verb]
    alone = command(verb, *[each.format("alone") for each in asked])
    shared = command(verb, *[each.format("shared") for each in asked], f"workers={several}")
    assert (alone.status, shared.status) == (1, 1), "there is a bad file among them"
    for done in (alone, shared):
        assert "tone9-70.wav cannot be read as audio: Format not recognised" in done.err
    assert len(contents(Path("alone"))) > 9
    made = contents(Path("shared"))
    assert made == contents(Path("alone"))
    Path("in/tone9-70.wav").unlink()
    again = command(verb, *[each.format("shared") for each in asked], f"workers={several}")
    assert again.status == 0, again.err
    assert contents(Path("shared")).items() >= {n: d for n, d in made.items() if n != "prepare.json"}.items()

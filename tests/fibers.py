"""A stand-in for a GPU: a kernel's own source, compiled for this CPU, on fibers (see cuda_on_cpu/fibers.hpp)."""

import atexit
import ctypes
import functools
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import NamedTuple

import torch

from wavenet_ae.sampler.cuda import compiling

HERE = Path(__file__).parent / "cuda_on_cpu"
COMPILER = shutil.which("g++") or shutil.which("clang++")
MOST_TURNS = 20_000_000  # of all fibers in a launch: twice as many as any here takes, some ten seconds
PATIENCE = {"MOST_TRIES": 4096}
OPTIONS = ["-std=c++17", "-Og", "-w", "-fPIC", "-ffp-contract=off", "-fno-strict-aliasing", "-U_FORTIFY_SOURCE"]


class Fibers:
    """A machine of so many blocks; every launch follows a schedule of its own, by the seed.

    The kernel may be compiled with `changed` constants and edits of its source.
    """

    def __init__(self, blocks=3, shared=100_000, *, seed=0, edit=(), changed=None, most_turns=MOST_TURNS):
        self.device, self.blocks, self.shared = torch.device("cpu"), blocks, shared
        self.seed, self.edit, self.changed, self.most_turns = seed, edit, changed or {}, most_turns

    def load(self, plan):
        library = build(plan.kernel, tuple(sorted((plan.constants | PATIENCE | self.changed).items())), self.edit)

        def launch(call):
            self.seed += 1
            sizes = plan.grid, plan.cluster or 1, plan.shared_bytes
            done = library.run(call, *sizes, self.seed, ctypes.c_long(self.most_turns))
            assert done, "fibers were left behind, or did what a GPU does not forgive"

        return launch

    def together(self, plan):
        return self.blocks // plan.cluster


class Found(NamedTuple):
    """What the kernel says of a layer and a sample."""

    window: int  # samples that are remembered together
    until_due: int  # 0: its window is full
    slot: int  # of the sums of past taps, of all layers
    box: int  # of the layer's mail
    turn: int


def finder(plan):
    """A function of layer and sample, out of the kernel's source."""
    library = build(plan.kernel, tuple(sorted(plan.constants.items())))

    def find(layer, t):
        found = (ctypes.c_int * len(Found._fields))()
        library.find(layer, ctypes.c_longlong(t), found)
        return Found(*found)

    return find


@functools.cache
def build(kernel, constants, edit=()):
    """A kernel for some sizes as a shared library; `edit` is (file, what stands there, what to put instead), each."""
    texts = compiling.sources(kernel)
    for name, old, new in edit:
        assert old in texts[name], f"{name} no longer says {old!r}"
        texts[name] = texts[name].replace(old, new, 1)
    defines = [f"#define {name} {value}\n" for name, value in constants]
    folder = Path(tempfile.mkdtemp(dir=harness()))
    for name, text in (texts | {"constants.h": "".join(defines)}).items():
        (folder / name).write_text(text)
    which = [f'-DKERNEL="{kernel}"', f"-I{folder}"]
    run(*OPTIONS, "-shared", *which, str(harness() / "run.cpp"), "-o", str(folder / "kernel.so"))
    return ctypes.CDLL(str(folder / "kernel.so"))


@functools.cache
def harness():
    """A folder with the fibers, compiled ahead as far as they are the same for every kernel; removed at the end."""
    folder = Path(tempfile.mkdtemp(prefix="cuda_on_cpu_"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    shutil.copytree(HERE, folder, dirs_exist_ok=True)
    run(*OPTIONS, "-x", "c++-header", str(folder / "fibers.hpp"), "-o", str(folder / "fibers.hpp.gch"))
    return folder


def run(*arguments):
    done = subprocess.run([COMPILER, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr

"""A stand-in for a GPU: the kernel's own source, compiled for this CPU, on fibers (see cuda_on_cpu/fibers.hpp)."""

import ctypes
import functools
import hashlib
import shutil
import subprocess
import tempfile
from pathlib import Path

import torch

from wavenet_ae.sampler.cuda import compiling

HERE = Path(__file__).parent / "cuda_on_cpu"
COMPILER = shutil.which("g++") or shutil.which("clang++")
BUILT = Path(tempfile.mkdtemp(prefix="cuda_on_cpu_"))


class Fibers:
    """A machine of so many blocks with 2 warps each; every launch follows a schedule of its own, by the seed."""

    def __init__(self, blocks=3, shared=100_000, seed=0, threads=64, edit=None, resident=None):
        self.device, self.blocks, self.shared = torch.device("cpu"), blocks, shared
        self.seed, self.threads, self.edit, self.resident = seed, threads, edit, resident

    def load(self, plan):
        constants = plan.constants | {"THREADS": self.threads, "MOST_TRIES": 20_000}
        library = build(tuple(sorted(constants.items())), self.edit)

        def launch(call):
            self.seed += 1
            assert library.run(call, plan.blocks, plan.shared_bytes, self.seed), "fibers were left behind"

        return launch


@functools.cache
def build(constants, edit=None):
    """The kernel for some sizes as a shared library; `edit` is (file, what stands there, what to put instead)."""
    texts = compiling.sources()
    if edit:
        name, old, new = edit
        assert old in texts[name], f"{name} no longer says {old!r}"
        texts[name] = texts[name].replace(old, new, 1)
    folder = BUILT / hashlib.sha256(repr((constants, edit)).encode()).hexdigest()[:16]
    folder.mkdir()
    for name, text in texts.items():
        (folder / name).write_text(text)
    options = [
        "-std=c++17",
        "-O1",
        "-fPIC",
        "-shared",
        "-ffp-contract=off",
        "-fno-strict-aliasing",
        "-U_FORTIFY_SOURCE",
    ]
    defines = [f"-D{name}={value}" for name, value in constants]
    paths = [f"-I{folder}", f"-I{HERE}", str(HERE / "run.cpp"), "-o", str(folder / "kernel.so")]
    subprocess.run([COMPILER, "-w", *options, *defines, *paths], check=True, capture_output=True, text=True)
    return ctypes.CDLL(str(folder / "kernel.so"))

"""The kernels compiled for real GPUs, without one: registers, stack, and a cache that notices every change."""

import itertools
import re

import pytest
import torch

from wavenet_ae.models.wavenet import Decoder
from wavenet_ae.sampler import clusters
from wavenet_ae.sampler.cuda import compiling, layout

pytestmark = pytest.mark.skipif(compiling.unavailable() is not None, reason="needs NVRTC (pip install cuda-bindings)")

KB = 1024
KERNEL = "voices.cu"
GPUS = {  # multiprocessors, and the shared memory that a block may have on one
    "sm_80": {"blocks": 108, "shared": 163 * KB},  # A100
    "sm_90a": {"blocks": 132, "shared": 227 * KB},  # H100, H200
    "sm_100a": {"blocks": 148, "shared": 227 * KB},  # B200
}
REGISTERS = 65_536  # of a multiprocessor
MOST_SPILLED = {(512, 1): 64, (512, 8): 128, (1024, 1): 704, (1024, 8): 1792}  # bytes, by width and voices
PUBLISHED = [(512, *variant) for variant in itertools.product(GPUS, (1, 8), layout.BYTES)]
WIDE = [
    (1024, "sm_80", 1, "int8"),
    (1024, "sm_80", 8, "int8"),
    (1024, "sm_90a", 1, "fp32"),
    (1024, "sm_90a", 8, "bf16"),
]


CHOIRS = [  # sm_90a and its like: width, voices of each of eight choirs, precision, bytes spilled at most
    *[(512, 1, precision, 64) for precision in layout.BYTES],
    *[(512, 8, precision, 64) for precision in ("fp16", "bf16")],
    (512, 32, "fp16", 64),
    (512, 32, "int8", 384),
    (512, 40, "fp16", 384),
    (1024, 8, "fp16", 320),
]


def planned(voices=1, precision="bf16", width=512, layers=30, gpu="sm_90a"):
    return layout.plan(decoder_of(width, layers), voices, precision=precision, **GPUS[gpu])


def decoder_of(width, layers=30):
    with torch.device("meta"):
        sizes = {"width": width, "skip_width": width // 2, "layers": layers, "stages": 10}
        return Decoder(**sizes, kernel_size=3, embedding_dims=16, hop=512)


def constants(**sizes):
    return planned(**sizes).constants


def is_compiled_for(architecture):
    from cuda.bindings import nvrtc

    error, known = nvrtc.nvrtcGetSupportedArchs()
    assert not error
    return int(re.search(r"\d+", architecture)[0]) in known


@pytest.fixture
def cached(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "wavenet_ae" / "kernels"


class Needs:
    """What kernels need of a GPU, a line each, after the tests."""

    def __init__(self):
        self.lines = []

    def pytest_terminal_summary(self, terminalreporter):
        terminalreporter.section("what the kernel needs of a GPU")
        for line in self.lines:
            terminalreporter.write_line(line)


@pytest.fixture(scope="module")
def needs(request):
    needs = Needs()
    request.config.pluginmanager.register(needs)
    return needs.lines


@pytest.mark.parametrize(("width", "architecture", "voices", "precision"), PUBLISHED + WIDE)
def test_the_kernel_compiles_for_gpus_that_are_not_here(cached, needs, width, architecture, voices, precision):
    if not is_compiled_for(architecture):
        pytest.skip(f"this NVRTC does not know {architecture}")
    plan = planned(voices, precision, width, gpu=architecture)
    spilled = compiles(plan, architecture, needs, f"voices {voices} {precision}, {plan.resident} layers resident")
    assert spilled <= MOST_SPILLED[width, voices]


@pytest.mark.parametrize("architecture", ["sm_90a", "sm_100a"])
@pytest.mark.parametrize(("width", "voices", "precision", "most"), CHOIRS)
def test_the_kernel_of_choirs_compiles_too(cached, needs, architecture, width, voices, precision, most):
    if not is_compiled_for(architecture):
        pytest.skip(f"this NVRTC does not know {architecture}")
    decoder, shared = decoder_of(width), GPUS[architecture]["shared"]
    plan = clusters.layout.plan(decoder, 8 * voices, precision=precision, together=8, shared=shared, voices=voices)
    assert (plan.choirs, plan.voices) == (8, voices)
    what = f"8 choirs of {voices} voices {precision}, {plan.pieces} pieces of {plan.piece / KB:.0f} KB"
    assert compiles(plan, architecture, needs, what) <= most


def compiles(plan, architecture, needs, what):
    """Bytes spilled by a kernel that fits the GPU."""
    made = compiling.compiled(plan.kernel, plan.constants, architecture)
    assert made.cubin.startswith(b"\x7fELF")
    assert f"'speak' for '{architecture}'" in made.report
    registers = int(re.search(r"Used (\d+) registers", made.report)[1])
    spilled = int(re.search(r"(\d+) bytes spill stores", made.report)[1])
    needs.append(
        f"{architecture:7} width {plan.width:4} {what}: {plan.threads} threads of {registers} registers, "
        f"{plan.shared_bytes / KB:.0f} KB shared, {spilled} bytes spilled"
    )
    assert plan.shared_bytes <= GPUS[architecture]["shared"]
    assert -(-registers // 8) * 8 * plan.threads <= REGISTERS, "a block fits a multiprocessor"
    return spilled


@pytest.mark.parametrize("part", ["WAITS", "MULTIPLIES"])
@pytest.mark.parametrize("layout_of", [layout.plan, clusters.layout.plan], ids=["voices", "choirs"])
def test_a_kernel_compiles_without_a_part_of_it_to_measure_the_rest(cached, part, layout_of):
    room = {"blocks": 132} if layout_of is layout.plan else {"together": 8}
    plan = layout_of(decoder_of(64, layers=4), 1, precision="fp16", shared=227 * KB, **room)
    sizes = plan.constants | {part: 0}, plan.constants
    less, all_of_it = (compiling.compiled(plan.kernel, each, "sm_90a") for each in sizes)
    assert len(less.cubin) < len(all_of_it.cubin)


def test_weights_may_be_kept_in_the_second_level_cache(cached):
    sizes = {kept: constants(precision="fp16", layers=10) | {"KEPT": kept} for kept in (0, 2)}
    none, some = (compiling.compiled(KERNEL, sizes[kept], "sm_90a").cubin for kept in sizes)
    assert none != some


def test_a_compiled_kernel_is_kept_and_a_changed_one_is_not_taken_for_it(cached, monkeypatch):
    small = constants(width=16, layers=1)
    made = compiling.compiled(KERNEL, small, "sm_90a")
    [kept] = cached.iterdir()
    with monkeypatch.context() as patch:
        patch.setattr(compiling, "_compile", lambda *_: pytest.fail("it was compiled again"))
        assert compiling.compiled(KERNEL, small, "sm_90a").cubin == made.cubin
    kept.write_bytes(b"")  # damaged: made again
    assert compiling.compiled(KERNEL, small, "sm_90a").cubin == made.cubin
    texts = compiling.sources(KERNEL)
    changed = texts | {"product.cuh": texts["product.cuh"] + "\n// another\n"}
    compiling.compiled(KERNEL, small, "sm_90a", changed)
    compiling.compiled(KERNEL, small | {"HOP": 256}, "sm_90a")
    assert len(list(cached.iterdir())) == 3


def test_what_nvrtc_says_is_in_the_error(cached):
    texts = compiling.sources(KERNEL) | {"words.cuh": "an error\n"}
    with pytest.raises(RuntimeError, match=r"(?s)NVRTC cannot compile the kernel .*words.cuh\(1\): error"):
        compiling.compiled(KERNEL, constants(), "sm_90a", texts)


def test_a_folder_that_cannot_be_written_costs_time_only(tmp_path, monkeypatch, caplog):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert compiling.compiled(KERNEL, constants(width=16, layers=1), "sm_90a").cubin
    assert "set XDG_CACHE_HOME to a folder" in caplog.text

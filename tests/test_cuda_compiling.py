"""The kernel compiled for real GPUs, without one: registers, stack, and a cache that notices every change."""

import re

import pytest
import torch

from wavenet_ae.models.wavenet import Decoder
from wavenet_ae.sampler.cuda import compiling, layout

pytestmark = pytest.mark.skipif(compiling.unavailable() is not None, reason="needs NVRTC (pip install cuda-bindings)")


def constants(voices=1, precision="bf16", width=512, layers=30):
    with torch.device("meta"):
        sizes = {"width": width, "skip_width": width // 2, "layers": layers, "stages": 10}
        decoder = Decoder(**sizes, kernel_size=3, embedding_dims=16, hop=512)
    return layout.plan(decoder, voices, precision=precision, blocks=132, shared=232_448).constants


@pytest.fixture
def cached(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "wavenet_ae" / "kernels"


@pytest.mark.parametrize(
    ("architecture", "voices", "precision"),
    [("sm_80", 1, "fp32"), ("sm_90a", 1, "fp16"), ("sm_90a", 8, "bf16"), ("sm_100a", 1, "int8")],
)
def test_the_kernel_compiles_for_gpus_that_are_not_here(cached, architecture, voices, precision):
    made = compiling.compiled(constants(voices, precision), architecture)
    assert made.cubin.startswith(b"\x7fELF")
    assert f"'speak' for '{architecture}'" in made.report
    registers = int(re.search(r"Used (\d+) registers", made.report)[1])
    spilled = int(re.search(r"(\d+) bytes spill stores", made.report)[1])
    print(f"{architecture} {voices} voices {precision}: {registers} registers, {spilled} bytes spilled")
    threads = 32 * (layout.HEARING + layout.REMEMBERING // (2 if precision == "fp32" else 1))
    assert registers * threads <= 65_536, "a block fits a multiprocessor"
    assert spilled <= (0 if voices == 1 else 512)


@pytest.mark.parametrize("part", ["WAITS", "MULTIPLIES"])
def test_the_kernel_compiles_without_a_part_of_it_to_measure_the_rest(cached, part):
    whole = constants(width=64, layers=4)
    assert len(compiling.compiled(whole | {part: 0}, "sm_90a").cubin) < len(compiling.compiled(whole, "sm_90a").cubin)


def test_a_compiled_kernel_is_kept_and_a_changed_one_is_not_taken_for_it(cached, monkeypatch):
    small = constants(width=16, layers=1)
    made = compiling.compiled(small, "sm_90a")
    [kept] = cached.iterdir()
    with monkeypatch.context() as patch:
        patch.setattr(compiling, "_compile", lambda *_: pytest.fail("it was compiled again"))
        assert compiling.compiled(small, "sm_90a").cubin == made.cubin
    kept.write_bytes(b"")  # damaged: made again
    assert compiling.compiled(small, "sm_90a").cubin == made.cubin
    texts = compiling.sources()
    changed = texts | {"product.cuh": texts["product.cuh"] + "\n// another\n"}
    compiling.compiled(small, "sm_90a", changed)
    compiling.compiled(small | {"HOP": 256}, "sm_90a")
    assert len(list(cached.iterdir())) == 3


def test_what_nvrtc_says_is_in_the_error(cached):
    texts = compiling.sources() | {"words.cuh": "an error\n"}
    with pytest.raises(RuntimeError, match=r"(?s)NVRTC cannot compile the kernel .*words.cuh\(1\): error"):
        compiling.compiled(constants(), "sm_90a", texts)


def test_a_folder_that_cannot_be_written_costs_time_only(tmp_path, monkeypatch, caplog):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert compiling.compiled(constants(width=16, layers=1), "sm_90a").cubin
    assert "set XDG_CACHE_HOME to a folder" in caplog.text

"""Many voices: chunks that fill a frame, layers near and far, and kernels that are the plain steps."""

import importlib
import itertools
import json
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tape import Tape
from voices import inputs

from wavenet_ae import magenta, mulaw, sampler
from wavenet_ae.sampler import batched
from wavenet_ae.sampler.batched import layout

ROOT = Path(__file__).parents[1]
GOLDEN = ROOT / "tests" / "data" / "magenta_wavenet"
SECTIONS = {"bounds", "parity", "voices", "baseline", "generation", "training"}
DEEP = {"layers": 7, "stages": 5}  # dilations 1, 2, 4 are near in a chunk of eight, 8 and 16 far


@pytest.mark.parametrize(
    ("hop", "kernel_size", "steps", "near", "reach"),
    [(512, 3, 8, 4, 8), (8, 2, 8, 4, 4), (12, 3, 4, 3, 4), (5, 3, 1, 0, 0), (512, 1, 8, 6, 0)],
)
def test_chunks_fill_a_frame_and_near_layers_are_those_that_read_the_chunk(tiny, hop, kernel_size, steps, near, reach):
    plan = layout.plan(tiny(hop=hop, kernel_size=kernel_size, **DEEP))
    assert (plan.steps, plan.near, plan.reach) == (steps, near, reach)
    assert sorted(plan.order) == [1, 2, 3, 4, 5, 6]
    assert [plan.order[plan.place[layer]] for layer in range(1, 7)] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("sizes", [{}, {"kernel_size": 2}, {"kernel_size": 4}, {"hop": 12}, {"hop": 5}], ids=str)
def test_float64_codes_are_the_references(tiny, sizes):
    decoder = tiny(**DEEP, **sizes)
    embedding, uniform = inputs(decoder, batch=2, frames=160 // decoder.hop)  # over two turns of the longest ring
    expected = sampler.open_voices(decoder, 2, engine="cached").generate(embedding, uniform, 0.8, 0.95)
    assert torch.equal(batched.Voices(decoder, 2).generate(embedding, uniform, 0.8, 0.95), expected)
    assert expected.unique().numel() > 20


@pytest.mark.parametrize("hop", [8, 12])
def test_a_voice_restarted_at_any_frame_is_a_new_one(tiny, hop):
    decoder = tiny(**DEEP, hop=hop)
    embedding, uniform = inputs(decoder, batch=2, frames=10)
    expected = batched.Voices(decoder, 2).generate(embedding, uniform)
    for first in range(1, 5):
        voices = batched.Voices(decoder, 2)
        voices.generate(embedding[:, :, :first], uniform[:, : first * hop])
        voices.restart(0)
        told = torch.stack([embedding[0, :, :6], embedding[1, :, first : first + 6]])
        code = voices.generate(told, torch.stack([uniform[0, : 6 * hop], uniform[1, first * hop : (first + 6) * hop]]))
        assert torch.equal(code[0], expected[0, : 6 * hop])
        assert torch.equal(code[1], expected[1, first * hop : (first + 6) * hop])


def test_float32_scores_are_close_on_magentas_own_variables():
    model = magenta.load(GOLDEN / "model.ckpt-200000").double()
    with np.load(GOLDEN / "golden.npz") as arrays, torch.inference_mode():
        wave = torch.from_numpy(arrays["audio"])
        code, embedding = mulaw.encode(wave)[:1, : model.hop], model.embed(wave.double())[:1, :, :1]
        expected = model.decoder(code, embedding).log_softmax(1)
    actual = sampler.score(model.decoder.float(), code, embedding.float(), engine="batched")
    assert expected.std() > 0.1
    assert (actual - expected).abs().max() <= 1e-4


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_16_bits_err_at_most_twice_as_much_as_plain_torch_in_them(tiny, precision):
    sizes = DEEP | {"width": 20, "skip_width": 12}
    decoder = tiny(torch.float32, **sizes)
    embedding, _ = inputs(decoder, batch=3)
    code = torch.randint(256, (3, 96))
    expected = sampler.score(tiny(**sizes), code, embedding.double(), engine="cached")
    with torch.inference_mode():
        dtype = batched.STORED[precision]
        usual = tiny(dtype, **sizes)(code, embedding.to(dtype)).double().log_softmax(1)
    error = sampler.score(decoder, code, embedding, engine="batched", precision=precision) - expected
    assert error.dtype == torch.float64
    assert 1e-4 < error.abs().max() <= 2 * (usual - expected).abs().max()
    assert error.abs().mean() <= 2 * (usual - expected).abs().mean()


def recorder(tapes):
    """In place of CUDA graphs: each chunk that is recorded leaves a tape in the list."""

    def record(chunk):
        tapes.append(Tape())
        with torch.inference_mode(False), torch.no_grad():  # what conversions are made of is hidden in inference mode
            replay, _ = tapes[-1].record(chunk)
        turns = itertools.count()
        return lambda: next(turns) and replay()  # a graph computes nothing while recorded, a tape does

    return record


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("hop", [8, 12, 16])
def test_a_chunk_recorded_once_and_replayed_is_the_chunk_run_anew(tiny, dtype, hop):
    decoder, frames = tiny(dtype, hop=hop, **DEEP), 240 // hop  # over three turns of the longest ring
    embedding, uniform = inputs(decoder, batch=2, frames=frames)
    anew, replayed, tapes = batched.Voices(decoder, 2), batched.Voices(decoder, 2), []
    replayed.record = recorder(tapes)
    expected = anew.generate(embedding, uniform, 0.8, 0.95)
    assert torch.equal(replayed.generate(embedding, uniform, 0.8, 0.95), expected)
    assert expected.unique().numel() > 20
    assert [tape.replayed for tape in tapes] == [frames * hop // replayed.plan.steps - 2]
    for each in (anew, replayed):  # a voice begins anew under the same recording
        each.restart(0)
    expected = anew.generate(embedding, uniform, 0.8, 0.95)
    assert torch.equal(replayed.generate(embedding, uniform, 0.8, 0.95), expected)
    assert all(torch.equal(*pair) for pair in zip(replayed.state, anew.state, strict=True))


def test_chunks_of_other_settings_and_forced_ones_are_recorded_for_themselves(tiny):
    decoder, tapes = tiny(**DEEP), []
    embedding, uniform = inputs(decoder, batch=2, frames=8)
    anew, replayed = batched.Voices(decoder, 2), batched.Voices(decoder, 2)
    replayed.record = recorder(tapes)
    for settings in ((1.0, 1.0), (0.0, 1.0), (1.0, 0.5), (1.0, 1.0)):
        code = anew.generate(embedding, uniform, *settings)
        assert torch.equal(replayed.generate(embedding, uniform, *settings), code)
        assert torch.equal(replayed.score(embedding, code.flip(0)), anew.score(embedding, code.flip(0)))
    assert [tape.replayed for tape in tapes] == [14, 30, 6, 6], "drawn, forced, drawn otherwise"


def interrupted(at, call):
    """The same, but its `at`-th call is interrupted."""
    calls = itertools.count()

    def once(*arguments):
        if next(calls) == at:
            raise KeyboardInterrupt
        return call(*arguments)

    return once


@pytest.mark.parametrize("at", [16, 20, 31])  # of sixteen draws a frame: the second's first, one within, the last
def test_voices_broken_off_inside_a_frame_do_not_go_on(tiny, at):
    decoder = tiny(hop=16)
    embedding, uniform = inputs(decoder, batch=2, frames=3)
    voices = batched.Voices(decoder, 2)
    voices.steps = SimpleNamespace(**(vars(batched.plain) | {"draw": interrupted(at, batched.plain.draw)}))
    with pytest.raises(KeyboardInterrupt):
        voices.generate(embedding, uniform)
    for call, samples in ((voices.generate, uniform), (voices.score, uniform.long())):
        with pytest.raises(RuntimeError, match="broken off inside a frame and cannot go on: open new ones"):
            call(embedding, samples)


def test_voices_broken_off_between_two_frames_go_on(tiny):
    decoder = tiny(hop=16)
    embedding, uniform = inputs(decoder, batch=2, frames=3)
    expected = batched.Voices(decoder, 2).generate(embedding, uniform)
    voices = batched.Voices(decoder, 2)
    voices._tell = interrupted(1, voices._tell)
    with pytest.raises(KeyboardInterrupt):
        voices.generate(embedding, uniform)
    assert torch.equal(voices.generate(embedding[:, :, 1:], uniform[:, 16:]), expected[:, 16:])


def test_what_it_cannot_do_is_said(tiny):
    with pytest.raises(
        ValueError, match="engine 'batched' cannot run here: it stores weights in fp32, bf16, fp16, not int8"
    ):
        sampler.open_voices(tiny(), 1, engine="batched", precision="int8")


KERNELS = """
    import torch
    from wavenet_ae.models.wavenet import Decoder
    from wavenet_ae.sampler import batched
    from wavenet_ae.sampler.batched import fused

    torch.set_num_threads(1)
    for precision, taps in (("fp32", 3), ("fp16", 2)):
        torch.manual_seed(0)
        decoder = Decoder(
            layers=4, stages=3, width=20, skip_width=12, kernel_size=taps, embedding_dims=4, hop=4
        ).eval()
        embedding, uniform = 2 * torch.randn(2, 4, 2), torch.rand(2, 8, dtype=torch.float64)
        plain, kernels = (batched.Voices(decoder, 2, precision=precision) for _ in range(2))
        kernels.steps = fused
        code = plain.generate(embedding, uniform, 0.9)
        assert code.unique().numel() > 8
        assert torch.equal(kernels.generate(embedding, uniform, 0.9), code)
        told = embedding[:, :, :1]
        assert (kernels.score(told, code[:, :4]) - plain.score(told, code[:, :4])).abs().max() < 1e-4
    logits, die = torch.randn(4, 256), torch.rand(4, dtype=torch.float64)
    for temperature, top_p in ((0.0, 1.0), (0.7, 1.0), (0.7, 0.9)):
        drawn = []
        for steps in (batched.plain, fused):
            drawn.append((torch.zeros(4, dtype=torch.long), torch.zeros(4)))
            steps.draw(logits, die, temperature, top_p, *drawn[-1])
        assert all(torch.equal(*pair) for pair in zip(*drawn, strict=True))
    decoder = Decoder(
        layers=4, stages=3, width=20, skip_width=12, kernel_size=3, embedding_dims=4, hop=4
    ).eval()
    told, code = 2 * torch.randn(70, 4, 1), torch.randint(256, (70, 4))
    for precision in ("fp32", "bf16"):  # 70 voices are two tiles of the steps' kernels
        scores = []
        for voices in (70, 3, 1):
            some = batched.Voices(decoder, voices, precision=precision)
            some.steps = fused
            scores.append(some.score(told[:voices], code[:voices]))
        assert all(torch.equal(some, scores[0][: len(some)]) for some in scores), "neighbours are heard"
    print("equal")
"""


def test_the_kernels_are_the_plain_steps():
    pytest.importorskip("triton", reason="the kernels are Triton's")
    command = [sys.executable, "-c", textwrap.dedent(KERNELS)]  # apart: Triton must know that it is to interpret
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    assert done.stdout == "equal\n", done.stderr


ADDRESSES = {  # of the published sizes, weights in 16 bits
    "_gate": ({"width": 512, "past": 2}, "GATE", {"told"}),
    "_spread": ({"width": 512, "columns": 768}, "STEP", {"bias", "total"}),
    "_recall": ({"width": 512, "past": 2, "steps": 8}, "CHUNK", {"told", "ahead"}),
}


@pytest.mark.parametrize(("capability", "product"), [(80, "mma.sync.aligned.m16n8k16"), (90, "wgmma.mma_async")])
@pytest.mark.parametrize("name", ADDRESSES)
def test_a_kernel_compiles_to_tensor_core_products_and_spills_nothing(tmp_path, monkeypatch, name, capability, product):
    triton = pytest.importorskip("triton", reason="the kernels are Triton's")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    fused, compiler = (importlib.import_module(m) for m in ("wavenet_ae.sampler.batched.fused", "triton.compiler"))
    sizes, tile, sums = ADDRESSES[name]
    tile = dict(getattr(fused, tile))
    options = {key: tile.pop(key) for key in ("num_warps", "num_stages")}
    kernel, constants = getattr(fused, name), sizes | tile
    types = {"batch": "i32", "reach": "i32", "slots": "*i64"} | dict.fromkeys(sums, "*fp32")
    signature = {key: "constexpr" if key in constants else types.get(key, "*bf16") for key in kernel.arg_names}
    aligned = {(at,): [["tt.divisibility", 16]] for at, key in enumerate(signature) if key not in constants}
    source = compiler.ASTSource(kernel, signature, constexprs=constants, attrs=aligned)
    target = importlib.import_module("triton.backends.compiler").GPUTarget("cuda", capability, 32)
    compiled = triton.compile(source, target=target, options=options)
    assert product in compiled.asm["ptx"]
    (tmp_path / "cubin").write_bytes(compiled.asm["cubin"])
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    used = subprocess.run([tool, "-res-usage", tmp_path / "cubin"], capture_output=True, text=True, check=True).stdout
    assert re.findall(r"STACK:(\d+)", used) == ["0"]


BARE = """
    import sys
    for absent in ("hydra", "omegaconf", "soundfile", "librosa", "numba", "llvmlite", "safetensors", "tensorboard"):
        sys.modules[absent] = None
    from benchmarks.gpu import main
    main()
"""


def test_the_gpu_benchmark_runs_to_its_end_on_a_bare_machine(tmp_path):
    asked = ["--device", "cpu", "--tiny", "--out", str(tmp_path)]
    command = [sys.executable, "-c", textwrap.dedent(BARE), *asked]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    [record] = [json.loads(path.read_text()) for path in tmp_path.glob("gpu_*.json")]
    assert {row["section"] for row in record["rows"]} == SECTIONS
    assert not [row for row in record["rows"] if "failed" in row]

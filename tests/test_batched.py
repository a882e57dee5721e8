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


PRODUCTS = {80: "mma.sync.aligned.m16n8k16", 90: "wgmma.mma_async", 100: "tcgen05.mma"}  # by capability
SHARED = 101_376  # bytes that a block may have on any GPU since Ampere
INTEGERS = dict.fromkeys(("batch", "reach", "x_stride", "bias_stride"), "i32") | {"slots": "*i64", "code": "*i64"}
DOUBLES = dict.fromkeys(("uniform", "temperature"), "*fp64")
COMPILED = {  # at the published sizes: the kernel, its constants, its tile, the addresses of float32 (None: all)
    "gate": ("_gate", {"width": 512, "past": 2}, "GATE", {"told"}),
    "spread": ("_spread", {"width": 512, "columns": 768}, "STEP", {"bias", "total"}),
    "recall": ("_recall", {"width": 512, "past": 2, "steps": 8}, "CHUNK", {"told", "ahead"}),
    "gate of a far layer in fp32": ("_gate", {"width": 512, "past": 0}, "GATE", None),
    "last spread in fp32": ("_spread", {"width": 512, "columns": 768, "following": None}, "STEP", None),
    "recall in fp32": ("_recall", {"width": 512, "past": 2, "steps": 8}, "CHUNK_FP32", None),
    "opening": (
        "_opening", {"width": 512, "skip": 256, "lags": 10}, "STEP", {"heard", "weight", "bias", "told", "spread"},
    ),
    "dense": ("_dense", {"inputs": 256, "columns": 256}, "STEP", None),
    "draw": ("_draw", {"GREEDY": False, "CODES": 256}, None, None),
    "greedy draw": ("_draw", {"GREEDY": True, "CODES": 256}, None, None),
}  # fmt: skip


@pytest.mark.parametrize("capability", PRODUCTS)
@pytest.mark.parametrize("case", COMPILED)
def test_a_kernel_compiles_to_tensor_core_products_in_16_bits_and_spills_nothing(
    tmp_path, monkeypatch, case, capability
):
    triton = pytest.importorskip("triton", reason="the kernels are Triton's")
    if capability == 100 and tuple(map(int, triton.__version__.split(".")[:2])) < (3, 3):
        pytest.skip("this Triton is older than the capability")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    fused, compiler = (importlib.import_module(m) for m in ("wavenet_ae.sampler.batched.fused", "triton.compiler"))
    name, sizes, tile, singles = COMPILED[case]
    kernel, tile = getattr(fused, name), dict(getattr(fused, tile)) if tile else {}
    options = {key: tile.pop(key) for key in ("num_warps", "num_stages") if key in tile}
    constants = {key: value for key, value in (sizes | tile).items() if key in kernel.arg_names}
    types = dict.fromkeys(kernel.arg_names if singles is None else singles, "*fp32") | INTEGERS | DOUBLES
    signature = {key: "constexpr" if key in constants else types.get(key, "*bf16") for key in kernel.arg_names}
    aligned = {(at,): [["tt.divisibility", 16]] for at, key in enumerate(signature) if key not in constants}
    source = compiler.ASTSource(kernel, signature, constexprs=constants, attrs=aligned)
    target = importlib.import_module("triton.backends.compiler").GPUTarget("cuda", capability, 32)
    compiled = triton.compile(source, target=target, options=options)
    if case in ("gate", "spread", "recall"):
        assert PRODUCTS[capability] in compiled.asm["ptx"]
    else:
        assert not re.search(r"\b(mma|wgmma|tcgen05)\b", compiled.asm["ptx"]), "float32 is never rounded for a product"
    assert compiled.metadata.shared <= SHARED
    (tmp_path / "cubin").write_bytes(compiled.asm["cubin"])
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    used = subprocess.run([tool, "-res-usage", tmp_path / "cubin"], capture_output=True, text=True, check=True).stdout
    assert re.findall(r"STACK:(\d+)", used) == ["0"]


BARE = """
    import sys
    for absent in (
        "hydra", "omegaconf", "soundfile", "librosa", "soxr", "numba", "llvmlite", "safetensors", "tensorboard",
        "scipy", "torchaudio", "sklearn", "mido", "tqdm",
    ):
        sys.modules[absent] = None
    from benchmarks.gpu import main
    main()
"""


def benchmarked(script, folder, *more):
    """How the GPU's benchmark ended on the CPU, and its one record."""
    asked = ["--device", "cpu", "--tiny", "--out", str(folder), *more]
    command = [sys.executable, "-c", textwrap.dedent(script), *asked]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=ROOT)
    [path] = folder.iterdir()
    assert re.fullmatch(r"gpu_.*\.json", path.name)
    return done, json.loads(path.read_text())


def test_the_gpu_benchmark_runs_to_its_end_on_a_bare_machine(tmp_path):
    done, record = benchmarked(BARE, tmp_path)
    assert done.returncode == 0, done.stderr
    assert {row["section"] for row in record["rows"]} == SECTIONS
    assert not [row for row in record["rows"] if "failed" in row]
    assert "missing" not in record
    assert "parity of magenta: it needs the package numba" in record["settings"]["left_out"]


def test_the_gpu_benchmark_compares_every_engine_with_magenta_too(tmp_path):
    script = "from benchmarks.gpu import main; main()"
    done, record = benchmarked(script, tmp_path, "--only", "check_parity")
    assert done.returncode == 0, done.stderr
    rows = [row for row in record["rows"] if row.get("model") == "magenta"]
    compared = [("batched", "fp16"), ("batched", "bf16"), ("batched", "fp32"), ("cached", "fp32")]
    assert [(row["engine"], row["precision"]) for row in rows] == compared
    assert [row["to_magenta"] <= 2e-5 for row in rows] == [False, False, True, True]


HANGING = """
    import ctypes, time
    from benchmarks import gpu

    def time_training(bench):
        bench.found(section="training", engine="quick")
        with bench.guard(section="training", engine="slow"):
            {hang}

    gpu.SECTIONS = (gpu.measure_bounds, time_training, gpu.check_voices)
    gpu.main()
"""


@pytest.mark.parametrize(
    ("hang", "said", "row"),
    [
        ("time.sleep(60)", "the time was up before time_training, check_voices came to an end", ["slow"]),
        ("ctypes.PyDLL(None).sleep(60)", "Timeout (0:00:09", []),  # no other thread may run
        ("raise RuntimeError", "rows that failed: 1", ["slow"]),
    ],
    ids=["hangs", "holds Python's lock", "fails"],
)
def test_what_hangs_or_fails_in_the_gpu_benchmark_loses_nothing_else(tmp_path, hang, said, row):
    done, record = benchmarked(HANGING.format(hang=hang), tmp_path, "--minutes", "0.15")
    assert done.returncode == 1, done.stderr
    assert said in done.stderr
    rows = [row for row in record["rows"] if row["section"] in ("bounds", "training")]
    assert [row["engine"] for row in rows] == ["read", "bf16 products", "quick", *row]
    assert ["failed" in row for row in rows] == [False, False, False, *(True for _ in row)]
    assert record.get("missing", []) == ([] if "raise" in hang else ["time_training", "check_voices"])


def test_a_gpu_that_does_nothing_more_is_asked_for_nothing_more(tmp_path):
    script = HANGING.format(hang="bench.wait = broken; broken()")
    script = script.replace(
        "def time_training", 'def broken():\n        raise RuntimeError("illegal")\n\n    def time_training'
    )
    done, record = benchmarked(script, tmp_path)
    assert done.returncode == 1, done.stderr
    assert "the GPU has given this process up (illegal): not measured are time_training, check_voices" in done.stderr
    assert [row["engine"] for row in record["rows"] if "failed" in row] == ["slow"]
    assert record["missing"] == ["time_training", "check_voices"]

"""The compiled engine: its arithmetic, and faults that the parity tests must catch."""

import re
import subprocess
import sys
import textwrap
from copy import deepcopy
from pathlib import Path

import numba
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numba.core.caching import CacheImpl, NullCache
from voices import inputs

from wavenet_ae import magenta, mulaw, sampler
from wavenet_ae.models.wavenet import Decoder
from wavenet_ae.sampler import cpu, dice, weights
from wavenet_ae.sampler.cpu import kernel
from wavenet_ae.sampler.cpu.math import draw, fast_exp, gate

GOLDEN = Path(__file__).parent / "data" / "magenta_wavenet"
ODD = [
    {"kernel_size": 2},
    {"kernel_size": 1},
    {"layers": 1, "stages": 1},
    {"kernel_size": 4},
    {"width": 65, "skip_width": 70, "stages": 6},
    {"hop": 5},
]


def full_width(layers=30, stages=10, dtype=torch.float32):
    torch.manual_seed(0)
    decoder = Decoder(
        layers=layers, stages=stages, width=512, skip_width=256, kernel_size=3, embedding_dims=16, hop=512
    )
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.mul_(1.7)  # torch's initial weights make a decoder that says little
    return decoder.to(dtype).eval()


def flips(expected, actual):
    """How many codes one draw changes, on average: the gap between the two cumulative distributions."""
    gap = (expected.double().exp().cumsum(1) - actual.double().exp().cumsum(1)).abs()
    return gap.sum(1).mean()


# The arithmetic


@numba.njit
def gates(opened, value, out):
    for i in range(len(out)):
        out[i] = gate(opened[i], value[i])


@numba.njit
def exps(x, out):
    for i in range(len(out)):
        out[i] = fast_exp(x[i])


@pytest.mark.parametrize(("dtype", "allowed"), [(np.float32, 3e-7), (np.float64, 1e-15)])
def test_the_gate_is_as_exact_as_it_says(dtype, allowed):
    edge = np.array([0, 1e-30, 1e-8, 1e-3, 9.9, 10, 10.1, 59, 61, 88, 1000, np.inf])
    line = np.concatenate([np.linspace(-12, 12, 4001), edge, -edge]).astype(dtype)
    opened, value = (grid.ravel() for grid in np.meshgrid(line, line[::7]))
    out = np.empty_like(opened)
    gates(opened, value, out)
    with np.errstate(over="ignore"):
        expected = np.tanh(value.astype(np.float64)) / (1 + np.exp(-opened.astype(np.float64)))
    assert np.abs(out - expected).max() <= allowed


def test_the_exponential_is_as_exact_as_it_says():
    x = np.linspace(-80, 80, 1_000_001).astype(np.float32)
    out = np.empty_like(x)
    exps(x, out)
    assert np.abs(out / np.exp(x.astype(np.float64)) - 1).max() <= 2e-7


@given(
    seed=st.integers(0, 999),
    spread=st.sampled_from([0.0, 1.0, 30.0, 1000.0]),
    rounded=st.booleans(),
    uniform=st.floats(0, 1),
    temperature=st.sampled_from([0.0, 0.3, 1.0, 2.0]),
    top_p=st.sampled_from([1e-9, 0.1, 0.5, 0.9, 1.0]),
)
@settings(max_examples=300, deadline=None)
def test_the_draw_is_the_draw_of_the_dice(seed, spread, rounded, uniform, temperature, top_p):
    logits = np.random.default_rng(seed).standard_normal(256) * spread
    logits = logits.round() if rounded else logits
    expected = dice.draw(
        torch.from_numpy(logits)[None], torch.tensor([uniform], dtype=torch.float64), temperature, top_p
    )
    padded = np.concatenate([np.full(3, 1e9), logits])
    assert draw(padded, 3, uniform, temperature, top_p, np.empty(256)) == expected[0]


@pytest.mark.parametrize("sizes", ODD, ids=str)
def test_float32_scores_are_close_to_the_reference(tiny, sizes):
    decoder = tiny(**sizes)
    embedding, _ = inputs(decoder, batch=3)
    code = torch.randint(256, (3, 12 * decoder.hop))
    expected = sampler.score(decoder, code, embedding, engine="reference")
    actual = sampler.score(tiny(torch.float32, **sizes), code, embedding.float(), engine="cpu")
    assert actual.dtype == torch.float32
    assert expected.std() > 0.1, "all codes alike: this test would prove nothing"
    assert (actual - expected).abs().max() <= 1e-4
    assert flips(expected, actual) <= 1e-4


@pytest.mark.parametrize("sizes", ODD, ids=str)
def test_float64_codes_are_the_references(tiny, sizes):
    decoder = tiny(**sizes)
    embedding, uniform = inputs(decoder, batch=2, frames=5)
    expected = sampler.open_voices(decoder, 2, engine="reference").generate(embedding, uniform, 0.8, 0.95)
    assert torch.equal(cpu.Voices(decoder, 2).generate(embedding, uniform, 0.8, 0.95), expected)
    assert expected.unique().numel() > 20


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_decoder_of_16_bits_is_computed_in_float32(tiny, dtype):
    decoder = tiny(dtype)
    embedding, uniform = inputs(decoder, frames=3)
    exact = cpu.Voices(deepcopy(decoder).float(), 1).generate(embedding.float(), uniform)
    assert torch.equal(cpu.Voices(decoder, 1).generate(embedding, uniform), exact)


@pytest.mark.slow  # 12 s
def test_float32_scores_are_close_at_full_width():
    decoder = full_width(dtype=torch.float64)
    torch.manual_seed(1)
    embedding, code = torch.randn(1, 16, 2, dtype=torch.float64), torch.randint(256, (1, 1024))
    expected = sampler.score(decoder, code, embedding, engine="reference")
    actual = sampler.score(decoder.float(), code, embedding.float(), engine="cpu")
    assert expected.std() > 0.1
    assert (actual - expected).abs().max() <= 1e-4
    assert flips(expected, actual) <= 1e-4


def test_float32_scores_are_close_on_magentas_own_variables():
    model = magenta.load(GOLDEN / "model.ckpt-200000").double()
    with np.load(GOLDEN / "golden.npz") as arrays, torch.inference_mode():
        wave = torch.from_numpy(arrays["audio"])
        code, embedding = mulaw.encode(wave), model.embed(wave.double())
        expected = model.decoder(code, embedding).log_softmax(1)
    actual = sampler.score(model.decoder.float(), code, embedding.float(), engine="cpu")
    assert expected.std() > 0.1
    assert (actual - expected).abs().max() <= 1e-4


@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_small_numbers_compute_what_is_stored(tiny, precision):
    sizes = {"width": 20, "skip_width": 12}
    decoder = tiny(torch.float32, **sizes)
    stored = tiny(torch.float64, **sizes)

    def rounded(weight):
        if precision == "bf16":
            return weight.bfloat16().double()
        whole, scale = weights.to_int8(weight.flatten(1).numpy())
        return torch.from_numpy(whole * scale[:, None]).reshape(weight.shape).double()

    with torch.no_grad():
        for block, exact in zip(stored.blocks, decoder.blocks, strict=True):
            block.residual.weight.copy_(rounded(exact.residual.weight))
            block.skip.weight.copy_(rounded(exact.skip.weight))
            if block is not stored.blocks[0]:  # the first is folded, and kept in float32
                for taps in (slice(0, -1), slice(-1, None)):
                    block.dilated.weight[:, :, taps] = rounded(exact.dilated.weight[:, :, taps])
    embedding, _ = inputs(decoder, batch=3)
    code = torch.randint(256, (3, 96))
    expected = sampler.score(stored, code, embedding.double(), engine="cached")
    actual = sampler.score(decoder, code, embedding, engine="cpu", precision=precision)
    assert (actual - expected).abs().max() <= 1e-4
    exact = sampler.score(decoder, code, embedding, engine="cached")
    assert (actual - exact).abs().max() > 1e-3, "nothing was rounded"


# Threads, batches, processes


@pytest.mark.parametrize("precision", cpu.PRECISIONS)
def test_neither_threads_nor_batch_nor_chunks_matter(tiny, precision):
    decoder = tiny(torch.float32, width=130, skip_width=70)
    embedding, uniform = inputs(decoder, batch=7, frames=6)
    expected = cpu.Voices(decoder, 7, precision=precision, threads=1).generate(embedding, uniform)
    for threads in (2, 3, 5):
        voices = cpu.Voices(decoder, 7, precision=precision, threads=threads)
        parts = [
            voices.generate(embedding[:, :, :1], uniform[:, :8]),
            voices.generate(embedding[:, :, 1:], uniform[:, 8:]),
        ]
        assert torch.equal(torch.cat(parts, dim=1), expected)
    for batch in (1, 2, 3):
        voices = cpu.Voices(decoder, batch, precision=precision, threads=2)
        assert torch.equal(voices.generate(embedding[-batch:], uniform[-batch:]), expected[-batch:])


@pytest.mark.parametrize("hop", [5, 8])
def test_a_voice_restarted_at_any_frame_is_a_new_one(tiny, hop):
    decoder = tiny(torch.float32, hop=hop, layers=8, stages=4)
    embedding, uniform = inputs(decoder, batch=2, frames=24)
    expected = cpu.Voices(decoder, 2).generate(embedding, uniform)
    for first in range(1, 8):
        voices = cpu.Voices(decoder, 2)
        voices.generate(embedding[:, :, :first], uniform[:, : first * hop])
        voices.restart(0)
        told = torch.stack([embedding[0, :, :16], embedding[1, :, first : first + 16]])
        dice_ = torch.stack([uniform[0, : 16 * hop], uniform[1, first * hop : (first + 16) * hop]])
        code = voices.generate(told, dice_)
        assert torch.equal(code[0], expected[0, : 16 * hop])
        assert torch.equal(code[1], expected[1, first * hop : (first + 16) * hop])


NUMBERS = """
    import numpy as np, torch
    from wavenet_ae.models.wavenet import Decoder
    from wavenet_ae.sampler import cpu
    decoder = Decoder(layers=6, stages=3, width=5, skip_width=7, kernel_size=3, embedding_dims=4, hop=8).eval()
    embedding, uniform = torch.ones(1, 4, 1), torch.rand(1, 8, dtype=torch.float64)
    code = cpu.Voices(decoder, 1).generate(embedding, uniform, 1.0, 1.0)
    cpu.Voices(decoder, 1).score(embedding, code)
    compiled = len(cpu.run.signatures)
    for temperature in (0, 1, np.float32(1)):
        again = cpu.Voices(decoder, 1).generate(embedding, uniform, temperature, 1)
    assert torch.equal(again, code)
    cpu.Voices(decoder, 1).score(embedding, code.int())
    print(compiled, len(cpu.run.signatures))
"""


def test_numbers_of_other_types_compile_nothing():
    command = [sys.executable, "-c", textwrap.dedent(NUMBERS)]  # apart: in tests the annotations refuse an int
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.stdout == "1 1\n", done.stdout + done.stderr


def test_a_voice_remembers_no_more_than_the_past_needs(tiny):
    decoder = tiny(torch.float32, width=64)
    for batch in (1, 3):
        past = sum(block.dilated.past for block in list(decoder.blocks)[1:])
        assert cpu.Voices(decoder, batch).state.ring.nbytes == batch * past * 64 * 4


# Planted faults: each must change the codes, or the parity tests would prove little


def rotated_taps(voices):
    past = voices.weights.past.reshape(-1, 2, weights.padded(1) * weights.PANEL)
    past[:] = past[:, ::-1].copy()


def a_ring_one_slot_short(voices):
    voices.state.slots[2] -= 1
    voices.state.batched[2] = 1


def a_batch_too_long(voices):
    """The past taps of samples that have no past yet."""
    voices.state.batched[1] *= 2


def swapped_gates(voices):
    for name in ("first", "first_bias", "condition", "condition_bias", "past_scale", "current_scale"):
        array = getattr(voices.weights, name)
        halves = array.reshape(-1, 2, weights.HALF)
        halves[:] = halves[:, ::-1].copy()
    for matrix in (voices.weights.past, voices.weights.current):
        halves = matrix.reshape(-1, 2, weights.HALF)
        halves[:] = halves[:, ::-1].copy()


def early_condition(voices):
    told = voices._told

    def early(embedding):
        return np.roll(told(embedding), -1, axis=0)

    voices._told = early


def bias_in_the_padding(voices):
    voices.weights.first_bias[:] = voices.weights.first_bias[-1]


def a_late_level(voices):
    voices.weights.first[1:] = voices.weights.first[:-1].copy()


def dilations_that_never_start_again(voices):
    voices.weights.dilation[3:] = voices.weights.dilation[3:] // 2


def a_clock_that_starts_late(voices):
    """Harmless: where the rings begin does not matter."""
    voices.clock = 8


FAULTS = [
    rotated_taps,
    a_ring_one_slot_short,
    a_batch_too_long,
    swapped_gates,
    early_condition,
    bias_in_the_padding,
    a_late_level,
    dilations_that_never_start_again,
]


@pytest.fixture(scope="module")
def parity(tiny):
    """What the parity tests ask, of voices opened and perhaps broken by the caller."""
    decoder = tiny()
    embedding, uniform = inputs(decoder)
    code = sampler.open_voices(decoder, 1, engine="reference").generate(embedding, uniform)
    score = sampler.score(decoder, code, embedding, engine="reference")

    def holds(breaks):
        codes, scores = cpu.Voices(decoder, 1), cpu.Voices(decoder, 1)
        breaks(codes)
        breaks(scores)
        same = torch.equal(codes.generate(embedding, uniform), code)
        return same and (scores.score(embedding, code) - score).abs().max() <= 1e-10

    return holds


@pytest.mark.parametrize("harmless", [lambda voices: None, a_clock_that_starts_late], ids=["nothing", "clock"])
def test_parity_holds(parity, harmless):
    assert parity(harmless)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_parity_catches_a_planted_fault(parity, fault):
    assert not parity(fault)


# The cache on disk


def test_the_kernel_is_compiled_anew_when_any_of_its_files_changes(tmp_path):
    copies = [tmp_path / f"{n}.py" for n, _ in enumerate(kernel.SOURCES)]
    for path, copy in zip(kernel.SOURCES, copies, strict=True):
        copy.write_bytes(path.read_bytes())
    before = kernel.checksum(copies)
    assert before == kernel.checksum(kernel.SOURCES)
    assert [cell.cell_contents for cell in kernel.run.py_func.__closure__] == [before], "it is not part of the key"
    for copy in copies:
        true = copy.read_bytes()
        copy.write_bytes(true.replace(b"64", b"32") + b"# changed")
        assert kernel.checksum(copies) != before
        copy.write_bytes(true)
    assert kernel.checksum(copies) == before


def test_the_files_are_all_that_the_compiled_code_reads():
    paths = {name: module.__file__ for name, module in sys.modules.items() if name.startswith("wavenet_ae")}
    read, ahead = set(), {kernel.__name__}
    while ahead:
        read |= ahead
        files = [Path(paths[name]) for name in ahead if name.startswith("wavenet_ae.sampler.cpu.")]
        lines = "".join(file.read_text() for file in files)
        pairs = [
            (room, name)
            for room, names in re.findall(r"^from (wavenet_ae\S*) import (.+)$", lines, re.M)
            for name in names.split(", ")
        ]
        ahead = {f"{room}.{name}" if f"{room}.{name}" in paths else room for room, name in pairs} - read
    assert len(read) == 7
    assert {paths[name] for name in read} <= {str(path) for path in kernel.SOURCES}


def test_the_kernel_compiles_where_there_is_no_place_for_a_cache(monkeypatch, caplog):
    assert not isinstance(kernel.run._cache, NullCache)
    monkeypatch.setattr(CacheImpl, "_locator_classes", [])
    homeless = kernel._compile(0)
    assert isinstance(homeless._cache, NullCache)
    (record,) = caplog.records
    assert "NUMBA_CACHE_DIR" in record.getMessage()

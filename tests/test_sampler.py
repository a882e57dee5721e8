"""Every engine is the reference, and the dice are what decides."""

import copy
import itertools
import math
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode
from voices import inputs

from wavenet_ae import audio, checkpoint, mulaw, sampler
from wavenet_ae.models.wavenet import Decoder
from wavenet_ae.sampler import batched, cached, cuda, dice
from wavenet_ae.sampler.cuda import device, layout

DATA = Path(__file__).parents[1] / "data"
ONE = Decoder(layers=1, stages=1, width=1, skip_width=1, kernel_size=1, embedding_dims=1, hop=1).double()
EXACT = [engine for engine in sampler.ENGINES if sampler.unavailable(engine, ONE) is None]
FAST = [engine for engine in EXACT if engine != "reference"]
SIZES = [
    {},
    {"kernel_size": 2, "stages": 4, "layers": 5},
    {"kernel_size": 1},
    {"layers": 1, "stages": 1, "width": 1, "skip_width": 1, "hop": 5},
]


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("name", FAST)
def test_engine_is_the_reference(tiny, name, sizes, batch):
    decoder = tiny(**sizes)  # 96 samples: three receptive fields, twelve frame edges
    embedding, uniform = inputs(decoder, batch)
    expected = sampler.open_voices(decoder, batch, engine="reference").generate(embedding, uniform)
    actual = sampler.open_voices(decoder, batch, engine=name).generate(embedding, uniform)
    assert expected.unique().numel() > 20, "the reference collapsed: this test would prove nothing"
    assert torch.equal(actual, expected)


@pytest.mark.parametrize("name", EXACT)
def test_score_is_the_parallel_decoder(tiny, name):
    decoder = tiny()
    embedding, _ = inputs(decoder, batch=3)
    code = torch.randint(256, (3, embedding.shape[-1] * decoder.hop))
    with torch.inference_mode():
        expected = decoder(code, embedding).log_softmax(dim=1)
    actual = sampler.score(decoder, code, embedding, engine=name)
    tolerance = 1e-10 if actual.dtype == torch.float64 else 1e-4
    torch.testing.assert_close(actual, expected, rtol=0, atol=tolerance, check_dtype=False)
    assert expected.std() > 0.1, "all codes alike: this test would prove nothing"


@pytest.mark.parametrize("name", EXACT)
def test_chunks_do_not_matter(tiny, name):
    decoder = tiny()
    embedding, uniform = inputs(decoder, batch=2)
    once = sampler.open_voices(decoder, 2, engine=name).generate(embedding, uniform)
    voices, parts = sampler.open_voices(decoder, 2, engine=name), []
    for start, stop in itertools.pairwise([0, 1, 6, 7, 12]):
        parts.append(voices.generate(embedding[:, :, start:stop], uniform[:, start * 8 : stop * 8]))
    assert torch.equal(torch.cat(parts, dim=-1), once)


@pytest.mark.parametrize("name", EXACT)
def test_scoring_and_generating_continue_each_other(tiny, name):
    decoder = tiny()
    embedding, uniform = inputs(decoder)
    once = sampler.open_voices(decoder, 1, engine=name).generate(embedding, uniform)
    voices = sampler.open_voices(decoder, 1, engine=name)
    voices.score(embedding[:, :, :5], once[:, :40])
    assert torch.equal(voices.generate(embedding[:, :, 5:], uniform[:, 40:]), once[:, 40:])


@pytest.mark.parametrize("name", EXACT)
def test_a_restarted_voice_is_a_new_one_and_leaves_the_others(tiny, name):
    decoder = tiny()
    embedding, uniform = inputs(decoder, batch=2)
    expected = sampler.open_voices(decoder, 2, engine=name).generate(embedding, uniform)
    voices = sampler.open_voices(decoder, 2, engine=name)
    first = voices.generate(embedding[:, :, :5], uniform[:, :40])
    voices.restart(1)
    mixed = torch.stack([embedding[0, :, 5:], embedding[1, :, :7]])
    second = voices.generate(mixed, torch.stack([uniform[0, 40:], uniform[1, :56]]))
    assert torch.equal(torch.cat([first[0], second[0]]), expected[0])
    assert torch.equal(second[1], expected[1, :56])


@pytest.mark.parametrize("name", EXACT)
def test_same_seed_same_codes(tiny, name):
    embedding = torch.zeros(1, 4, 2, dtype=torch.float64)
    first, again = (sampler.generate(tiny(), embedding, seed=7, engine=name) for _ in range(2))
    other = sampler.generate(tiny(), embedding, seed=8, engine=name)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_generate_is_the_stream_and_rows_do_not_see_each_other(tiny):
    decoder = tiny()
    embedding, _ = inputs(decoder, batch=3, frames=3)
    together = sampler.generate(decoder, embedding, seed=3)
    streamed = list(sampler.stream(decoder, embedding, seed=3))
    assert [tuple(part.shape) for part in streamed] == [(3, 8)] * 3
    assert torch.equal(torch.cat(streamed, dim=-1), together)
    assert torch.equal(sampler.generate(decoder, embedding[:1], seed=3), together[:1])


def test_every_engine_that_computes_in_float64_anywhere_is_among_those_compared():
    assert {"reference", "cached", "cpu", "batched"} <= set(EXACT)


def test_auto_takes_the_first_of_the_table_that_can_run(tiny, monkeypatch):
    def opened(voices, precision="fp32"):
        return type(sampler.open_voices(tiny(), voices, precision=precision)).__module__.rpartition(".")[2]

    monkeypatch.setitem(sampler.FASTEST, "cpu", ((2, "cached"), (9, "batched")))
    assert [opened(voices) for voices in (1, 2, 3, 9)] == ["cached", "cached", "batched", "batched"]
    assert opened(1, "fp16") == "batched"
    with pytest.raises(ValueError, match=r"no engine can run here: cached: it computes .*; batched: it stores"):
        opened(1, "int8")
    monkeypatch.setitem(sys.modules, "wavenet_ae.sampler.cached", None)
    assert opened(1) == "batched", "a package that is not installed is a reason too"


@pytest.mark.parametrize(("blocks", "shared", "why"), [(4, 1000, "bytes of shared memory"), (4, 10**6, "run together")])
def test_auto_leaves_out_an_engine_without_room_and_says_so(tiny, monkeypatch, caplog, blocks, shared, why):
    """A GPU too small for the kernel: by its memory, or because not all blocks can be there at the same time."""
    decoder = tiny(torch.float32)
    gpu = object.__new__(device.Gpu)
    gpu.device, gpu.blocks, gpu.shared = decoder.start.weight.device, blocks, shared
    gpu._function = lambda plan: None
    occupancy = SimpleNamespace(cuOccupancyMaxActiveBlocksPerMultiprocessor=lambda *_: (0, 0))
    monkeypatch.setitem(sys.modules, "cuda.bindings", SimpleNamespace(driver=occupancy))
    monkeypatch.setattr(cuda, "unavailable", lambda *_: None)
    monkeypatch.setattr(device, "Gpu", lambda *_: gpu)
    monkeypatch.setitem(sampler.FASTEST, "cpu", ((8, "cuda"), (9, "batched")))
    assert type(sampler.open_voices(decoder, 2)).__module__ == "wavenet_ae.sampler.batched"
    assert "engine 'cuda', the fastest, is left out here" in caplog.text
    assert why in caplog.text
    with pytest.raises(ValueError, match=why):
        sampler.open_voices(decoder, 2, engine="cuda")


def test_engines_err_on_a_real_note_as_plain_torch_does():
    """A trained model is sure of codes: of one in e^200 float32 itself knows the logarithm to some 3e-4."""
    model = checkpoint.load(DATA / "models" / "small.safetensors")
    wave = audio.read(DATA / "notes" / "test" / "audio" / "bass_electronic_001-036-060.flac")[:1024]
    code = mulaw.encode(wave)[None]
    with torch.inference_mode():
        embedding = model.encoder(code)
        plain = F.log_softmax(model.decoder(code, embedding), dim=1)
        exact = F.log_softmax(copy.deepcopy(model.decoder).double()(code, embedding.double()), dim=1)
    allowed, likely = 2 * float((plain - exact).abs().max()), exact > -10
    assert allowed < 1e-3
    for engine in ("cached", "cpu", "batched"):
        error = (sampler.score(model.decoder, code, embedding, engine=engine, precision="fp32") - exact).abs()
        assert error.max() < allowed, engine
        assert error[likely].max() < 1e-4, engine


@pytest.fixture
def four(monkeypatch):
    """A table whose first engine stands in for one that has four voices at most and may break."""

    class Four(cached.Voices):
        fault = None

        def __init__(self, decoder, batch, **how):
            assert batch <= 4
            super().__init__(decoder, batch, **how)

        def generate(self, *given):
            if self.fault:
                raise self.fault
            return super().generate(*given)

    engine = ModuleType("four")
    engine.Voices, engine.unavailable = Four, cached.unavailable
    monkeypatch.setitem(sys.modules, "wavenet_ae.sampler.four", engine)
    monkeypatch.setattr(sampler, "ENGINES", (*sampler.ENGINES, "four"))
    monkeypatch.setitem(sampler.CARRIES, "four", 4)
    table = ((8, "four"), (math.inf, "batched"), (math.inf, "four"), (math.inf, "cached"))
    monkeypatch.setitem(sampler.FASTEST, "cpu", table)
    return Four


def test_a_job_is_done_by_the_first_of_the_table_as_many_voices_at_a_time_as_it_has(tiny, four, monkeypatch):
    decoder = tiny()
    chosen = [sampler.choose(decoder, voices) for voices in (1, 4, 8, 9)]
    assert chosen == [("four", "fp32", 1), ("four", "fp32", 4), ("four", "fp32", 4), ("batched", "fp32", 9)]
    assert sampler.choose(decoder, 100, engine="four") == ("four", "fp32", 4), "in rounds"
    assert type(sampler.open_voices(decoder, 8)).__module__ == "wavenet_ae.sampler.batched", "eight at once"
    with pytest.raises(ValueError, match="'four' cannot run here: it has at most 4 voices, and 5 were asked for"):
        sampler.open_voices(decoder, 5, engine="four")
    monkeypatch.setattr(batched, "unavailable", lambda *_: "it is not there")
    assert sampler.choose(decoder, 9) == ("four", "fp32", 4), "rather than a slower one"


def test_an_engine_that_fails_on_its_first_frame_is_left_out(tiny, four, caplog):
    four.fault = RuntimeError("the driver knows no such GPU")
    assert sampler.choose(tiny(), 2) == ("batched", "fp32", 2)
    assert "engine 'four' is left out here: the driver knows no such GPU" in caplog.text
    with pytest.raises(ValueError, match="'four' cannot run here: the driver knows no such GPU"):
        sampler.choose(tiny(), 2, engine="four")


def test_weights_are_halved_on_cuda_by_whoever_can(monkeypatch):
    monkeypatch.setitem(sampler.FASTEST, "cuda", ((4, "cpu"), (math.inf, "batched")))

    def candidates(real, voices=1, engine="auto", precision="auto"):
        with FakeTensorMode(), torch.device("cuda"):  # of a GPU that is not there
            decoder = Decoder(layers=1, stages=1, width=2, skip_width=2, kernel_size=2, embedding_dims=1, hop=1)
            decoder.start.weight = torch.nn.Parameter(torch.empty(2, 1, 2, dtype=real))
            return sampler._candidates(decoder, voices, engine, precision)

    both = [("cpu", "fp16"), ("batched", "fp16"), ("cpu", "fp32"), ("batched", "fp32")]
    assert candidates(torch.float32) == both
    assert candidates(torch.float64) == both[2:]
    assert candidates(torch.float32, 5) == [("batched", "fp16"), ("batched", "fp32")]
    assert candidates(torch.float32, engine="cpu") == [("cpu", "fp16"), ("cpu", "fp32")]
    assert candidates(torch.float32, precision="int8") == [("cpu", "int8"), ("batched", "int8")]


def test_limits_of_engines_are_what_they_say():
    assert {"cuda": layout.MOST_VOICES} == sampler.CARRIES


def test_a_gpu_that_cannot_run_the_kernel_says_why(monkeypatch):
    found = {None: (9, 0), torch.device("cuda", 1): (7, 5)}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: found[device])
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    assert "pip install 'wavenet_ae[cuda]'" in device.unavailable()
    assert "compute capability is (7, 5): expected at least (8, 0)" in device.unavailable(torch.device("cuda", 1))


@given(seed=st.integers(0, 2**64 - 1), note=st.integers(0, 2**64 - 1), start=st.integers(0, 999), n=st.integers(1, 50))
@settings(max_examples=50)
def test_dice_depend_on_the_position_only(seed, note, start, n):
    whole = dice.throw(seed, note, 0, start + n)
    assert torch.equal(dice.throw(seed, note, start, n), whole[start:])
    assert whole.min() >= 0
    assert whole.max() < 1


def test_dice_differ_between_notes_and_seeds():
    thrown = [tuple(dice.throw(seed, note, 0, 4).tolist()) for seed in range(3) for note in range(3)]
    assert len(set(thrown)) == 9


def test_draw_is_the_inverse_cdf():
    even = torch.zeros(5, 4)  # cumulative 0.25, 0.5, 0.75, 1: exact in floating point
    uniform = torch.tensor([0.0, 0.2499, 0.25, 0.75, 0.9999])
    assert dice.draw(even, uniform).tolist() == [0, 0, 1, 3, 3], "an edge belongs to the code above it"


def test_draw_never_leaves_the_codes_that_have_a_probability():
    logits = torch.tensor([[0.0, 1.0, -torch.inf]]).repeat(2, 1)
    assert dice.draw(logits, torch.tensor([np.nextafter(1.0, 0.0), 1.0], dtype=torch.float64)).tolist() == [1, 1]


def test_temperature_sharpens_and_zero_is_the_likeliest():
    logits = torch.tensor([[1.0, 3.0, 2.0]]).repeat(1000, 1)
    uniform = torch.arange(1000, dtype=torch.float64) / 1000

    def share(temperature):
        return (dice.draw(logits, uniform, temperature) == 1).double().mean()

    assert share(0.0) == 1
    assert share(0.5) > share(1.0) > share(2.0)
    odds = logits[0].double().softmax(-1)
    assert abs(share(1.0) - odds[1]) <= 0.002


def test_top_p_keeps_the_fewest_likeliest_codes():
    logits = torch.tensor([[0.1, 0.4, 0.2, 0.3]]).log()
    uniform = torch.arange(400, dtype=torch.float64) / 400
    kept = [set(dice.draw(logits.repeat(400, 1), uniform, 1.0, top_p).tolist()) for top_p in (0.39, 0.41, 0.71, 1.0)]
    assert kept == [{1}, {1, 3}, {1, 2, 3}, {0, 1, 2, 3}]
    half = dice.draw(logits.repeat(400, 1), uniform, 1.0, 0.41)
    assert abs((half == 1).double().mean() - 4 / 7) <= 0.005, "what is kept is renormalised"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"engine": "gpu"}, "unknown engine 'gpu': choose one of auto, reference, cached, cpu"),
        ({"precision": "fp8"}, "unknown precision 'fp8': choose one of auto, fp32, bf16, int8"),
        (
            {"engine": "cached", "precision": "bf16"},
            "engine 'cached' cannot run here: it computes in the decoder's own",
        ),
        ({"temperature": -1.0}, r"temperature is -1.0: expected 0 \(the likeliest code\) or more"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"top_p": 0.0}, "top_p is 0.0: expected more than 0 and at most 1"),
        ({"seed": -1}, "seed is -1: expected an integer from 0"),
    ],
    ids=str,
)
def test_bad_settings_say_what_is_expected(tiny, settings, message):
    with pytest.raises(ValueError, match=message):
        sampler.generate(tiny(), torch.zeros(1, 4, 1, dtype=torch.float64), **settings)


@pytest.mark.parametrize("name", EXACT)
def test_what_is_no_sound_is_refused(tiny, name):
    decoder, code, told = tiny(), torch.zeros(1, 8, dtype=torch.long), torch.zeros(1, 4, 1, dtype=torch.float64)
    with pytest.raises(ValueError, match="0 voices were asked for: expected at least one"):
        sampler.generate(decoder, told[:0], engine=name)
    for wrong, count in ((told[..., :0], 0), (told * float("nan"), 4)):
        with pytest.raises(ValueError, match=rf"{count} of its numbers not finite: expected \[batch, dims, frames\]"):
            sampler.generate(decoder, wrong, engine=name)
        with pytest.raises(ValueError, match=rf"{count} of its numbers not finite: expected \[batch, dims, frames\]"):
            sampler.score(decoder, code, wrong, engine=name)
    for number in (-1, 256):
        with pytest.raises(ValueError, match=f"codes run from {number} to {number}: expected 0 to 255"):
            sampler.score(decoder, code + number, told, engine=name)


@pytest.mark.parametrize("name", EXACT)
def test_shapes_that_do_not_fit_are_refused(tiny, name):
    voices = sampler.open_voices(tiny(), 1, engine=name)

    def told(*shape):
        return torch.zeros(*shape, dtype=torch.float64)

    with pytest.raises(ValueError, match=r"15 samples of 1 voices do not match 2 .* hop 8: expected 16 samples of 1"):
        voices.score(told(1, 4, 2), torch.zeros(1, 15, dtype=torch.long))
    for shape in [(3, 4, 2), (1, 16, 2)]:
        with pytest.raises(ValueError, match=r"does not fit 1 voices .* 4 numbers a frame: expected \[1, 4, frames\]"):
            voices.generate(told(*shape), told(shape[0], 16))

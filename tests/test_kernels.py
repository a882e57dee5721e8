"""The GPU kernels' own source, run without a GPU on fibers: the reference's codes under any schedule."""

import copy
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from fibers import COMPILER, Fibers
from kernels import ENGINES, FEW, ODD, reference_score, scored, single, voices_on
from voices import inputs

from wavenet_ae import magenta, sampler
from wavenet_ae.sampler import clusters
from wavenet_ae.sampler.clusters import layout
from wavenet_ae.sampler.cuda import compiling, staying

pytestmark = pytest.mark.skipif(COMPILER is None, reason="needs a C++ compiler (g++ or clang++)")

GOLDEN = Path(__file__).parent / "data" / "magenta_wavenet"
MACHINES = [  # sizes, voices, blocks: enough to have idle rows, blocks of one channel, several items a warp
    (ODD, 2, 3),
    ({"kernel_size": 2, "stages": 4, "layers": 5}, 3, 7),
    ({"kernel_size": 1}, 1, 2),
    ({"layers": 1, "stages": 1, "width": 1, "skip_width": 1, "hop": 5}, 1, 2),
    ({"stages": 5, "layers": 6, "width": 16}, 8, 2),  # the longest gap is longer than a window
    ({"width": 48, "skip_width": 70, "layers": 7}, 3, 5),  # lanes that own rows of the skip and no channel
]


@pytest.fixture(params=ENGINES)
def engine(request):
    return request.param


@pytest.mark.parametrize(("sizes", "voices", "blocks"), MACHINES, ids=str)
def test_the_kernel_is_the_reference(engine, tiny, sizes, voices, blocks):
    decoder = single(tiny, **sizes)
    embedding, uniform = inputs(decoder, voices, frames=4)
    expected = sampler.open_voices(decoder, voices, engine="cached").generate(embedding, uniform, 0.9, 0.97)
    opened = voices_on(engine, Fibers(blocks), decoder, voices)
    assert torch.equal(opened.generate(embedding, uniform, 0.9, 0.97), expected)
    assert expected.unique().numel() > 12, "all codes alike: this test would prove nothing"
    score = voices_on(engine, Fibers(blocks, seed=99), decoder, voices).score(embedding, expected)
    assert (score - reference_score(decoder, embedding, expected)).abs().max() <= 1e-4


@pytest.mark.parametrize("seed", range(3))
def test_any_schedule_any_grid_and_any_number_of_voices_give_the_same_numbers(engine, tiny, seed):
    decoder = single(tiny, **ODD)
    expected, (embedding, code) = scored(engine, decoder, Fibers(3))
    assert torch.equal(scored(engine, decoder, Fibers(3, seed=1000 * seed))[0], expected)
    if seed == 0:
        assert torch.equal(scored(engine, decoder, Fibers(5))[0], expected)
        for precision in ("fp32", "fp16", "int8"):
            together = voices_on(engine, Fibers(3), decoder, 2, precision).score(embedding, code)
            alone = voices_on(engine, Fibers(5), decoder, 1, precision).score(embedding[1:], code[1:])
            assert torch.equal(alone, together[1:])


def test_weights_that_stay_in_shared_memory_are_those_that_do_not(tiny):
    decoder = single(tiny, **ODD)
    expected, (embedding, code) = scored("cuda", decoder, Fibers(3))
    whole = voices_on("cuda", Fibers(3), decoder, 2).plan
    opened = voices_on("cuda", Fibers(3, shared=whole.shared_bytes - 1), decoder, 2)
    assert 0 < opened.plan.resident < opened.plan.layers, "some weights are read from global memory"
    assert torch.equal(opened.score(embedding, code), expected)
    kept = voices_on("cuda", Fibers(3, shared=whole.shared_bytes - 1), decoder, 2, kept=1)
    assert torch.equal(kept.score(embedding, code), expected)


CHOIRS = [  # sizes, voices, blocks, warps and pieces: many and few of everything
    (ODD, 5, 4, {"size": 4, "mparts": 2}),
    (ODD, 5, 4, {"voices": 2}),  # three choirs, of which two are there at a time
    (ODD, 9, 2, {"pieces": 1}),
    (ODD, 3, 1, {"size": 1}),
    ({"width": 70, "kernel_size": 4}, 2, 8, {"size": 8, "kparts": 4}),
    ({"hop": 6}, 2, 2, {}),  # windows of two samples
    ({"width": 30}, 5, 2, {"gathers": 1}),
    ({"hop": 16, "stages": 5, "layers": 6}, 3, 2, {"window": 16}),
]


@pytest.mark.parametrize(("sizes", "voices", "blocks", "changed"), CHOIRS, ids=str)
def test_choirs_of_any_size_are_the_reference(tiny, sizes, voices, blocks, changed):
    decoder = single(tiny, **sizes)
    embedding, _ = inputs(decoder, voices, 3)
    code = torch.randint(256, (voices, 3 * decoder.hop))
    opened = clusters.Voices(decoder, voices, machine=Fibers(blocks), changed=FEW["clusters"] | changed)
    assert (opened.score(embedding, code) - reference_score(decoder, embedding, code)).abs().max() <= 1e-4


def test_voices_are_dealt_to_the_choirs_that_fit_beside_each_other(tiny):
    decoder = single(tiny, **ODD)
    expected, (embedding, code) = scored("clusters", decoder, Fibers(2), voices=17, frames=1)

    class Crowded(Fibers):
        def together(self, plan):
            return 2

    opened = voices_on("clusters", Crowded(8), decoder, 17)
    assert (opened.plan.choirs, opened.plan.voices) == (2, 9), "and not three choirs, of which one would wait"
    assert torch.equal(opened.score(embedding, code), expected)


def test_choirs_are_as_large_as_the_machine_lets_them_be(tiny):
    class Small(Fibers):
        largest = 8

        def together(self, plan):
            return self.blocks // plan.cluster if plan.cluster <= self.largest else 0

        def load(self, plan):
            return print

    decoder = single(tiny, width=128)
    assert layout.plan(decoder, 8, precision="fp32", together=2, shared=100_000).size == 16
    assert clusters.Voices(decoder, 8, machine=Small(32)).plan.size == 8
    Small.largest = 4
    with pytest.raises(sampler.DoesNotFit, match=r"8 blocks of .* cannot reach into each other's here"):
        clusters.Voices(decoder, 8, machine=Small(32))
    with pytest.raises(sampler.DoesNotFit, match=r"one voice of width 128 needs .* bytes of shared memory a block"):
        clusters.Voices(decoder, 1, machine=Fibers(32, shared=10_000))


WIDE = [  # ten groups of channels, five a warp; and, as at the published size, eight of one warp, no column empty
    ({"width": 150, "layers": 4, "hop": 4}, {}),
    ({"width": 128, "layers": 4, "hop": 4}, {"cuda": {"hearing": 1}}),
]


@pytest.mark.parametrize("precision", ["fp16", "int8"])
@pytest.mark.parametrize(("sizes", "changed"), WIDE, ids=str)
def test_groups_of_channels_are_added_up_alike_for_any_number_of_voices(engine, tiny, sizes, changed, precision):
    decoder, changed = single(tiny, **sizes), changed.get(engine, {})
    embedding, _ = inputs(decoder, 8, 2)
    code = torch.randint(256, (8, 2 * decoder.hop))
    expected = voices_on(engine, Fibers(32), decoder, 8, precision, **changed).score(embedding, code)
    assert (expected - reference_score(decoder, embedding, code)).abs().max() <= {"fp16": 0.02, "int8": 0.2}[precision]
    for voices in (1, 2, 3, 4):
        few = voices_on(engine, Fibers(3), decoder, voices, precision, **changed)
        assert torch.equal(few.score(embedding[:voices], code[:voices]), expected[:voices])


def test_chunks_and_forced_codes_continue_each_other(engine, tiny):
    decoder = single(tiny, **ODD)
    embedding, uniform = inputs(decoder, 2, frames=5)
    once = voices_on(engine, Fibers(3), decoder, 2).generate(embedding, uniform)
    voices = voices_on(engine, Fibers(3, seed=5), decoder, 2)
    parts = [voices.generate(embedding[:, :, :1], uniform[:, :8])]
    voices.score(embedding[:, :, 1:3], once[:, 8:24])
    parts.append(voices.generate(embedding[:, :, 3:], uniform[:, 24:]))
    assert torch.equal(torch.cat(parts, dim=-1), torch.cat([once[:, :8], once[:, 24:]], dim=-1))


def test_a_restarted_voice_is_a_new_one_and_leaves_the_others(engine, tiny):
    decoder = single(tiny, **ODD)
    embedding, uniform = inputs(decoder, 2, frames=5)
    expected = voices_on(engine, Fibers(3), decoder, 2).generate(embedding, uniform)
    voices = voices_on(engine, Fibers(3, seed=5), decoder, 2)
    voices.generate(embedding[:, :, :3], uniform[:, :24])
    voices.restart(1)
    mixed = torch.stack([embedding[0, :, 3:], embedding[1, :, :2]])
    second = voices.generate(mixed, torch.stack([uniform[0, 24:], uniform[1, :16]]))
    assert torch.equal(second, torch.stack([expected[0, 24:], expected[1, :16]]))


@pytest.mark.parametrize("settings", [(0.0, 1.0), (0.5, 1.0), (1.3, 0.3)], ids=str)
def test_the_draw_is_the_draw_of_the_dice(engine, tiny, settings):
    decoder = single(tiny, **ODD)
    embedding, uniform = inputs(decoder, 2, frames=2)
    expected = sampler.open_voices(decoder, 2, engine="cached").generate(embedding, uniform, *settings)
    assert torch.equal(voices_on(engine, Fibers(3), decoder, 2).generate(embedding, uniform, *settings), expected)


@pytest.mark.parametrize("settings", [(0.0, 1.0), (1.0, 0.45), (0.7, 0.85)], ids=str)
def test_of_equally_likely_codes_the_lower_comes_first(engine, tiny, settings):
    decoder = single(tiny, **ODD)
    embedding, uniform = inputs(decoder, 2, frames=2)
    with torch.no_grad():
        decoder.logits.weight.zero_()
        decoder.logits.bias.fill_(-40)
        decoder.logits.bias[[*range(8, 16), 100, 200]] = 0  # a lane's own, and two others
    expected = sampler.open_voices(decoder, 2, engine="cached").generate(embedding, uniform, *settings)
    assert torch.equal(voices_on(engine, Fibers(3), decoder, 2).generate(embedding, uniform, *settings), expected)


@pytest.mark.parametrize("precision", ["fp16", "bf16", "int8"])
def test_small_weights_err_at_most_twice_as_much_as_plain_torch(engine, tiny, precision):
    decoder = single(tiny, **ODD)
    score, (embedding, code) = scored(engine, decoder, Fibers(3), precision=precision)
    exact = reference_score(decoder, embedding, code)
    error = (score - exact).abs().mean()
    assert error > 3e-5, "nothing was rounded"
    if precision == "int8":
        assert error <= 0.02
        return
    dtype = {"fp16": torch.float16, "bf16": torch.bfloat16}[precision]
    with torch.inference_mode():
        plain = copy.deepcopy(decoder).to(dtype)(code, embedding.to(dtype)).double().log_softmax(1)
    assert error <= 2 * (plain - exact).abs().mean()


def test_numbers_too_large_for_16_bits_are_the_largest_and_not_infinite(engine, tiny):
    decoder = single(tiny, **ODD)
    with torch.no_grad():
        decoder.start.weight.mul_(1e6)
        for block in decoder.blocks:
            block.dilated.weight.mul_(1e-6)
    score, _ = scored(engine, decoder, Fibers(3), precision="fp16")
    assert score.isfinite().all()


def test_magentas_probabilities(engine):
    decoder, golden = magenta.load(GOLDEN / "model.ckpt-200000").decoder, np.load(GOLDEN / "golden.npz")
    decoder.hop = 32  # the beginning of the first frame
    code = torch.from_numpy(golden["quantized"][:1, :32]).long() + 128
    embedding = torch.from_numpy(golden["encoding"][:1, :1]).transpose(1, 2).contiguous()
    score = voices_on(engine, Fibers(3), decoder, 1).score(embedding, code)
    expected = torch.from_numpy(golden["fast_probabilities"][:1, :32])
    torch.testing.assert_close(score.exp().transpose(1, 2), expected, atol=2e-5, rtol=0)


@pytest.mark.parametrize("part", ["WAITS", "MULTIPLIES"])
def test_the_kernel_without_a_part_of_it_runs_to_its_end(engine, tiny, part):
    decoder = single(tiny, **ODD)
    embedding, uniform = inputs(decoder, 2, frames=4)
    for seed in range(4):
        voices = voices_on(engine, Fibers(3, seed=1000 * seed, changed={part: 0}), decoder, 2)
        assert voices.generate(embedding, uniform).shape == uniform.shape


@pytest.mark.parametrize("voices", [0, 9])
def test_more_voices_than_the_exchange_carries_are_refused(tiny, voices):
    with pytest.raises(ValueError, match=f"{voices} voices: the cuda engine has 1 to 8; engine='batched' has more"):
        voices_on("cuda", Fibers(), single(tiny), voices)


@pytest.mark.parametrize("kernel", ["voices.cu", "choirs.cu"])
def test_the_call_is_the_kernels(kernel):
    fields = (compiling.KERNELS / kernel).read_text().split("struct Call {")[1].split("};")[0]
    code = " ".join(line.split("//")[0] for line in fields.splitlines())
    names = [name for part in code.split(";") for name in part.replace("*", " ").split(",") if name.strip()]
    assert len(names) == len(struct.unpack(staying.CALL.format, bytes(staying.CALL.size)))
    assert staying.CALL.size == 8 * len(names)


@pytest.mark.parametrize("engine", ENGINES)
def test_what_cannot_run_says_why(engine, tiny):
    assert "stores weights in fp32, fp16, bf16, int8, not fp8" in ENGINES[engine].unavailable(tiny(), "fp8")
    assert "decoder is float64: use decoder.float()" in ENGINES[engine].unavailable(tiny(), "fp32")
    assert torch.cuda.is_available() or "no CUDA device" in ENGINES[engine].unavailable(single(tiny), "fp32")

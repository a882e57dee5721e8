"""The GPU kernel's own source, run without a GPU on fibers: the reference's codes under any schedule."""

import copy
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from fibers import COMPILER, Fibers

from wavenet_ae import magenta, sampler
from wavenet_ae.sampler import cuda

pytestmark = pytest.mark.skipif(COMPILER is None, reason="needs a C++ compiler (g++ or clang++)")

GOLDEN = Path(__file__).parent / "data" / "magenta_wavenet"
ODD = {"width": 12, "skip_width": 17}  # neither is a multiple of anything
MACHINES = [  # sizes, voices, blocks: enough to have idle rows, blocks of one channel, several items a warp
    (ODD, 2, 3),
    ({"kernel_size": 2, "stages": 4, "layers": 5}, 3, 7),
    ({"kernel_size": 1}, 1, 2),
    ({"layers": 1, "stages": 1, "width": 1, "skip_width": 1, "hop": 5}, 1, 2),
    ({"stages": 5, "layers": 6, "width": 16}, 8, 2),  # the longest gap is longer than a window
]


def single(tiny, **sizes):
    return tiny(torch.float32, **sizes)


def inputs(decoder, voices, frames=4):
    torch.manual_seed(1)
    embedding = torch.randn(voices, decoder.embedding_dims, frames)
    return embedding, torch.rand(voices, frames * decoder.hop, dtype=torch.float64)


def scored(decoder, machine, voices=2, frames=3, **settings):
    embedding, _ = inputs(decoder, voices, frames)
    code = torch.randint(256, (voices, frames * decoder.hop))
    return cuda.Voices(decoder, voices, machine=machine, **settings).score(embedding, code), (embedding, code)


def reference_score(decoder, embedding, code):
    return sampler.score(copy.deepcopy(decoder).double(), code, embedding.double(), engine="cached")


@pytest.mark.parametrize(("sizes", "voices", "blocks"), MACHINES, ids=str)
def test_the_kernel_is_the_reference(tiny, sizes, voices, blocks):
    decoder = single(tiny, **sizes)
    embedding, uniform = inputs(decoder, voices)
    expected = sampler.open_voices(decoder, voices, engine="cached").generate(embedding, uniform, 0.9, 0.97)
    opened = cuda.Voices(decoder, voices, machine=Fibers(blocks))
    assert torch.equal(opened.generate(embedding, uniform, 0.9, 0.97), expected)
    assert expected.unique().numel() > 12, "all codes alike: this test would prove nothing"
    score = cuda.Voices(decoder, voices, machine=Fibers(blocks, seed=99)).score(embedding, expected)
    assert (score - reference_score(decoder, embedding, expected)).abs().max() <= 1e-4


@pytest.mark.parametrize("seed", range(3))
def test_any_schedule_any_grid_and_any_number_of_voices_give_the_same_numbers(tiny, seed):
    decoder = single(tiny, **ODD)
    expected, (embedding, code) = scored(decoder, Fibers(3))
    assert torch.equal(scored(decoder, Fibers(3, seed=1000 * seed))[0], expected)
    if seed == 0:
        unfolded, _ = scored(decoder, Fibers(3), folded=0)
        assert 0 < (unfolded - expected).abs().max() <= 1e-5
        assert torch.equal(scored(decoder, Fibers(5))[0], expected)
        alone = cuda.Voices(decoder, 1, machine=Fibers(5)).score(embedding[1:], code[1:])
        assert torch.equal(alone, expected[1:])
        whole = cuda.layout.plan(decoder, 2, precision="fp32", blocks=3, shared=10**6)
        little = Fibers(3, shared=whole.shared_bytes - 1)
        opened = cuda.Voices(decoder, 2, machine=little, folded=whole.folded)
        assert opened.plan.resident < opened.plan.layers, "some weights are read from global memory"
        assert torch.equal(opened.score(embedding, code), expected)


def test_chunks_and_forced_codes_continue_each_other(tiny):
    decoder = single(tiny, **ODD)
    embedding, uniform = inputs(decoder, 2, frames=5)
    once = cuda.Voices(decoder, 2, machine=Fibers(3)).generate(embedding, uniform)
    voices = cuda.Voices(decoder, 2, machine=Fibers(3, seed=5))
    parts = [voices.generate(embedding[:, :, :1], uniform[:, :8])]
    voices.score(embedding[:, :, 1:3], once[:, 8:24])
    parts.append(voices.generate(embedding[:, :, 3:], uniform[:, 24:]))
    assert torch.equal(torch.cat(parts, dim=-1), torch.cat([once[:, :8], once[:, 24:]], dim=-1))


def test_a_restarted_voice_is_a_new_one_and_leaves_the_others(tiny):
    decoder = single(tiny, **ODD)
    embedding, uniform = inputs(decoder, 2, frames=5)
    expected = cuda.Voices(decoder, 2, machine=Fibers(3)).generate(embedding, uniform)
    voices = cuda.Voices(decoder, 2, machine=Fibers(3, seed=5))
    voices.generate(embedding[:, :, :3], uniform[:, :24])
    voices.restart(1)
    mixed = torch.stack([embedding[0, :, 3:], embedding[1, :, :2]])
    second = voices.generate(mixed, torch.stack([uniform[0, 24:], uniform[1, :16]]))
    assert torch.equal(second, torch.stack([expected[0, 24:], expected[1, :16]]))


@pytest.mark.parametrize("settings", [(0.0, 1.0), (0.5, 1.0), (1.3, 0.3)], ids=str)
def test_the_draw_is_the_draw_of_the_dice(tiny, settings):
    decoder = single(tiny, **ODD)
    embedding, uniform = inputs(decoder, 2, frames=2)
    expected = sampler.open_voices(decoder, 2, engine="cached").generate(embedding, uniform, *settings)
    assert torch.equal(cuda.Voices(decoder, 2, machine=Fibers(3)).generate(embedding, uniform, *settings), expected)


def rounded(decoder, precision):
    """The same decoder with its large matrices as the precision stores them, in float64."""
    decoder = copy.deepcopy(decoder).double()
    matrices = [conv.weight for block in decoder.blocks for conv in (block.residual, block.skip)]
    matrices += [block.dilated.weight for block in list(decoder.blocks)[1:]]  # the first is folded into the start
    for weight in matrices:
        for tap in range(weight.shape[-1]):
            matrix = weight.data[:, :, tap]
            scale = matrix.abs().amax(dim=1, keepdim=True) / 127
            stored = {"int8": (matrix / scale).round() * scale, "bf16": matrix.bfloat16(), "fp16": matrix.half()}
            matrix.copy_(stored[precision].double())
    return decoder


@pytest.mark.parametrize("precision", ["fp16", "bf16", "int8"])
def test_small_weights_are_the_rounded_decoder(tiny, precision):
    decoder = single(tiny, **ODD)
    score, (embedding, code) = scored(decoder, Fibers(3), precision=precision, folded=0)
    near, exact = (reference_score(d, embedding, code) for d in (rounded(decoder, precision), decoder))
    assert (score - near).abs().max() <= 1e-4
    error = (score - exact).abs().mean()
    assert error > 3e-5, "nothing was rounded"
    if precision == "bf16":
        folded, _ = scored(decoder, Fibers(3), precision=precision)
        assert 0 < (folded - exact).abs().mean() <= 2 * error, "a product of two matrices is rounded once"


def test_magentas_probabilities():
    decoder, golden = magenta.load(GOLDEN / "model.ckpt-200000").decoder, np.load(GOLDEN / "golden.npz")
    decoder.hop = 32  # the beginning of the first frame
    code = torch.from_numpy(golden["quantized"][:1, :32]).long() + 128
    embedding = torch.from_numpy(golden["encoding"][:1, :1]).transpose(1, 2).contiguous()
    score = cuda.Voices(decoder, 1, machine=Fibers(3)).score(embedding, code)
    expected = torch.from_numpy(golden["fast_probabilities"][:1, :32])
    torch.testing.assert_close(score.exp().transpose(1, 2), expected, atol=2e-5, rtol=0)


FAULTS = {
    "no barrier after numbers came": ("grid.cuh", "!__syncthreads_or(!take_box", "(take_box"),
    "no barrier after two boxes came": (
        "voices.cu",
        "if (__syncthreads_or(!all)) return false;\n    if (next",
        "if (next",
    ),
    "no barrier after the codes are heard": ("voices.cu", "  __syncthreads();\n}\n\nextern", "}\n\nextern"),
    "no barrier before a window is used": ("voices.cu", "if (__syncthreads_or(!all)) return false;", ""),
    "one place where two are needed": ("voices.cu", "SHARED_X) + layer % BUFFERS", "SHARED_X) + 0"),
    "the sample before is taken for this one": ("grid.cuh", "unsigned due = stamp(n);", "unsigned due = stamp(n) - 1;"),
    "only one of two mails is looked at": ("grid.cuh", "|| (unsigned)(got[k].at[1] >> 32) != due", ""),
    "a slot is one too far": ("voices.cu", "begin + s + tap * gap, layer", "begin + s + tap * gap + 1, layer"),
    "taps change places": ("voices.cu", "(TAPS - 1) + tap - 1;", "(TAPS - 1) + TAPS - 1 - tap;"),
    "an input late": ("voices.cu", "here.x(layer - 1) : here.x(layer)", "here.x(layer) : here.x(layer)"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_in_the_kernel_is_seen(tiny, fault):
    decoder = single(tiny, **ODD)
    expected, _ = scored(decoder, Fibers(3), frames=2)

    def runs(seed):
        try:
            score, _ = scored(decoder, Fibers(3, seed=seed, edit=FAULTS[fault]), frames=2)
        except RuntimeError as error:
            assert "waited in vain" in str(error)  # noqa: PT017
            return False
        return torch.equal(score, expected)

    assert not all(runs(1000 * seed) for seed in range(3))


def test_a_number_that_never_comes_is_an_error_and_not_a_hang(tiny):
    decoder = single(tiny, **ODD)
    embedding, uniform = inputs(decoder, 2)
    silent = ("voices.cu", "if (voice == VOICES || here.first + channel >= WIDTH) return;", "return;")
    voices = cuda.Voices(decoder, 2, machine=Fibers(3, edit=silent))
    with pytest.raises(RuntimeError, match="waited in vain for each other near sample 0"):
        voices.generate(embedding, uniform)
    with pytest.raises(RuntimeError, match="broken off inside a launch and cannot go on: open new ones"):
        voices.generate(embedding, uniform)


@pytest.mark.parametrize("voices", [0, 9])
def test_more_voices_than_the_exchange_carries_are_refused(tiny, voices):
    with pytest.raises(ValueError, match=f"{voices} voices: the cuda engine has 1 to 8; engine='batched' has more"):
        cuda.Voices(single(tiny), voices, machine=Fibers())


def test_the_call_is_the_kernels():
    fields = (cuda.compiling.KERNELS / "voices.cu").read_text().split("struct Call {")[1].split("};")[0]
    code = " ".join(line.split("//")[0] for line in fields.splitlines())
    names = [name for part in code.split(";") for name in part.replace("*", " ").split(",") if name.strip()]
    assert len(names) == len(struct.unpack(cuda.CALL.format, bytes(cuda.CALL.size)))
    assert cuda.CALL.size == 8 * len(names)


def test_what_cannot_run_says_why(tiny):
    assert "stores weights in fp32, fp16, bf16, int8, not fp8" in cuda.unavailable(tiny(), "fp8")
    assert "decoder is float64: use decoder.float()" in cuda.unavailable(tiny(), "fp32")
    assert torch.cuda.is_available() or "no CUDA device" in cuda.unavailable(single(tiny), "fp32")

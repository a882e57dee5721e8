"""What each block owns: every row of every matrix once, past taps in time, and nothing on top of anything else."""

import contextlib
import itertools
import math

import numpy as np
import pytest
import torch

from wavenet_ae.models.wavenet import Decoder
from wavenet_ae.sampler import weights
from wavenet_ae.sampler.cuda import layout, packing

H200 = {"blocks": 132, "shared": 232_448}


def sized(width=512, skip=256, layers=30, stages=10):
    with torch.device("meta"):
        sizes = {"width": width, "skip_width": skip, "layers": layers, "stages": stages}
        return Decoder(**sizes, kernel_size=3, embedding_dims=16, hop=512)


def in_order(dealt, rows):
    """[block, ..., each, inputs] back to [..., row, inputs]."""
    return np.moveaxis(dealt, 0, -3).reshape(*dealt.shape[1:-2], -1, dealt.shape[-1])[..., :rows, :]


def gates_in_order(dealt, width):
    """Rows of gates, a channel's two in turn, back to all sigmoid and then all tanh rows."""
    both = in_order(dealt, dealt.shape[0] * dealt.shape[-2])
    return np.concatenate([both[..., 0::2, :][..., :width, :], both[..., 1::2, :][..., :width, :]], axis=-2)


@pytest.mark.parametrize("blocks", [1, 3, 7, 132])
@pytest.mark.parametrize(
    "sizes", [{}, {"width": 40, "skip_width": 19}, {"kernel_size": 2}, {"kernel_size": 1}], ids=str
)
def test_every_row_has_one_owner(tiny, blocks, sizes):
    decoder = tiny(torch.float32, **sizes)
    plan = layout.plan(decoder, 1, precision="fp32", blocks=blocks, shared=10**6)
    packed, folded = packing.pack(decoder, plan), weights.fold(decoder)
    width, skip, c = decoder.start.out_channels, decoder.out.out_channels, plan.channels
    assert plan.blocks <= blocks
    assert plan.channels * (plan.blocks - 1) < plan.width <= plan.channels * plan.blocks, "no block is idle"
    residual = in_order(packed.now[:, :, 2 * c : 3 * c], width)
    skips = in_order(packed.now[:, :, 3 * c :], skip)
    for i in range(plan.layers):
        np.testing.assert_array_equal(skips[i, :, :width], folded.skip[i])
        if i:
            np.testing.assert_array_equal(
                gates_in_order(packed.now[:, i, : 2 * c], width)[:, :width], folded.current[i - 1]
            )
            for tap in range(1, plan.taps):
                oldest_first = np.split(folded.past[i - 1], plan.taps - 1, axis=1)
                actual = gates_in_order(packed.past[:, i - 1, tap - 1], width)[:, :width]
                np.testing.assert_array_equal(actual, oldest_first[plan.taps - 1 - tap])
        if i + 1 < plan.layers:
            np.testing.assert_array_equal(residual[i, :, :width], folded.residual[i])
    np.testing.assert_array_equal(in_order(packed.out, skip)[:, :skip], folded.out.astype(np.float32))
    np.testing.assert_array_equal(in_order(packed.scores, 256)[:, :skip], folded.logits.astype(np.float32))
    for i in range(plan.folded):
        product = folded.current[i + 1].astype(float) @ folded.residual[i + 1]
        actual = gates_in_order(packed.folded[:, i], width)[:, :width]
        np.testing.assert_array_equal(actual, product.astype(np.float32))
    assert plan.folded == plan.layers - 2, "a small decoder's layers are all folded"
    for matrix in (packed.now, packed.folded, packed.past):
        assert not matrix[..., width:].any(), "what pads a row is silent"
    assert np.count_nonzero(packed.now) == sum(
        np.count_nonzero(m) for matrices in (folded.current, folded.residual, folded.skip) for m in matrices
    )


@pytest.mark.parametrize("blocks", [1, 2, 7, 13, 16, 17, 100, 129, 132])
def test_a_block_that_is_overtaken_holds_the_others_back(blocks):
    """Before a box is used again every block must have told something: channels do, where there are two layers."""
    one, two = (layout.plan(sized(512, 256, n, 2), 1, precision="bf16", **(H200 | {"blocks": blocks})) for n in (1, 2))
    assert one.scores * (one.blocks - 1) < 256
    assert two.channels * (two.blocks - 1) < two.width


def test_int8_rows_keep_their_scales(tiny):
    decoder = tiny(torch.float32, width=20)
    plan = layout.plan(decoder, 1, precision="int8", blocks=3, shared=10**6, folded=0)
    packed, folded = packing.pack(decoder, plan), weights.fold(decoder)
    at, shape = layout.offsets(plan.own)["scale"], plan.own["scale"]
    scale = packed.own[:, at : at + math.prod(shape)].reshape(plan.blocks, *shape)
    now = gates_in_order((packed.now * scale[..., None])[:, 2, : 2 * plan.channels], 20)[:, :20]
    assert np.abs(now - folded.current[1]).max() <= np.abs(folded.current[1]).max() / 254 * 1.001


@pytest.mark.parametrize(("taps", "most"), list(itertools.product([1, 2, 3, 4], [1, 2, 8])))
def test_past_taps_are_summed_once_and_in_time(taps, most):
    """The kernel's ring of sums, as `look_back` fills it: slots, windows and order against the plain convolution."""
    numbers = np.random.default_rng(0)
    for gap in (1, 2, 4, 16):
        span, room, samples = min(most, gap), (taps - 1) * gap, 100
        x, tap_weights = numbers.standard_normal(samples), numbers.standard_normal(taps)
        ring = np.zeros(max(room, 1))
        for t in range(samples):
            past = sum(tap_weights[k] * x[t - k * gap] for k in range(1, taps) if t >= k * gap)
            assert taps == 1 or abs(ring[t % room] - past) <= 1e-12
            if taps > 1 and (t + 1) % span == 0:
                for s, tap in itertools.product(range(t + 1 - span, t + 1), range(1, taps)):
                    slot, product = (s + tap * gap) % room, tap_weights[tap] * x[s]
                    ring[slot] = product if tap == taps - 1 else ring[slot] + product


def test_the_published_decoder_on_an_h200():
    plan = layout.plan(sized(), 1, precision="bf16", **H200)
    assert (plan.blocks, plan.channels, plan.says, plan.scores, plan.window) == (128, 4, 2, 2, 8)
    assert plan.resident == 14, "of 30 layers, whose weights need not be read again"
    assert (plan.folded, plan.exchanges) == (10, 52)
    assert layout.plan(sized(), 1, precision="bf16", **H200, folded=28).exchanges == 34
    assert layout.plan(sized(), 1, precision="bf16", **H200, folded=0).exchanges == 62
    assert layout.plan(sized(), 1, precision="int8", **H200).exchanges == 34
    eight = layout.plan(sized(), 8, precision="bf16", **H200)
    assert (eight.window, eight.folded) == (2, 10), "folding changes the rounding: as much for any number of voices"


@pytest.mark.parametrize("voices", [1, 3, 8])
@pytest.mark.parametrize("precision", layout.BYTES)
@pytest.mark.parametrize(("width", "skip"), [(16, 16), (528, 256), (1024, 1024)])
def test_whatever_fits_is_where_the_kernel_expects_it(width, skip, precision, voices):
    plan = layout.plan(sized(width, skip), voices, precision=precision, **H200)
    assert plan.shared_bytes <= H200["shared"]
    assert plan.shared_bytes + 16 * plan.slab > H200["shared"] or plan.resident == plan.layers
    constants, regions = plan.constants, plan.shared
    for (name, shape), (following, _) in itertools.pairwise([*regions.items(), ("", ())]):
        at = constants[f"SHARED_{name.upper()}"]
        assert at % 16 == 0, "vectors of 16 bytes lie in it"
        end = constants[f"SHARED_{following.upper()}"] if following else plan.shared_bytes
        assert at + 4 * math.prod(shape) <= end


@pytest.mark.parametrize("precision", layout.BYTES)
@pytest.mark.parametrize("shared", [99_000, 163_000, 232_448])
@pytest.mark.parametrize("width", [64, 512, 1024])
def test_folding_does_not_depend_on_the_voices(width, shared, precision):
    plans = []
    for voices in (1, 2, 5, 8):
        with contextlib.suppress(ValueError):  # so many do not fit
            plans.append(layout.plan(sized(width), voices, precision=precision, blocks=108, shared=shared))
    assert plans
    assert len({plan.folded for plan in plans}) == 1


def test_voices_that_do_not_fit_are_refused():
    with pytest.raises(
        ValueError, match=r"8 voices of width 1024 need \d+ bytes of shared memory a block, and here are"
    ):
        layout.plan(sized(1024), 8, precision="bf16", blocks=132, shared=100_000)

"""What each block owns: every row of every matrix once, past taps in time, and nothing on top of anything else."""

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


def rows_of(tiles, plan):
    """[..., half, quad, warp, lane, bytes], as a tensor core's lanes read it, back to [..., rows, inputs]."""
    numbers = tiles.view({"fp32": np.float32, "int8": np.int8}[plan.precision])
    *outer, halves, quads, warps, _, _ = tiles.shape
    by_lane = numbers.reshape(*outer, halves, quads, warps, 8, 4, plan.quad, 4)
    n = len(outer)
    by_row = by_lane.transpose(*range(n), n, n + 3, n + 2, n + 1, n + 5, n + 4, n + 6)
    groups = -(-plan.width // (16 * warps))
    dealt = by_row.reshape(*outer, 8 * halves, warps, quads * plan.quad, 16)
    assert not dealt[..., groups:, :].any(), "what pads a warp's groups is silent"
    return dealt[..., :groups, :].reshape(*outer, 8 * halves, groups * warps * 16)


def unpacked(packed, plan):
    """The matrices of a block's rows: of outputs and inputs, [block, layer, rows, inputs]; of past taps by tap."""
    outputs, gates = plan.halves
    quads = -(-plan.width // (16 * plan.quad))
    past = packed.past.reshape(plan.blocks, plan.layers - 1, plan.taps - 1, gates, quads, 1, 32, 16)
    return (
        rows_of(packed.now[:, :, :outputs], plan)[:, :, : plan.rows],
        rows_of(packed.now[:, :, outputs:], plan)[:, :, : 2 * plan.channels],
        rows_of(past, plan)[:, :, :, : 2 * plan.channels],
    )


@pytest.mark.parametrize("blocks", [1, 3, 7, 132])
@pytest.mark.parametrize(
    "sizes", [{}, {"width": 40, "skip_width": 19}, {"width": 150, "kernel_size": 2}, {"kernel_size": 1}], ids=str
)
def test_every_row_has_one_owner(tiny, blocks, sizes):
    decoder = tiny(torch.float32, **sizes)
    plan = layout.plan(decoder, 1, precision="fp32", blocks=blocks, shared=10**6)
    packed, folded = packing.pack(decoder, plan), weights.fold(decoder)
    width, skip, c = decoder.start.out_channels, decoder.out.out_channels, plan.channels
    assert plan.blocks <= blocks
    assert plan.channels * (plan.blocks - 1) < plan.width <= plan.channels * plan.blocks, "no block is idle"
    assert plan.groups * (plan.hearing - 1) < plan.width / 16 <= plan.groups * plan.hearing, "no warp is idle"
    assert packed.now.shape[:1] == (plan.blocks,)
    assert packed.now[0, 0].size == 16 * plan.slab
    outputs, inputs, past = unpacked(packed, plan)
    follows, residual = gates_in_order(outputs[:, :, : 2 * c], width), in_order(outputs[:, :, 2 * c : 3 * c], width)
    skips, current = in_order(outputs[:, :, 3 * c :], skip), gates_in_order(inputs, width)
    for i in range(plan.layers):
        np.testing.assert_array_equal(skips[i, :, :width], folded.skip[i])
        if i + 1 == plan.layers:
            assert not any(rows[i].any() for rows in (follows, residual, current)), "nothing follows the last"
            continue
        np.testing.assert_array_equal(residual[i, :, :width], folded.residual[i])
        np.testing.assert_array_equal(current[i, :, :width], folded.current[i])
        product = folded.current[i].astype(float) @ folded.residual[i]
        np.testing.assert_array_equal(follows[i, :, :width], product.astype(np.float32))
        for tap in range(1, plan.taps):
            oldest_first = np.split(folded.past[i], plan.taps - 1, axis=1)
            actual = gates_in_order(past[:, i, tap - 1], width)[:, :width]
            np.testing.assert_array_equal(actual, oldest_first[plan.taps - 1 - tap])
    np.testing.assert_array_equal(in_order(packed.out, skip)[:, :skip], folded.out.astype(np.float32))
    np.testing.assert_array_equal(in_order(packed.scores, 256)[:, :skip], folded.logits.astype(np.float32))
    for matrix in (outputs, inputs, past):
        assert not matrix[..., width:].any(), "what pads a row is silent"


def test_int8_rows_keep_their_scales(tiny):
    decoder = tiny(torch.float32, width=20)
    plan = layout.plan(decoder, 1, precision="int8", blocks=3, shared=10**6)
    packed, folded = packing.pack(decoder, plan), weights.fold(decoder)
    at, shape = layout.offsets(plan.own)["scale"], plan.own["scale"]
    scale = packed.own[:, at : at + math.prod(shape)].reshape(plan.blocks, *shape)
    _, inputs, _ = unpacked(packed, plan)
    current = gates_in_order((inputs * scale[:, :, : 2 * plan.channels, None])[:, 1], 20)[:, :20]
    both = max(np.abs(folded.current[1]).max(), np.abs(folded.current[1] @ folded.residual[1]).max())
    assert np.abs(current - folded.current[1]).max() <= both / 254 * 1.001


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
    plan = layout.plan(sized(), 1, precision="fp16", **H200)
    assert (plan.blocks, plan.channels, plan.says, plan.scores, plan.window) == (128, 4, 2, 2, 8)
    assert (plan.hearing, plan.groups, plan.halves) == (4, 8, (2, 1))
    assert plan.resident == 9, "of 30 layers, whose weights need not be read again"
    assert plan.exchanges == 33
    assert layout.plan(sized(), 1, precision="int8", **H200).resident == 18
    assert layout.plan(sized(), 8, precision="bf16", **H200).window == 2


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


def test_voices_that_do_not_fit_are_refused():
    with pytest.raises(
        ValueError, match=r"8 voices of width 1024 need \d+ bytes of shared memory a block, and here are"
    ):
        layout.plan(sized(1024), 8, precision="bf16", blocks=132, shared=48_000)

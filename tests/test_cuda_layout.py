"""What each block owns: every row of every matrix once, past taps in time, and nothing on top of anything else."""

import itertools
import math

import fibers
import numpy as np
import pytest
import torch
from fibers import COMPILER

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


def remembered(find, plan, layer, samples):
    """What a layer's ring of sums adds at every sample, filled as the kernel's `remember` does; and what it should."""
    numbers, gap = np.random.default_rng(layer), 2 ** (layer % plan.stages)
    x, tap_weights, ring = numbers.standard_normal(samples), numbers.standard_normal(plan.taps), np.zeros(plan.ahead)
    actual, expected = np.zeros((2, samples))
    for t in range(samples):
        expected[t] = sum(tap_weights[k] * x[t - k * gap] for k in range(1, plan.taps) if t >= k * gap)
        actual[t] = ring[find(layer, t).slot]
        if find(layer, t).until_due == 0:
            window = range(t + 1 - find(layer, t).window, t + 1)
            for s, tap in itertools.product(window, range(1, plan.taps)):
                slot, product = find(layer, s + tap * gap).slot, tap_weights[tap] * x[s] if s >= 0 else 0
                ring[slot] = product if tap == plan.taps - 1 else ring[slot] + product
    return actual, expected


SPANS = [(2, 1), (3, 1), (3, 8), (4, 2)]  # taps; voices, which decide how many samples a window has


@pytest.mark.skipif(COMPILER is None, reason="needs a C++ compiler (g++ or clang++)")
@pytest.mark.parametrize(("taps", "voices"), SPANS)
def test_past_taps_are_summed_once_and_in_time(tiny, taps, voices):
    """The kernel's own windows, slots and boxes, at the published gaps, which take too long on fibers."""
    decoder = tiny(torch.float32, layers=30, stages=10, kernel_size=taps)
    plan = layout.plan(decoder, voices, precision="fp32", blocks=1, shared=10**6)
    find = fibers.finder(plan)
    for layer in (1, 2, 3, 6, 9, 10, 29):
        actual, expected = remembered(find, plan, layer, samples=2**11)
        np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-12)
    gaps = {layer: 2 ** (layer % plan.stages) for layer in range(1, plan.layers)}
    slots = [{find(layer, t).slot for t in range((taps - 1) * gap)} for layer, gap in gaps.items()]
    assert sum(map(len, slots)) == len(set.union(*slots)) == plan.ahead, "no two layers share a slot"


@pytest.mark.skipif(COMPILER is None, reason="needs a C++ compiler (g++ or clang++)")
@pytest.mark.parametrize("voices", [1, 3, 8])
def test_boxes_keep_a_window_until_it_is_remembered(tiny, voices):
    """While a block remembers a window, others may tell the sample after it."""
    decoder = tiny(torch.float32, layers=30, stages=10)
    plan = layout.plan(decoder, voices, precision="fp32", blocks=1, shared=10**6)
    find = fibers.finder(plan)
    for t in range(64):
        for layer in (1, 2, 3, 9):
            needed = range(t + 1 - find(layer, t).window, t + 2)
            assert len({find(layer, s).box for s in needed}) == len(needed)
        again = next(s for s in range(t + 1, t + 1000) if find(1, s).box == find(1, t).box)
        assert find(1, again).turn != find(1, t).turn, "old words would be taken for new ones"
    due = [sum(find(layer, t).until_due == 0 for layer in range(1, plan.layers)) for t in range(64)]
    even = sum(1 / find(layer, 0).window for layer in range(1, plan.layers))
    assert max(due) <= even + 3, "layers take turns: their windows are not all full at once"


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

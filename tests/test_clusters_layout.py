"""What each block of a choir owns: every row once, in the order in which it is read, and past taps in time."""

import itertools
import math

import fibers
import numpy as np
import pytest
import torch
from fibers import COMPILER

from wavenet_ae.models.wavenet import Decoder
from wavenet_ae.sampler import weights
from wavenet_ae.sampler.clusters import layout, packing

NUMBERS = {"fp32": np.float32, "fp16": np.float16, "int8": np.int8}
H200 = {"together": 8, "shared": 232_448}


def sized(width=512, skip=256, layers=30, stages=10):
    with torch.device("meta"):
        sizes = {"width": width, "skip_width": skip, "layers": layers, "stages": stages}
        return Decoder(**sizes, kernel_size=3, embedding_dims=16, hop=512)


class Reel:
    """A block's tape, read as the kernel does: a matrix at a time, in rows."""

    def __init__(self, tape, plan):
        self.tape, self.plan, self.at = tape.reshape(-1), plan, 0

    def matrix(self, rows):
        plan, tiles = self.plan, -(-rows // 16)
        size = plan.quads * plan.kparts * tiles * 64 * 16
        numbers = self.tape[self.at : self.at + size].view(NUMBERS[plan.precision])
        self.at += size
        outer = plan.quads, plan.kparts, tiles
        if plan.precision == "fp16":  # quad, part, tile, group, row, lane, word, half, number
            by_row = numbers.reshape(*outer, 2, 8, 4, 2, 2, 2).transpose(2, 7, 4, 1, 0, 3, 5, 6, 8)
        else:  # quad, part, tile, half, row, lane, group, input
            by_row = numbers.reshape(*outer, 2, 8, 4, plan.quad, 4).transpose(2, 3, 4, 1, 0, 6, 5, 7)
        groups = -(-plan.width // (16 * plan.kparts))
        dealt = by_row.reshape(16 * tiles, plan.kparts, plan.quads * plan.quad, 16)
        assert not dealt[:, :, groups:].any(), "what pads a part's groups is silent"
        return dealt[:, :, :groups].reshape(16 * tiles, -1)[:rows, : plan.width]


def unpacked(packed, plan):
    """By block: past taps [layer - 1][tap], gates [layer - 1] and spread [layer], each [rows, width]."""
    for tape in packed.tape:
        reel = Reel(tape, plan)
        taps, later = range(plan.taps - 1), range(plan.layers - 1)
        past = [[reel.matrix(2 * plan.channels) for _ in taps] for _ in later]
        spread, gates = [reel.matrix(plan.spread)], []
        for _ in later:
            gates.append(reel.matrix(2 * plan.channels))
            spread.append(reel.matrix(plan.spread))
        assert reel.at == 16 * plan.tape, "the tape ends where the kernel's does"
        yield past, gates, spread


def in_order(rows, width):
    """Blocks' rows of gates, a channel's two in turn, back to all sigmoid and then all tanh rows."""
    both = np.concatenate(rows)
    return np.concatenate([both[0::2][:width], both[1::2][:width]])[:, :width]


@pytest.mark.parametrize("size", [1, 2, 8, 16])
@pytest.mark.parametrize(
    "sizes", [{}, {"width": 40, "skip_width": 19}, {"width": 150, "kernel_size": 2}, {"kernel_size": 1}], ids=str
)
def test_every_row_has_one_owner(tiny, size, sizes):
    decoder = tiny(torch.float32, **sizes)
    plan = layout.plan(decoder, 1, precision="fp32", together=8, shared=10**6, size=size)
    packed, folded = packing.pack(decoder, plan), weights.fold(decoder)
    width, skip, c = decoder.start.out_channels, decoder.out.out_channels, plan.channels
    past, gates, spread = zip(*unpacked(packed, plan), strict=True)
    for i in range(plan.layers):
        np.testing.assert_array_equal(np.concatenate([b[i][c:] for b in spread])[:skip, :width], folded.skip[i])
        residual = np.concatenate([b[i][:c] for b in spread])
        if i + 1 == plan.layers:
            assert not residual.any(), "nothing follows the last"
            continue
        np.testing.assert_array_equal(residual[:width, :width], folded.residual[i])
        np.testing.assert_array_equal(in_order([b[i] for b in gates], width), folded.current[i])
        oldest_first = np.split(folded.past[i], max(plan.taps - 1, 1), axis=1)
        for tap in range(plan.taps - 1):
            actual = in_order([b[i][tap] for b in past], width)
            np.testing.assert_array_equal(actual, oldest_first[plan.taps - 2 - tap])
        assert not any(b[i][:, width:].any() for b in (*gates, *spread)), "what pads a row is silent"


def test_16_bit_numbers_are_the_same_rows(tiny):
    decoder = tiny(torch.float32, width=150)
    plan = layout.plan(decoder, 1, precision="fp16", together=8, shared=10**6)
    folded = weights.fold(decoder)
    _, gates, _ = zip(*unpacked(packing.pack(decoder, plan), plan), strict=True)
    np.testing.assert_array_equal(in_order([b[1] for b in gates], 150), folded.current[1].astype(np.float16))


def test_int8_rows_keep_their_scales(tiny):
    decoder = tiny(torch.float32, width=40)
    plan = layout.plan(decoder, 1, precision="int8", together=8, shared=10**6)
    packed, folded = packing.pack(decoder, plan), weights.fold(decoder)

    def table(name):
        at, shape = layout.offsets(plan.own)[name], plan.own[name]
        return packed.own[:, at : at + math.prod(shape)].reshape(plan.size, *shape)

    scale, past_scale = table("scale"), table("past_scale")
    past, gates, _ = zip(*unpacked(packed, plan), strict=True)
    opened = 2 * plan.channels
    current = in_order([b[1] * s[2, :opened, None] for b, s in zip(gates, scale, strict=True)], 40)
    assert np.abs(current - folded.current[1]).max() <= np.abs(folded.current[1]).max() / 254 * 1.001
    for tap, oldest_first in enumerate(np.split(folded.past[1], 2, axis=1)):
        earlier = in_order([b[1][1 - tap] * s[1, :, None] for b, s in zip(past, past_scale, strict=True)], 40)
        assert np.abs(earlier - oldest_first).max() <= np.abs(folded.past[1]).max() / 254 * 1.001


@pytest.mark.skipif(COMPILER is None, reason="needs a C++ compiler (g++ or clang++)")
@pytest.mark.parametrize(("taps", "hop"), [(2, 512), (3, 512), (3, 12), (4, 512)])
def test_past_taps_are_recalled_once_and_in_time(tiny, taps, hop):
    """The kernel's own windows and slots, at the published gaps, which take too long on fibers."""
    decoder = tiny(torch.float32, layers=30, stages=10, kernel_size=taps, hop=hop)
    plan = layout.plan(decoder, 1, precision="fp32", together=8, shared=10**6)
    find = fibers.finder(plan)  # `until_due`: 0 where a window begins; `slot` of the window, `box` of the ring
    for layer in (1, 2, 3, 6, 9, 10, 29):
        numbers, gap = np.random.default_rng(layer), 2 ** (layer % plan.stages)
        x, tap_weights = numbers.standard_normal(2**11), numbers.standard_normal(taps)
        ring, ahead = np.zeros(plan.history), np.full(plan.ahead, np.nan)
        for t in range(len(x)):
            if find(layer, t).until_due == 0:
                for s, n in itertools.product(range(t, t + find(layer, t).window), range(1, taps)):
                    at, product = find(layer, s).slot, tap_weights[n] * ring[find(layer, s - n * gap).box]
                    ahead[at] = product if n == 1 else ahead[at] + product
            expected = sum(tap_weights[n] * x[t - n * gap] for n in range(1, taps) if t >= n * gap)
            assert abs(ahead[find(layer, t).slot] - expected) <= 1e-12
            ring[find(layer, t).box] = x[t]
    gaps = {layer: 2 ** (layer % plan.stages) for layer in range(1, plan.layers)}
    for field, most, all_of_them in (("box", (taps - 1) * 2**30, plan.history), ("slot", plan.window, plan.ahead)):
        lengths = {layer: min((taps - 1) * gap if field == "box" else gap, most) for layer, gap in gaps.items()}
        places = [{getattr(find(layer, t), field) for t in range(n)} for layer, n in lengths.items()]
        assert sum(map(len, places)) == len(set.union(*places)) == all_of_them, "no two layers share a place"


def test_the_published_decoder_on_an_h200():
    plan = layout.plan(sized(), 256, precision="fp16", **H200)
    assert (plan.choirs, plan.voices, plan.size, plan.channels, plan.says, plan.scores) == (8, 32, 16, 32, 16, 16)
    assert (plan.quads, plan.tiles, plan.piece, plan.window) == (4, (4, 3), 16_384, 8)
    assert plan.pieces == 7
    few = layout.plan(sized(), 8, precision="fp16", **H200)
    assert (few.choirs, few.voices) == (1, 8), "one choir reads the weights once for all eight"
    many = layout.plan(sized(), 1024, precision="fp16", **H200)
    assert (many.choirs, many.voices) == (32, 32), "four times as many as are there together, all alike"
    fewer = layout.plan(sized(), 256, precision="fp16", together=7, shared=H200["shared"])
    assert (fewer.choirs, fewer.voices) == (7, 37), "none waits"


@pytest.mark.parametrize("voices", [1, 3, 8, 30])
@pytest.mark.parametrize("precision", layout.BYTES)
@pytest.mark.parametrize(("width", "skip"), [(16, 16), (528, 256), (1024, 1024)])
def test_whatever_fits_is_where_the_kernel_expects_it(width, skip, precision, voices):
    plan = layout.plan(sized(width, skip), voices, precision=precision, **H200)
    assert plan.shared_bytes <= H200["shared"]
    assert plan.shared_bytes + plan.piece + 16 > H200["shared"] or plan.pieces == layout.PIECES[1]
    constants, regions = plan.constants, plan.shared
    for (name, shape), (following, _) in itertools.pairwise([*regions.items(), ("", ())]):
        at = constants[f"SHARED_{name.upper()}"]
        assert at % 16 == 0, "vectors of 16 bytes lie in it"
        end = constants[f"SHARED_{following.upper()}"] if following else plan.shared_bytes
        assert at + 4 * math.prod(shape) <= end

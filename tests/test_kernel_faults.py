"""Faults planted in the GPU kernels' source: each is seen on fibers, and nothing waits for ever."""

import pytest
import torch
from fibers import COMPILER, Fibers
from kernels import ODD, scored, single, voices_on
from voices import inputs

pytestmark = pytest.mark.skipif(COMPILER is None, reason="needs a C++ compiler (g++ or clang++)")

FAULTS_OF_VOICES = {
    "the adder does not wait for the hearers": (
        "voices.cu",
        "const int step = layer;\n    meet(2, SPEAKERS);",
        "const int step = layer;\n    arrive(2, SPEAKERS);",
    ),
    "a hearer does not wait for the adder": (
        "voices.cu",
        "meet(2, SPEAKERS);  // a hearer",
        "arrive(2, SPEAKERS);  // a hearer",
    ),
    "no barrier after a box came": (
        "voices.cu",
        "hear_box<VOICES * SKIP>(from, x, turn, patience);\n  meet(3, HEARERS);",
        "hear_box<VOICES * SKIP>(from, x, turn, patience);",
    ),
    "no barrier after the codes are heard": (
        "voices.cu",
        "    hear_code(here, sample);\n    meet(1, SPEAKERS);",
        "    arrive(1, SPEAKERS);\n    hear_code(here, sample);",
    ),
    "one place where two are needed": ("voices.cu", "(step % 2 * TILES * 16 + row)", "(row)"),
    "the sample before is taken for this one": ("words.cuh", "return !(opaque(u) & 1);", "return !(opaque(u) & 0);"),
    "only three of four words are looked at": ("words.cuh", " | (q.at[3] ^ turn)", ""),
    "what was told is not waited for": ("voices.cu", "WAITS && !is_of(told, turn)", "false"),
    "a slot is one too far": (
        "voices.cu",
        "begin + s + (tap + 1) * gap, layer",
        "begin + s + (tap + 1) * gap + 1, layer",
    ),
    "taps change places": ("voices.cu", "tap = half / GATE_HALVES,", "tap = TAPS - 2 - half / GATE_HALVES,"),
    "inputs that are not there": ("voices.cu", "if (upper < GATE_HALVES)", "if (false)"),
    "what is remembered is not waited for": (
        "voices.cu",
        "if (TAPS > 1) await(here.done",
        "if (false) await(here.done",
    ),
    "what is remembered is waited for until a sample before": (
        "voices.cu",
        "until_due(t - 1, layer), patience)",
        "until_due(t - 1, layer) - 1, patience)",
    ),
    "a lane announces what its warp has not yet written": (
        "voices.cu",
        "remember(here, layer, t, patience);\n      __syncwarp();",
        "remember(here, layer, t, patience);",
    ),
    "boxes for the samples of one window": (
        "voices.cu",
        '#include "tables.cuh"',
        '#include "tables.cuh"\n#undef RING\n#define RING WINDOW',
    ),
}

FAULTS_OF_CHOIRS = {
    "sums are read before all warps have written theirs": (
        "choirs.cu",
        "matrix.times(here.outputs);\n    meet(1, SINGERS);",
        "matrix.times(here.outputs);",
    ),
    "inputs are not waited for": ("choirs.cu", "ears.hear(here, INPUTS, BOX_BYTES);", ""),
    "outputs are not waited for": ("choirs.cu", "ears.hear(here, OUTPUTS, BOX_BYTES);", ""),
    "too few bytes are waited for": ("choirs.cu", "(here.box + box, bytes)", "(here.box + box, bytes - 16)"),
    "the sample before is taken for this one": ("choirs.cu", "turns ^= 1u << box;", ""),
    "a piece is taken for the one before": ("choirs.cu", "await(here.full + at, round & 1, patience);", ""),
    "a piece is copied over one that is still needed": (
        "choirs.cu",
        "await(here.empty + at, round + 1 & 1, patience);",
        "await(here.empty + at, 1, patience);",
    ),
    "the past is not published": ("choirs.cu", "if (sample) cluster_wait();  // inputs", "if (sample) {}  // inputs"),
    "the past is published too early": (
        ("choirs.cu", "    cluster_arrive();  // late", "    // late"),
        (
            "choirs.cu",
            "      begin();\n      spread(0, t);",
            "      cluster_arrive();\n      begin();\n      spread(0, t);",
        ),
    ),
    "the codes are not waited for": ("choirs.cu", "ears.hear(here, CODE, VOICES * 4);", ""),
    "a window is one sample too late": ("choirs.cu", "t + sample - tap * gap,", "t + sample + 1 - tap * gap,"),
    "a layer's ring is another's": ("choirs.cu", "return (TAPS - 1) * begin_of(layer, 30);", "return 0;"),
    "a layer's window is another's": ("choirs.cu", "return begin_of(layer, WINDOW_EXPONENT);", "return 0;"),
    "scores go to one block": ("choirs.cu", "here.box + SCORED, voice % SIZE)", "here.box + SCORED, 0)"),
}
FAULTS = {"cuda": FAULTS_OF_VOICES, "clusters": FAULTS_OF_CHOIRS}


@pytest.mark.parametrize(("engine", "fault"), [(engine, fault) for engine in FAULTS for fault in FAULTS[engine]])
def test_a_fault_in_the_kernel_is_seen(tiny, engine, fault):
    decoder, edit = single(tiny, **ODD), FAULTS[engine][fault]
    edits = edit if isinstance(edit[0], tuple) else (edit,)
    expected, _ = scored(engine, decoder, Fibers(3), frames=2)

    def runs(seed):
        try:
            score, _ = scored(engine, decoder, Fibers(3, seed=seed, edit=edits), frames=2)
        except RuntimeError as error:
            assert "waited in vain" in str(error)  # noqa: PT017
            return False
        except AssertionError as error:
            assert "left behind" in str(error)  # noqa: PT017
            return False
        return torch.equal(score, expected)

    assert not all(runs(1000 * seed) for seed in range(4))


def test_numbers_are_gathered_before_they_are_told(tiny):
    decoder = single(tiny, width=30)
    early = ("choirs.cu", "    let_copies_see();\n    meet(1, SINGERS);", "    let_copies_see();")
    expected, _ = scored("clusters", decoder, Fibers(2), frames=1)
    assert torch.equal(scored("clusters", decoder, Fibers(2), frames=1, gathers=1)[0], expected)
    assert not torch.equal(scored("clusters", decoder, Fibers(2, edit=(early,)), frames=1, gathers=1)[0], expected)


NEVER_IN_VOICES = {
    "a number": ("voices.cu", "if (WIDTH % CHANNELS && here.first + channel >= WIDTH) tells", "tells"),
    "the end of remembering": ("voices.cu", "announce(here.done + layer, (int)sample + 1)", "announce(here.done, 0)"),
    "the hint to remember": (
        "voices.cu",
        "await_hint(here.heard_of, (int)sample",
        "await_hint(here.done, 1 + (int)sample",
    ),
    "the last number to remember": (
        "voices.cu",
        "turn_in_ring(begin + s), patience)",
        "turn_in_ring(begin + s) ^ (t + 1 == here.call.clock + here.call.frames * HOP), patience)",
    ),
}

NEVER_IN_CHOIRS = {
    "a block's numbers": (
        "choirs.cu",
        "peer < SIZE; peer += sharing) send(",
        "peer < SIZE; peer += sharing) if (box != OUTPUTS || here.rank) send(",
    ),
    "a code": ("choirs.cu", "if (WAITS && lane < SIZE) send(here.code", "if (lane < SIZE - 1) send(here.code"),
    "a piece of the tape": ("choirs.cu", "copy_in(here.pieces", "if (at) copy_in(here.pieces"),
    "room for a piece": ("choirs.cu", "if (threadIdx.x % 32 == 0) arrive(here.empty + at);", ""),
}

NEVER = {"cuda": NEVER_IN_VOICES, "clusters": NEVER_IN_CHOIRS}


@pytest.mark.parametrize(("engine", "what"), [(engine, what) for engine in NEVER for what in NEVER[engine]])
def test_what_never_comes_is_an_error_and_not_a_hang(engine, tiny, what):
    decoder = single(tiny, **ODD)
    embedding, uniform = inputs(decoder, 2, frames=2)
    for seed in range(3):
        voices = voices_on(engine, Fibers(3, seed=1000 * seed, edit=(NEVER[engine][what],)), decoder, 2)
        with pytest.raises(RuntimeError, match="waited in vain for each other near sample 0"):
            voices.generate(embedding, uniform)
    with pytest.raises(RuntimeError, match="broken off inside a launch and cannot go on: open new ones"):
        voices.generate(embedding, uniform)


def test_warps_that_lose_patience_one_after_another_stop_together(tiny):
    """Those that hear only blocks that have given up, and go on, must not leave behind those that still wait."""
    withheld = (
        "voices.cu",
        "if (WIDTH % CHANNELS && here.first + channel >= WIDTH) tells",
        "if (blockIdx.x == 2 && channel == 0 && layer == 1 && t == 3) tells",
    )
    late = ("patience.cuh", "if (tries % 1024", "if ((tries + 331 * (threadIdx.x / 32) + 77 * blockIdx.x) % 1024")
    decoder = single(tiny, width=64)
    embedding, uniform = inputs(decoder, 1, frames=1)
    for seed in range(4):
        machine = Fibers(4, seed=1000 * seed, edit=(withheld, late))
        voices = voices_on("cuda", machine, decoder, 1, hearing=4)
        with pytest.raises(RuntimeError, match="waited in vain for each other near sample 0"):
            voices.generate(embedding, uniform)


def test_fibers_that_go_round_in_circles_are_left_behind(tiny):
    with pytest.raises(AssertionError, match="left behind"):
        scored("cuda", single(tiny, **ODD), Fibers(3, most_turns=100_000))

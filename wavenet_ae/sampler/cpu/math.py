"""The gate and the draw, compiled."""

from typing import no_type_check

import numba
import numpy as np
from numba import types
from numba.extending import overload, register_jitable

LOG2E, LN2_HIGH, LN2_LOW = np.float32(1.442695041), np.float32(0.693359375), np.float32(-2.12194440e-4)
ROUND = np.float32(12582912)  # 1.5 * 2**23: adding it rounds to a whole number
C2, C3, C4, C5, C6 = (np.float32(c) for c in (0.5, 0.16666589, 0.041666374, 0.0083693, 0.00139376))


@register_jitable
@no_type_check
def fast_exp(x):
    """Exp of x in float32, for |x| <= 80: relative error below 2e-7."""
    n = (x * LOG2E + ROUND) - ROUND
    r = (x - n * LN2_HIGH) - n * LN2_LOW
    power = np.uint32((np.int32(n) + np.int32(127)) << np.int32(23)).view(np.float32)
    return (((((C6 * r + C5) * r + C4) * r + C3) * r + C2) * (r * r) + r + np.float32(1)) * power


@no_type_check
def gate(opened, value):
    """sigmoid(opened) * tanh(value): libm in float64; in float32 one division, absolute error below 3e-7."""


@overload(gate)
@no_type_check
def _gate(opened, value):
    @no_type_check
    def exact(opened, value):
        return np.tanh(value) / (1 + np.exp(-opened))

    @no_type_check
    def fast(opened, value):
        one, two, far, edge = np.float32(1), np.float32(2), np.float32(60), np.float32(10)
        shut = fast_exp(-min(max(opened, -far), far))
        fall = fast_exp(-two * min(max(value, -edge), edge))
        return (one - fall) / ((one + shut) * (one + fall))

    return exact if opened == types.float64 else fast


@numba.njit(nogil=True, error_model="numpy")
@no_type_check
def draw(logits, at, uniform, temperature, top_p, odds):
    """`dice.draw` for the voice whose logits begin at `at`; `odds` is float64 room for as many codes."""
    top = 0
    for code in range(odds.size):
        if logits[at + code] > logits[at + top]:
            top = code
    if temperature == 0:
        return top
    highest = np.float64(logits[at + top]) / temperature
    for code in range(odds.size):
        odds[code] = np.exp(np.float64(logits[at + code]) / temperature - highest)
    if top_p < 1:
        keep_nucleus(odds, top_p)
    total, last = 0.0, 0
    for code in range(odds.size):
        total += odds[code]
        last = code if odds[code] > 0 else last
    threshold, reached, code = uniform * total, odds[0], 0
    while code < last and reached <= threshold:
        code += 1
        reached += odds[code]
    return code


@numba.njit(nogil=True, error_model="numpy")
@no_type_check
def keep_nucleus(odds, top_p):
    """Zero all but the fewest likeliest codes that reach top_p together; of equals the lower code comes first."""
    order, spare = np.arange(odds.size), np.empty(odds.size, np.int64)
    run = 1
    while run < odds.size:  # merge sort, stable
        for low in range(0, odds.size, 2 * run):
            middle, high = min(low + run, odds.size), min(low + 2 * run, odds.size)
            left, right = low, middle
            for to in range(low, high):
                if left < middle and (right >= high or odds[order[left]] >= odds[order[right]]):
                    spare[to] = order[left]
                    left += 1
                else:
                    spare[to] = order[right]
                    right += 1
        order, spare = spare, order
        run *= 2
    total = 0.0
    for code in order:
        total += odds[code]
    reached = 0.0
    for code in order:
        likely = odds[code]
        reached += likely
        if reached - likely >= top_p * total:
            odds[code] = 0

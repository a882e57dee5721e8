"""A matrix product whose sums stay in registers: c[r, n] += a[r, k] * b[k, n], each matrix with strides of its own."""

# ruff: noqa: PLR0913, PLR0917 -- a kernel has addresses, strides and sizes
from typing import Any, no_type_check

import numba
from llvmlite import binding, ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from wavenet_ae.sampler.cpu.vector import I64, address_of, load_vector, splat

MULTIPLE = 32  # of what widths must be multiples; a panel on any machine divides it
FLOAT = ir.FloatType()
FEATURES = binding.get_host_cpu_features()
IS_FOR_THIS_CORE = bool(FEATURES.get("avx"))
# Numbers in a register, columns of a tile, which lie side by side in b and in c, and rows of the tallest: its sums fill
# 24 of 32 registers or 12 of 16. In panels of 32 by 3 rows the latter take 1.7 times as long.
LANES, PANEL, ROWS = (16, 32, 12) if FEATURES.get("avx512f") else (8, 16, 6)


def _tile(rows: int) -> Any:
    """An intrinsic that adds so many rows of one panel."""

    @no_type_check
    def tile(typing, a, a_at, a_row, a_step, b, b_at, b_step, c, c_at, c_row, count):
        @no_type_check
        def codegen(context, builder, signature, args):
            (a_type, b_type, c_type) = (signature.args[at] for at in (0, 4, 7))
            first_a = address_of(context, builder, a_type, args[0], args[1])
            first_b = address_of(context, builder, b_type, args[4], args[5])
            first_c = address_of(context, builder, c_type, args[7], args[8])
            lines = [builder.gep(first_a, [builder.mul(args[2], I64(r))]) for r in range(rows)]
            sums = [builder.gep(first_c, [builder.mul(args[9], I64(r))]) for r in range(rows)]
            sums = [builder.gep(line, [I64(at)]) for line in sums for at in range(0, PANEL, LANES)]
            _accumulate(builder, lines, args[3], first_b, args[6], sums, args[10])
            return context.get_dummy_value()

        at = types.int64
        return types.void(a, at, at, at, b, at, at, c, at, at, at), codegen

    return intrinsic(tile)


def _accumulate(builder: Any, lines: list[Any], a_step: Any, b: Any, b_step: Any, outs: list[Any], count: Any) -> None:
    """The loop over k; `count` is at least one."""
    vector = ir.VectorType(FLOAT, LANES)
    signature = ir.FunctionType(vector, [vector] * 3)
    fma = cgutils.get_or_insert_function(builder.module, signature, f"llvm.fmuladd.v{LANES}f32")
    before = [load_vector(builder, out, FLOAT, LANES) for out in outs]
    entry, loop, done = builder.block, builder.append_basic_block("sums"), builder.append_basic_block("done")
    builder.branch(loop)
    builder.position_at_end(loop)
    k, sums = builder.phi(I64), [builder.phi(vector) for _ in outs]
    row = builder.gep(b, [builder.mul(k, b_step)])
    columns = [load_vector(builder, builder.gep(row, [I64(at)]), FLOAT, LANES) for at in range(0, PANEL, LANES)]
    here = builder.mul(k, a_step)
    values = [splat(builder, builder.load(builder.gep(line, [here])), LANES) for line in lines]
    after = builder.add(k, I64(1))
    for at, (total, first) in enumerate(zip(sums, before, strict=True)):
        line, column = divmod(at, len(columns))
        then = builder.call(fma, [values[line], columns[column], total])
        total.add_incoming(first, entry)
        total.add_incoming(then, loop)
        sums[at] = then
    k.add_incoming(I64(0), entry)
    k.add_incoming(after, loop)
    builder.cbranch(builder.icmp_signed("<", after, count), loop, done)
    builder.position_at_end(done)
    for out, total in zip(outs, sums, strict=True):
        builder.store(total, builder.bitcast(out, vector.as_pointer())).align = 4


_tall, _four, _one = _tile(ROWS), _tile(4), _tile(1)


@numba.njit(nogil=True, error_model="numpy")
@no_type_check
def multiply(a, a_at, a_row, a_step, b, b_at, b_panel, b_step, c, c_at, c_row, rows, columns, count):
    """Add a product to c, all three flat; b's panels are `b_panel` apart. `columns` is a multiple of PANEL."""
    for panel in range(columns // PANEL):
        right, to = b_at + panel * b_panel, c_at + panel * PANEL
        r = 0
        while r + ROWS <= rows:
            _tall(a, a_at + r * a_row, a_row, a_step, b, right, b_step, c, to + r * c_row, c_row, count)
            r += ROWS
        while r + 4 <= rows:
            _four(a, a_at + r * a_row, a_row, a_step, b, right, b_step, c, to + r * c_row, c_row, count)
            r += 4
        while r < rows:
            _one(a, a_at + r * a_row, a_row, a_step, b, right, b_step, c, to + r * c_row, c_row, count)
            r += 1

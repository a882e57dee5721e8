"""What the CPU kernel needs and numba cannot say: products of panels held in registers, and atomics.

A panel is `PANEL` rows of a matrix stored input by input, [inputs, PANEL], so that a product reads memory
straight through. A tile is what one product keeps in registers: a panel by eight columns, or two panels by
fewer. Each output is one chain of fused multiply-adds over the inputs in order: it does not depend on how
many columns or panels are multiplied together, nor on which thread does it.
"""

import platform
import sys
from typing import Any, no_type_check

import numba
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from wavenet_ae.sampler.weights import PANEL

LANES = 16
VECTORS = PANEL // LANES
UNROLL = 4  # inputs per turn of the loop; their number must be a multiple of it
LINE = 64  # bytes of a cache line
COLUMNS = 8  # of the widest tile: with one panel's two vectors that is 16 sums in registers
AHEAD = 8192  # bytes that the widest tile asks for in advance: it multiplies too long for the hardware to do so
I32, I64 = ir.IntType(32), ir.IntType(64)


def address_of(context: Any, builder: Any, array_type: Any, array: Any, index: Any) -> Any:
    """The address of array[index], of a one-dimensional array."""
    return builder.gep(context.make_array(array_type)(context, builder, array).data, [index])


def splat(builder: Any, value: Any, count: int = LANES) -> Any:
    """One number in every lane."""
    empty = ir.Constant(ir.VectorType(value.type, count), ir.Undefined)
    first = builder.insert_element(empty, value, ir.Constant(I32, 0))
    return builder.shuffle_vector(first, empty, ir.Constant(ir.VectorType(I32, count), [0] * count))


def load_vector(builder: Any, pointer: Any, element: Any, count: int = LANES) -> Any:
    """So many numbers that lie side by side from `pointer` on."""
    vector = ir.VectorType(element, count)
    loaded = builder.load(builder.bitcast(pointer, vector.as_pointer()))
    loaded.align = 4
    return loaded


def _rows(builder: Any, pointer: Any, stored: Any, real: Any) -> list[Any]:
    """One input's weights for every row of a panel, as VECTORS vectors of real numbers."""

    def at(index: int) -> Any:
        return builder.gep(pointer, [ir.Constant(I64, index)])

    if stored == types.uint16:  # two rows to a 32-bit word: a shift widens one, a mask the other
        rows = []
        for pair in range(VECTORS // 2):
            words = load_vector(builder, at(2 * LANES * pair), I32)
            shift, mask = (splat(builder, ir.Constant(I32, number)) for number in (16, 0xFFFF0000))
            for widened in (builder.shl(words, shift), builder.and_(words, mask)):
                rows.append(builder.bitcast(widened, ir.VectorType(real, LANES)))
        return rows
    if stored == types.int8:
        wide = ir.VectorType(I32, LANES)
        bytes_ = [load_vector(builder, at(LANES * v), ir.IntType(8)) for v in range(VECTORS)]
        return [builder.sitofp(builder.sext(b, wide), ir.VectorType(real, LANES)) for b in bytes_]
    return [load_vector(builder, at(LANES * v), real) for v in range(VECTORS)]


def _tile(panels: int, columns: int) -> Any:
    """An intrinsic that adds so many panels times so many columns to what stands in `out`."""

    @no_type_check
    def tile(typing, weights, panel, stride, x, x_at, x_stride, inputs, out, out_at, out_stride):  # noqa: PLR0913, PLR0917
        @no_type_check
        def codegen(context, builder, signature, args):
            first_panel = address_of(context, builder, signature.args[0], args[0], args[1])
            first_x = address_of(context, builder, signature.args[3], args[3], args[4])
            first_out = address_of(context, builder, signature.args[7], args[7], args[8])
            starts = [builder.gep(first_panel, [builder.mul(args[2], I64(p))]) for p in range(panels)]
            xs = [builder.gep(first_x, [builder.mul(args[5], I64(c))]) for c in range(columns)]
            rows = [builder.gep(first_out, [builder.mul(args[9], I64(c))]) for c in range(columns)]
            outs = [builder.gep(row, [I64(LANES * v)]) for row in rows for v in range(panels * VECTORS)]
            real = context.get_data_type(signature.args[3].dtype)
            _accumulate(builder, starts, signature.args[0].dtype, xs, outs, args[6], real)
            return context.get_dummy_value()

        at = types.int64
        return types.void(weights, at, at, x, at, at, at, out, at, at), codegen

    return intrinsic(tile)


def _accumulate(
    builder: Any, panels: list[Any], stored: Any, xs: list[Any], outs: list[Any], inputs: Any, real: Any
) -> None:
    """The loop over inputs: each of the sums at `outs` stays in a register."""
    vector = ir.VectorType(real, LANES)
    name = f"llvm.fmuladd.v{LANES}f{32 if isinstance(real, ir.FloatType) else 64}"
    fma = cgutils.get_or_insert_function(builder.module, ir.FunctionType(vector, [vector] * 3), name)
    before = [load_vector(builder, pointer, real) for pointer in outs]
    entry, loop, done = builder.block, builder.append_basic_block("inputs"), builder.append_basic_block("done")
    builder.branch(loop)
    builder.position_at_end(loop)
    k, sums = builder.phi(I64), [builder.phi(vector) for _ in outs]
    running = list(sums)
    for step in range(UNROLL):
        now = builder.add(k, I64(step))
        here = [builder.gep(panel, [builder.mul(now, I64(PANEL))]) for panel in panels]
        if len(xs) == COLUMNS and step * PANEL * stored.bitwidth % (8 * LINE) == 0:
            _ask_for(builder, here[0], max(1, PANEL * stored.bitwidth // (8 * LINE)))
        rows = [row for pointer in here for row in _rows(builder, pointer, stored, real)]
        values = [splat(builder, builder.load(builder.gep(x, [now]))) for x in xs]
        for at, total in enumerate(running):
            running[at] = builder.call(fma, [rows[at % len(rows)], values[at // len(rows)], total])
    after = builder.add(k, I64(UNROLL))
    for phi, first, then in zip([k, *sums], [I64(0), *before], [after, *running], strict=True):
        phi.add_incoming(first, entry)
        phi.add_incoming(then, loop)
    builder.cbranch(builder.icmp_signed("<", after, inputs), loop, done)
    builder.position_at_end(done)
    for pointer, total in zip(outs, running, strict=True):
        builder.store(total, builder.bitcast(pointer, vector.as_pointer())).align = 4


def _ask_for(builder: Any, pointer: Any, lines: int) -> None:
    """Have the lines that lie AHEAD brought into the second cache. Past the end of an array this does nothing."""
    address = ir.IntType(8).as_pointer()
    signature = ir.FunctionType(ir.VoidType(), [address, I32, I32, I32])
    prefetch = cgutils.get_or_insert_function(builder.module, signature, "llvm.prefetch.p0")
    for line in range(lines):
        there = builder.gep(builder.bitcast(pointer, address), [I64(AHEAD + LINE * line)])
        builder.call(prefetch, [there, I32(0), I32(2), I32(1)])  # to read, into level 2, data


one_1, one_2, one_4, one_8 = (_tile(1, columns) for columns in (1, 2, 4, 8))
two_1, two_2, two_4 = (_tile(2, columns) for columns in (1, 2, 4))


@numba.njit(nogil=True, error_model="numpy")
@no_type_check
def multiply(  # noqa: PLR0912, PLR0913, PLR0917, C901
    weights, at, stride, x, x_at, inputs, x_stride, out, out_at, out_stride, columns, panels
):
    """Add panels of a matrix, `stride` weights apart, times columns of x to columns of out."""
    wide = columns // COLUMNS * COLUMNS
    for panel in range(panels):
        here, to = at + panel * stride, out_at + panel * PANEL
        for c in range(0, wide, COLUMNS):
            x_c, to_c = x_at + c * x_stride, to + c * out_stride
            one_8(weights, here, stride, x, x_c, x_stride, inputs, out, to_c, out_stride)
    panel = 0
    while panel < panels and wide < columns:
        both = panel + 1 < panels
        here, c = at + panel * stride, wide
        while c < columns:
            left = columns - c
            x_c, to_c = x_at + c * x_stride, out_at + panel * PANEL + c * out_stride
            if left >= 4:
                if both:
                    two_4(weights, here, stride, x, x_c, x_stride, inputs, out, to_c, out_stride)
                else:
                    one_4(weights, here, stride, x, x_c, x_stride, inputs, out, to_c, out_stride)
                c += 4
            elif left >= 2:
                if both:
                    two_2(weights, here, stride, x, x_c, x_stride, inputs, out, to_c, out_stride)
                else:
                    one_2(weights, here, stride, x, x_c, x_stride, inputs, out, to_c, out_stride)
                c += 2
            else:
                if both:
                    two_1(weights, here, stride, x, x_c, x_stride, inputs, out, to_c, out_stride)
                else:
                    one_1(weights, here, stride, x, x_c, x_stride, inputs, out, to_c, out_stride)
                c += 1
        panel += 2


@intrinsic
@no_type_check
def fetch_add(typing, array, index, value):
    """Add to an int64 as one step that no other thread can split."""

    @no_type_check
    def codegen(context, builder, signature, args):
        pointer = address_of(context, builder, signature.args[0], args[0], args[1])
        return builder.atomic_rmw("add", pointer, args[2], "seq_cst")

    return types.int64(array, types.int64, types.int64), codegen


@intrinsic
@no_type_check
def load_acquire(typing, array, index):
    """Read an int64 that another thread writes, and see all it wrote before."""

    @no_type_check
    def codegen(context, builder, signature, args):
        pointer = address_of(context, builder, signature.args[0], args[0], args[1])
        return builder.load_atomic(pointer, "acquire", 8)

    return types.int64(array, types.int64), codegen


@intrinsic
@no_type_check
def pause(typing):
    """Tell the core that this is a spin."""

    @no_type_check
    def codegen(context, builder, signature, args):
        if platform.machine().lower() in ("x86_64", "amd64"):
            signature = ir.FunctionType(ir.VoidType(), [])
            builder.call(cgutils.get_or_insert_function(builder.module, signature, "llvm.x86.sse2.pause"), [])
        return context.get_dummy_value()

    return types.void(), codegen


@intrinsic
@no_type_check
def give_way(typing):
    """Let another thread have the core, where the system has such a call."""

    @no_type_check
    def codegen(context, builder, signature, args):
        if sys.platform != "win32":
            signature = ir.FunctionType(I32, [])
            builder.call(cgutils.get_or_insert_function(builder.module, signature, "sched_yield"), [])
        return context.get_dummy_value()

    return types.void(), codegen

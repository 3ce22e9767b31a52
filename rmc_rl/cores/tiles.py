"""The innermost part of a matrix product, for compiled code: one tile of the result, held in registers.

Written as vector instructions of LLVM, as no loop in Numba becomes them: 90 to 100% of what the processor can do, for
small matrices too, on whatever processor LLVM knows. `matmul` makes products of these tiles.
"""

from collections.abc import Callable
from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir
from numba import types
from numba.core import cgutils as numba_cgutils
from numba.extending import intrinsic

cgutils: Any = numba_cgutils
_features: Any = llvm.get_host_cpu_features()
_has_avx512 = bool(_features.get("avx512f"))
_is_x86 = "sse2" in _features

LANES = 16 if _has_avx512 else 8 if _features.get("avx2") else 4
"""Numbers in a vector."""
VECTORS = 2
"""Side by side in a tile."""
COLUMNS = VECTORS * LANES
"""Of a tile."""
ROWS = 4 if _is_x86 and not _has_avx512 else 8
"""Of a tile. The sums fill half of the registers at most: enough of them to hide that an addition takes its time."""
HAS_BF16 = _has_avx512 and bool(_features.get("avx512bf16"))
"""Whether the processor multiplies bfloat16 and sums in float32, by vectors."""
_has_fma = not _is_x86 or bool(_features.get("fma"))


class _BFloat(ir.Type):  # type: ignore[misc]
    """LLVM's bfloat16, which llvmlite has no name for."""

    def _to_string(self) -> str:
        return "bfloat"


_float, _int32, _int64 = ir.FloatType(), ir.IntType(32), ir.IntType(64)
_vector = ir.VectorType(_float, LANES)
_pairs = ir.VectorType(_BFloat(), 2 * LANES)
MultiplyAdd = Callable[[ir.IRBuilder, ir.Value, ir.Value, ir.Value], ir.Value]


def _float32(builder: ir.IRBuilder, x: ir.Value, y: ir.Value, total: ir.Value) -> ir.Value:
    """total + x * y, number by number; in one instruction, and rounded once, where there is one."""
    if not _has_fma:
        return builder.fadd(total, builder.fmul(x, y))
    signature = ir.FunctionType(_vector, [_vector] * 3)
    return builder.call(
        cgutils.get_or_insert_function(builder.module, signature, f"llvm.fma.v{LANES}f32"), [x, y, total]
    )


def _bf16_pairs(builder: ir.IRBuilder, x: ir.Value, y: ir.Value, total: ir.Value) -> ir.Value:
    """total + x[0] * y[0] + x[1] * y[1], where every 32 bits of x and y are two numbers in bfloat16."""
    signature = ir.FunctionType(_vector, [_vector, _pairs, _pairs])
    product = cgutils.get_or_insert_function(builder.module, signature, f"llvm.x86.avx512bf16.dpbf16ps.{32 * LANES}")
    return builder.call(product, [total, builder.bitcast(x, _pairs), builder.bitcast(y, _pairs)])


def _make_tile(rows: int) -> Any:
    """A function for compiled code that computes a tile of `rows` rows; see `TILES`."""

    def tile(
        typing_context: Any,
        form: Any,
        x: Any,
        row_stride: Any,
        step_stride: Any,
        packed: Any,
        steps: Any,
        out: Any,
        out_stride: Any,
        accumulate: Any,
    ) -> Any:
        multiply_add = _float32 if isinstance(form.dtype, types.Float) else _bf16_pairs

        def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
            _generate(builder, rows, multiply_add, *arguments[1:])
            return context.get_dummy_value()

        return types.void(form, *[types.intp] * 7, types.boolean), generate

    return intrinsic(tile)


def _generate(
    builder: ir.IRBuilder,
    rows: int,
    multiply_add: MultiplyAdd,
    x: ir.Value,
    row_stride: ir.Value,
    step_stride: ir.Value,
    packed: ir.Value,
    steps: ir.Value,
    out: ir.Value,
    out_stride: ir.Value,
    accumulate: ir.Value,
) -> None:
    """The instructions of a tile, of at least one step; see `TILES` for the arguments."""
    targets = [
        _address(builder, out, builder.mul(out_stride, ir.Constant(_int64, row)), vector)
        for row in range(rows)
        for vector in range(VECTORS)
    ]
    before, load = builder.block, builder.append_basic_block("load")
    loop, store = builder.append_basic_block("loop"), builder.append_basic_block("store")
    builder.cbranch(accumulate, load, loop)

    builder.position_at_end(load)
    present = [_load(builder, target) for target in targets]
    builder.branch(loop)

    builder.position_at_end(loop)
    step, totals = builder.phi(_int64), [builder.phi(_vector) for _ in targets]
    for block in (before, load):
        step.add_incoming(ir.Constant(_int64, 0), block)
    for total, value in zip(totals, present, strict=True):
        total.add_incoming(ir.Constant(_vector, [0.0] * LANES), before)
        total.add_incoming(value, load)
    offset = builder.mul(step, ir.Constant(_int64, COLUMNS * 4))
    columns = [_load(builder, _address(builder, packed, offset, vector)) for vector in range(VECTORS)]
    sums = []
    for row in range(rows):
        start = builder.add(x, builder.mul(row_stride, ir.Constant(_int64, row)))
        number = _spread(builder, builder.add(start, builder.mul(step_stride, step)))
        for column, total in zip(columns, totals[row * VECTORS : (row + 1) * VECTORS], strict=True):
            sums.append(multiply_add(builder, number, column, total))
    following = builder.add(step, ir.Constant(_int64, 1))
    step.add_incoming(following, loop)
    for total, value in zip(totals, sums, strict=True):
        total.add_incoming(value, loop)
    builder.cbranch(builder.icmp_signed("<", following, steps), loop, store)

    builder.position_at_end(store)
    for target, value in zip(targets, sums, strict=True):
        builder.store(value, target).align = 4


def _address(builder: ir.IRBuilder, base: ir.Value, offset: ir.Value, vector: int) -> ir.Value:
    place = builder.add(builder.add(base, offset), ir.Constant(_int64, vector * LANES * 4))
    return builder.inttoptr(place, _vector.as_pointer())


def _load(builder: ir.IRBuilder, address: ir.Value) -> ir.Value:
    value = builder.load(address)
    value.align = 4
    return value


def _spread(builder: ir.IRBuilder, address: ir.Value) -> ir.Value:
    """The 32 bits at an address, in every place of a vector."""
    number = _load(builder, builder.inttoptr(address, _float.as_pointer()))
    nothing = ir.Constant(_vector, ir.Undefined)
    first = builder.insert_element(nothing, number, ir.Constant(_int32, 0))
    return builder.shuffle_vector(first, nothing, ir.Constant(ir.VectorType(_int32, LANES), [0] * LANES))


TILES: dict[int, Any] = {rows: _make_tile(rows) for rows in (8, 4, 2, 1)}
"""By their rows: functions (form, x, row stride, step stride, packed, steps, out, out's row stride, accumulate).

out[r, c] = sum over s of x[r, s] * packed[s, c], added to what is there if `accumulate`. Places are addresses, and
strides count bytes; packed is [steps, COLUMNS], without gaps. Where the array `form` is of uint16, x and packed are
bfloat16, and a step is two numbers side by side: packed is [steps, COLUMNS, 2].
"""

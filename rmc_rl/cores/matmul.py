"""Matrix products for compiled code: x @ M; for the sum of outer products that a gradient is, see `outer_products`.

M comes as an *operand*, made by `products.operand`, whose form says how to multiply:
- float32 [panels, inner, COLUMNS]: M [inner, columns] in parts of COLUMNS, zeros at the end; multiplied in `tiles`.
- bfloat16 [panels, inner / 2, COLUMNS * 2]: the same, with every two numbers of a column side by side.
- bfloat16 [inner, columns]: M itself, for the library (`blas`).
x is rounded to bfloat16 for the last two, where it is not so already. Sums and results are float32. All arrays are
C-contiguous; bfloat16 is stored as uint16.
"""

from typing import Any

import numpy as np
from numba import types
from numba.extending import overload

from .blas import BF16_GEMM
from .compilation import compiled, compiled_with_memory
from .storage import rounded, value
from .tiles import COLUMNS, ROWS, TILES

_full, _four, _two, _one = (TILES[rows] for rows in (ROWS, 4, 2, 1))
# The Fortran interface takes addresses only: here as integers, which are passed alike.
_bf16_gemm: Any = types.ExternalFunction(BF16_GEMM, types.void(*[types.uintp] * 13))


@compiled_with_memory
def multiply(x: Any, operand: Any, out: Any, accumulate: bool) -> None:
    """out [R, columns] = x [R, inner] @ M, added to what is there if `accumulate`."""
    _multiply_by_form(x, operand, out, accumulate)


def _multiply_by_form(x: Any, operand: Any, out: Any, accumulate: bool) -> None:
    """`multiply`, for what Numba compiles in its place by the operand's type."""


@overload(_multiply_by_form, strict=False)
def _multiply(x: Any, operand: Any, out: Any, accumulate: Any) -> Any:
    if operand.ndim == 2:
        return lambda x, operand, out, accumulate: _multiply_in_library(x, operand, out, accumulate)
    if isinstance(operand.dtype, types.Float):
        return lambda x, operand, out, accumulate: _multiply_in_tiles(x, operand, out, accumulate)

    def in_pairs(x: Any, operand: Any, out: Any, accumulate: Any) -> None:
        _multiply_in_tiles(_in_bf16(x, 2 * operand.shape[1]), operand, out, accumulate)

    return in_pairs


@compiled_with_memory
def _rounded(x: Any, width: int) -> Any:
    """x [R, W] in bfloat16 [R, width], with zeros at the end."""
    out = np.zeros((x.shape[0], width), np.uint16)
    for r in range(x.shape[0]):
        for i in range(x.shape[1]):
            out[r, i] = rounded(value(x[r, i]))
    return out


def _in_bf16(x: Any, width: int) -> Any:
    """The same, but x itself where it is so already."""


@overload(_in_bf16, strict=False)
def _in_bf16_by_type(x: Any, width: Any) -> Any:
    if isinstance(x.dtype, types.Float):
        return lambda x, width: _rounded(x, width)
    return lambda x, width: x if x.shape[1] == width else _rounded(x, width)


# --- In tiles --------------------------------------------------------------------------------------------------------


@compiled_with_memory
def _multiply_in_tiles(x: Any, operand: Any, out: Any, accumulate: Any) -> None:
    stride = x.shape[1] * x.itemsize
    _panels(x.ctypes.data, ROWS * stride, stride, 4, operand, operand.shape[1], out, accumulate)


@compiled_with_memory
def _panels(
    x: int, block_stride: int, row_stride: int, step_stride: int, packed: Any, steps: int, out: Any, accumulate: bool
) -> None:
    """out [R, C] from the address of x, and packed [panels, at least `steps`, ...].

    Strides are in bytes; a block of ROWS rows of x begins every `block_stride`, and its rows every `row_stride`.
    """
    rows, columns = out.shape
    strides = block_stride, row_stride, step_stride
    scratch = np.empty((rows if columns % COLUMNS else 0, COLUMNS), np.float32)
    for p in range(packed.shape[0] if steps > 0 else 0):
        begin, panel = p * COLUMNS, packed[p].ctypes.data
        if begin + COLUMNS <= columns:
            _panel(packed, x, strides, panel, steps, out.ctypes.data + 4 * begin, 4 * columns, rows, accumulate)
        else:
            _panel(packed, x, strides, panel, steps, scratch.ctypes.data, 4 * COLUMNS, rows, False)
            for r in range(rows):
                for c in range(begin, columns):
                    out[r, c] = scratch[r, c - begin] + (out[r, c] if accumulate else np.float32(0))


@compiled
def multiply_panel(
    form: Any,
    x: int,
    row_stride: int,
    step_stride: int,
    packed: int,
    steps: int,
    out: int,
    out_stride: int,
    rows: int,
    accumulate: bool,
) -> None:
    """out [rows, COLUMNS] = x [rows, steps] @ packed [steps, COLUMNS], from their addresses; strides are in bytes."""
    _panel(form, x, (ROWS * row_stride, row_stride, step_stride), packed, steps, out, out_stride, rows, accumulate)


@compiled
def _panel(
    form: Any, x: int, strides: Any, packed: int, steps: int, out: int, out_stride: int, rows: int, accumulate: bool
) -> None:
    """COLUMNS columns, from the addresses of x, packed and out; a block of ROWS rows every strides[0]."""
    block_stride, row_stride, step_stride = strides
    left = rows
    while left >= ROWS:
        _full(form, x, row_stride, step_stride, packed, steps, out, out_stride, accumulate)
        x, out, left = x + block_stride, out + ROWS * out_stride, left - ROWS
    if left >= 4:
        _four(form, x, row_stride, step_stride, packed, steps, out, out_stride, accumulate)
        x, out, left = x + 4 * row_stride, out + 4 * out_stride, left - 4
    if left >= 2:
        _two(form, x, row_stride, step_stride, packed, steps, out, out_stride, accumulate)
        x, out, left = x + 2 * row_stride, out + 2 * out_stride, left - 2
    if left >= 1:
        _one(form, x, row_stride, step_stride, packed, steps, out, out_stride, accumulate)


@compiled_with_memory
def add_in_tiles(grads: Any, inputs: Any, steps: int, out: Any) -> None:
    """out [O, columns] += grad^T @ x, for the first steps of both as `outer_products` lays them out."""
    most = grads.shape[1]
    _panels(grads.ctypes.data, most * ROWS * 4, 4, ROWS * 4, inputs, steps, out, True)


# --- In the library --------------------------------------------------------------------------------------------------


@compiled_with_memory
def _multiply_in_library(x: Any, operand: Any, out: Any, accumulate: bool) -> None:
    inner, columns = operand.shape
    # BLAS counts by columns, so that it sees every matrix transposed: out^T = M^T @ x^T.
    sizes = np.array([columns, x.shape[0], inner, columns, inner, columns], np.int32)
    _gemm(np.array([ord("N"), ord("N")], np.uint8), sizes, operand, _in_bf16(x, inner), out, accumulate)


@compiled_with_memory
def add_in_library(grad: Any, x: Any, out: Any) -> None:
    """out [O, columns] += grad [R, O]^T @ x [R, columns], both in bfloat16."""
    outputs, inputs = out.shape
    sizes = np.array([inputs, outputs, x.shape[0], inputs, outputs, inputs], np.int32)
    _gemm(np.array([ord("N"), ord("T")], np.uint8), sizes, x, grad, out, True)


# Arrays whose addresses are taken are arguments: they live until the call is over.
@compiled_with_memory
def _gemm(letters: Any, sizes: Any, a: Any, b: Any, out: Any, accumulate: bool) -> None:
    """BLAS's gemm: out = op(a) @ op(b), or added to out; sizes are m, n, k, lda, ldb, ldc."""
    factors = np.array([1, 1 if accumulate else 0], np.float32)
    letter, size, factor = letters.ctypes.data, sizes.ctypes.data, factors.ctypes.data
    m, n, k, lda, ldb, ldc = size, size + 4, size + 8, size + 12, size + 16, size + 20
    first, second, result = a.ctypes.data, b.ctypes.data, out.ctypes.data
    _bf16_gemm(letter, letter + 1, m, n, k, factor, first, lda, second, ldb, factor + 4, result, ldc)

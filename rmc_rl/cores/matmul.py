"""Matrix products for compiled code.

A weight is float32, or bfloat16 as uint16; in the second case the other operand is rounded to it too, where it is not
so already. Sums and results are float32. All arrays are C-contiguous.
"""

from typing import Any

import numpy as np
from numba import types
from numba.extending import overload

from .blas import BF16_GEMM, SGEMM
from .compilation import compiled
from .storage import round_to, value

# The Fortran interface takes addresses only: here as integers, which are passed alike.
_sgemm: Any = types.ExternalFunction(SGEMM, types.void(*[types.uintp] * 13))
_bf16_gemm: Any = types.ExternalFunction(BF16_GEMM, types.void(*[types.uintp] * 13))


@compiled
def linear(x: Any, weight: Any, out: Any) -> None:
    """out [R, O] = x [R, I] @ weight [O, I]^T."""
    _product(x, weight, out, weight.shape[0], weight.shape[1], True, np.float32(0))


@compiled
def linear_backward(grad: Any, weight: Any, out: Any, accumulate: bool) -> None:
    """out [R, I] = grad [R, O] @ weight [O, I], added to what is there if `accumulate`."""
    _product(grad, weight, out, weight.shape[1], weight.shape[0], False, np.float32(1 if accumulate else 0))


@compiled
def linear_weight_gradient(grad: Any, x: Any, out: Any) -> None:
    """out [O, I] = grad [R, O]^T @ x [R, I], both operands of one type."""
    outputs, inputs = out.shape
    letters = np.array([ord("N"), ord("T")], np.uint8)
    sizes = np.array([inputs, outputs, x.shape[0], inputs, outputs, inputs], np.int32)
    _gemm(letters, sizes, np.array([1, 0], np.float32), x, grad, out)


@compiled
def _product(x: Any, weight: Any, out: Any, columns: int, inner: int, transpose: bool, beta: Any) -> None:
    """out [R, columns] = x [R, inner] @ op(weight) + beta * out."""
    # BLAS counts by columns, so that it sees every matrix transposed: out^T = op(weight) @ x^T.
    letters = np.array([ord("T") if transpose else ord("N"), ord("N")], np.uint8)
    sizes = np.array([columns, x.shape[0], inner, inner if transpose else columns, inner, columns], np.int32)
    _gemm(letters, sizes, np.array([1, beta], np.float32), weight, _like(weight, x), out)


def _like(weight: Any, x: Any) -> Any:
    """x [R, I] in the weight's type."""


@overload(_like, strict=False)
def _like_compiled(weight: Any, x: Any) -> Any:
    if weight.dtype == x.dtype:
        return lambda weight, x: x

    def rounded(weight: Any, x: Any) -> Any:
        out = np.empty(x.shape, np.uint16)
        round_to(x, out)
        return out

    return rounded


# Arrays whose addresses are taken are arguments: they live until the call is over.
@compiled
def _gemm(letters: Any, sizes: Any, factors: Any, a: Any, b: Any, out: Any) -> None:
    """BLAS's gemm: out = factors[0] * op(a) @ op(b) + factors[1] * out; sizes are m, n, k, lda, ldb, ldc."""
    letter, size, factor = letters.ctypes.data, sizes.ctypes.data, factors.ctypes.data
    m, n, k, lda, ldb, ldc = size, size + 4, size + 8, size + 12, size + 16, size + 20
    first, second, result = a.ctypes.data, b.ctypes.data, out.ctypes.data
    if a.itemsize == 2:
        _bf16_gemm(letter, letter + 1, m, n, k, factor, first, lda, second, ldb, factor + 4, result, ldc)
    else:
        _sgemm(letter, letter + 1, m, n, k, factor, first, lda, second, ldb, factor + 4, result, ldc)


@compiled
def linear_of_two(x: Any, weight: Any, out: Any) -> None:
    """out [R, 2] = x [R, D] @ weight [2, D]^T: too narrow for a matrix product to pay."""
    for r in range(x.shape[0]):
        first, second = np.float32(0), np.float32(0)
        for d in range(x.shape[1]):
            first += value(x[r, d]) * weight[0, d]
            second += value(x[r, d]) * weight[1, d]
        out[r, 0] = first
        out[r, 1] = second


@compiled
def linear_of_two_backward(grad: Any, weight: Any, out: Any) -> None:
    """out [R, D] = grad [R, 2] @ weight [2, D]."""
    for r in range(grad.shape[0]):
        for d in range(weight.shape[1]):
            out[r, d] = grad[r, 0] * weight[0, d] + grad[r, 1] * weight[1, d]

"""float32 numbers in memory for compiled code: as they are, or rounded to bfloat16 (as uint16) where that is enough.

Compiled code computes in float32. It reads stored numbers through `value`, and computes rows that are to be stored
where `borrow` says, before it hands them to `keep`. With float32 storage all three cost nothing.
"""

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic, overload

from .compilation import compiled_as_written


def _float_of_bits(typing_context: Any, bits: Any) -> Any:
    """The float32 whose representation is that of an int32."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.FloatType())

    return types.float32(types.int32), generate


def _bits_of_float(typing_context: Any, x: Any) -> Any:
    """The representation of a float32, as an int32."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.IntType(32))

    return types.int32(types.float32), generate


as_float: Any = intrinsic(_float_of_bits)
as_bits: Any = intrinsic(_bits_of_float)


@compiled_as_written
def rounded(x: Any) -> Any:
    """A float32 in bfloat16, rounded to the nearest and to even."""
    bits = as_bits(x)
    result = (bits + np.int32(0x7FFF) + ((bits >> np.int32(16)) & np.int32(1))) >> np.int32(16)
    return np.uint16(result if x == x else np.int32(0x7FC0))  # NaN stays NaN


@compiled_as_written
def round_to(x: Any, out: Any) -> None:
    """x [R, W] in bfloat16 to out [R, W]."""
    for r in range(x.shape[0]):
        for i in range(x.shape[1]):
            out[r, i] = rounded(x[r, i])


def value(stored: Any) -> Any:
    """A stored number as a float32."""


def borrow(array: Any, scratch: Any) -> Any:
    """Where to compute the rows that `array` is to hold: there, or in the float32 array `scratch` of the same shape."""


def keep(rows: Any, array: Any) -> None:
    """Store rows that were computed where `borrow` said."""


def store(rows: Any, array: Any) -> None:
    """Store rows that were computed elsewhere, [R, W]."""


# What Numba compiles in their place, by the type of the storage. Parameters bear the same names.


@overload(value, strict=False)
def _value(stored: Any) -> Any:
    if isinstance(stored, types.Float):
        return lambda stored: stored
    return lambda stored: as_float(np.int32(stored) << np.int32(16))


@overload(borrow, strict=False)
def _borrow(array: Any, scratch: Any) -> Any:
    if isinstance(array.dtype, types.Float):
        return lambda array, scratch: array
    return lambda array, scratch: scratch


@overload(keep, strict=False)
def _keep(rows: Any, array: Any) -> Any:
    if isinstance(array.dtype, types.Float):
        return lambda rows, array: None
    return lambda rows, array: round_to(rows, array)


@overload(store, strict=False)
def _store(rows: Any, array: Any) -> Any:
    if isinstance(array.dtype, types.Float):

        def copy(rows: Any, array: Any) -> None:
            for r in range(rows.shape[0]):
                for i in range(rows.shape[1]):
                    array[r, i] = rows[r, i]

        return copy
    return lambda rows, array: round_to(rows, array)

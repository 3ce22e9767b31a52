"""The sum of outer products that a weight's gradient is, for compiled code: grad^T @ [x, h], as their rows come.

Rows are laid out for the tiles of `tiles`, or for the library, until there is a block of them. So a block is read while
it is in the cache: a loop over time hands over what it has just computed.
"""

from typing import Any, NamedTuple

import numpy as np
from numba import types
from numba.extending import overload

from .compilation import compiled, compiled_with_memory
from .matmul import add_in_library, add_in_tiles
from .storage import rounded, value
from .tiles import COLUMNS, ROWS

BLOCK = 128
"""Steps of the tiles in a block: rows, or pairs of rows in bfloat16. So many stay in the cache."""
LIBRARY_BLOCK = 1024
"""Rows of a block for the library, which reads and writes all sums for each block."""


class OuterProducts(NamedTuple):
    """The sums so far, and a block of rows that are not in them yet; made by `products.outer_products`.

    The block's form says how it is multiplied:
    - float32: grads [parts, BLOCK, ROWS] and inputs [parts, BLOCK, COLUMNS], in tiles.
    - bfloat16, the same with every two rows side by side: [parts, BLOCK, ROWS * 2] and [parts, BLOCK, COLUMNS * 2].
    - bfloat16 [LIBRARY_BLOCK, O] and [LIBRARY_BLOCK, columns], for the library.
    """

    grads: Any
    inputs: Any
    taken: Any  # int64 [1]: steps of the block that are there
    weight: Any  # float32 [O, columns]; x begins at column 0, h at the first multiple of COLUMNS after it
    bias: Any  # float32 [O]: the sum of grad


@compiled_with_memory
def take(products: Any, grad: Any, o0: int, o1: int, x: Any, h: Any) -> None:
    """Add the rows of grad[:, o0:o1] [R, O], x [R, I] and h [R, H]; what is left of them in the block waits there."""
    for r0 in range(0, len(grad), BLOCK):
        r1 = min(r0 + BLOCK, len(grad))
        steps = _steps(products.inputs, r1 - r0)
        if products.taken[0] + steps > products.inputs.shape[-2]:
            finish(products)
        first = products.taken[0]
        _lay_out(grad[r0:r1], o0, o1, ROWS, products.grads, first)
        _lay_out(x[r0:r1], 0, x.shape[1], COLUMNS, products.inputs, first)
        _lay_out(h[r0:r1], 0, h.shape[1], COLUMNS, _beside(x, products.inputs), first)
        _add_up(grad[r0:r1], o0, o1, products.bias)
        products.taken[0] = first + steps


@compiled_with_memory
def finish(products: Any) -> None:
    """Have all rows that were taken in the sums."""
    if products.taken[0] > 0:
        _add_block(products)
        products.taken[0] = 0


def _add_block(products: Any) -> None:
    """Add a block's products, for what Numba compiles in its place by the block's form; so for the next two."""


def _steps(inputs: Any, rows: int) -> int:
    """How many steps of a block so many rows are."""
    raise NotImplementedError


def _beside(x: Any, inputs: Any) -> Any:
    """The part of the block's inputs that is not x's."""


@overload(_add_block, strict=False)
def _add_block_by_form(products: Any) -> Any:
    if products.types[1].ndim == 2:
        return lambda products: add_in_library(
            products.grads[: products.taken[0]], products.inputs[: products.taken[0]], products.weight
        )
    return lambda products: add_in_tiles(products.grads, products.inputs, products.taken[0], products.weight)


@overload(_steps, strict=False)
def _steps_by_form(inputs: Any, rows: Any) -> Any:
    is_paired = inputs.ndim == 3 and not isinstance(inputs.dtype, types.Float)
    return (lambda inputs, rows: (rows + 1) // 2) if is_paired else (lambda inputs, rows: rows)


@overload(_beside, strict=False)
def _beside_by_form(x: Any, inputs: Any) -> Any:
    if inputs.ndim == 2:
        return lambda x, inputs: inputs[:, (x.shape[1] + COLUMNS - 1) // COLUMNS * COLUMNS :]
    return lambda x, inputs: inputs[(x.shape[1] + COLUMNS - 1) // COLUMNS :]


@compiled
def _add_up(rows: Any, c0: int, c1: int, sums: Any) -> None:
    for r in range(rows.shape[0]):
        for c in range(np.uintp(c1 - c0)):
            sums[c] += value(rows[r, np.uintp(c0) + c])


def _lay_out(rows: Any, c0: int, c1: int, width: int, out: Any, first: int) -> None:
    """Columns [c0, c1) of rows [R, C] to the block `out`, in parts of `width` columns, from its step `first` on.

    In bfloat16 a last row without another is paired with zeros.
    """


# On flat arrays, with unsigned places and a constant width: so the compiler makes a few instructions of a row's part.


@overload(_lay_out, strict=False, prefer_literal=True)
def _lay_out_by_form(rows: Any, c0: Any, c1: Any, width: Any, out: Any, first: Any) -> Any:
    constant = np.uintp(width.literal_value)
    one, two = np.uintp(1), np.uintp(2)

    def singles(rows: Any, c0: Any, c1: Any, width: Any, out: Any, first: Any) -> None:
        source, target, row = rows.reshape(rows.size), out.reshape(out.size), np.uintp(rows.shape[1])
        for part in range((np.uintp(c1 - c0) + constant - one) // constant):
            begin, place = np.uintp(c0) + part * constant, (part * np.uintp(out.shape[1]) + np.uintp(first)) * constant
            count = min(constant, np.uintp(c1) - begin)
            for r in range(np.uintp(rows.shape[0])):
                if count == constant:
                    for c in range(constant):
                        target[place + r * constant + c] = source[r * row + begin + c]
                else:
                    for c in range(count):
                        target[place + r * constant + c] = source[r * row + begin + c]

    def pairs(rows: Any, c0: Any, c1: Any, width: Any, out: Any, first: Any) -> None:
        source, target, row = rows.reshape(rows.size), out.reshape(out.size), np.uintp(rows.shape[1])
        for part in range((np.uintp(c1 - c0) + constant - one) // constant):
            begin = np.uintp(c0) + part * constant
            place = (part * np.uintp(out.shape[1]) + np.uintp(first)) * constant * two
            count = min(constant, np.uintp(c1) - begin)
            for step in range(np.uintp(rows.shape[0]) // two):
                above, there = step * two * row + begin, place + step * constant * two
                if count == constant:
                    for c in range(constant):
                        target[there + c + c] = rounded(value(source[above + c]))
                        target[there + c + c + one] = rounded(value(source[above + row + c]))
                else:
                    for c in range(count):
                        target[there + c + c] = rounded(value(source[above + c]))
                        target[there + c + c + one] = rounded(value(source[above + row + c]))
            if rows.shape[0] % 2 == 1:
                last = np.uintp(rows.shape[0]) - one
                for c in range(count):
                    there = place + (last // two) * constant * two + c + c
                    target[there] = rounded(value(source[last * row + begin + c]))
                    target[there + one] = np.uint16(0)

    def plain(rows: Any, c0: Any, c1: Any, width: Any, out: Any, first: Any) -> None:
        for r in range(rows.shape[0]):
            for c in range(c1 - c0):
                out[first + r, c] = rounded(value(rows[r, c0 + c]))

    if out.ndim == 2:
        return plain
    return singles if isinstance(out.dtype, types.Float) else pairs

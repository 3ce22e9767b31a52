"""Whether what goes into an unroll has the shapes that its core takes: compiled code does not ask, and would read and
write other memory."""

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor


def is_traced() -> bool:
    """Whether operations are being recorded, not computed: sizes may be symbols, which must not be compared."""
    return bool(torch.compiler.is_compiling() or torch.compiler.is_exporting() or cast(Any, torch.jit).is_tracing())


def check_unroll(
    x: Tensor, state: Sequence[Tensor], starts: Tensor, input_size: int, sizes: Sequence[Sequence[int]]
) -> None:
    """Raise a ValueError that names the argument of an unroll whose shape is wrong. Nothing is checked while tracing.

    Args:
        x: to be [T, B, input_size].
        state: to be a leaf [B, *size] for each of `sizes`.
        starts: to be bool [T, B].
        input_size: the core's.
        sizes: of the core's leaves, without the batch.
    """
    if not is_traced():
        check_steps(x, starts, input_size)
        check_state(state, x.shape[1], sizes)


def check_steps(x: Tensor, starts: Tensor, input_size: int) -> None:
    """The part of `check_unroll` that need not know the core's state."""
    if is_traced():
        return
    shape = x.shape
    if len(shape) != 3 or shape[2] != input_size:
        raise ValueError(f"x must be [T, B, input_size], here [T, B, {input_size}], got {list(shape)}")
    if starts.dtype != torch.bool or starts.shape != shape[:2]:
        raise ValueError(
            f"starts must be bool [T, B], here {list(shape[:2])}, as x is {list(shape)}, "
            f"got {str(starts.dtype).removeprefix('torch.')} {list(starts.shape)}"
        )


def check_state(state: Sequence[Tensor], batch_size: int, sizes: Sequence[Sequence[int]]) -> None:
    """The other part."""
    if is_traced():
        return
    if len(state) != len(sizes) or any(
        leaf.shape != (batch_size, *size) for leaf, size in zip(state, sizes, strict=True)
    ):
        wanted, given = [[batch_size, *size] for size in sizes], [list(leaf.shape) for leaf in state]
        raise ValueError(f"state must be {len(sizes)} leaves [B, ...], here {wanted}, got {given}")

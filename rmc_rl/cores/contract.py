"""Whether a core of a user's own does what `Core` says: errors in one line, and early."""

from typing import Any

import torch
from torch import Tensor

from .core import Core

BATCH = 2


def check_class(core: Any) -> None:
    """Raise a ValueError unless `core` is a subclass of `Core` with both of its methods."""
    if not (isinstance(core, type) and issubclass(core, Core)):
        raise ValueError(f"core must be a subclass of rmc_rl.Core, got {' '.join(repr(core).split())}")
    if missing := sorted(core.__abstractmethods__):
        raise ValueError(f"core must define initial_state and forward, got {core.__name__} without {missing}")


@torch.no_grad()
def check_step(core: Core) -> None:
    """Raise a ValueError unless one step of a batch takes and gives tensors of the shapes that `Core` says."""
    name = type(core).__name__
    state = core.initial_state(BATCH)
    if not _is_state(state):
        raise ValueError(f"{name}.initial_state(2) must be a tuple of tensors [2, ...], got {_shown(state)}")
    like = next((tensor for tensor in (*core.parameters(), *state) if tensor.is_floating_point()), torch.empty(0))
    result = core(like.new_zeros(BATCH, core.input_size), state)
    if not isinstance(result, tuple) or len(result) != 2 or not isinstance(result[0], Tensor):
        raise ValueError(f"{name}.forward must return a pair, the output and the next state, got {_shown(result)}")
    output, next_state = result
    if output.shape != (BATCH, core.output_size):
        raise ValueError(
            f"{name}.forward must return an output [B, output_size], here {[BATCH, core.output_size]}, "
            f"got {list(output.shape)}"
        )
    if not _is_state(next_state) or _shown(next_state) != _shown(state):
        raise ValueError(
            f"{name}.forward must return a state of the initial one's shapes, {_shown(state)}, got {_shown(next_state)}"
        )


def _is_state(state: Any) -> bool:
    return isinstance(state, tuple) and all(
        isinstance(leaf, Tensor) and leaf.dim() > 0 and len(leaf) == BATCH for leaf in state
    )


def _shown(value: Any) -> str:
    """Tensors as their shapes."""
    match value:
        case tuple() | list():
            return f"{type(value).__name__}({', '.join(map(_shown, value))})"
        case Tensor():
            return str(list(value.shape))
        case _:
            return repr(value)

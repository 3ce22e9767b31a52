"""What a recurrent core is, and the one place where a state is reset."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Literal, Protocol, TypeVar, cast

import torch
from torch import Tensor, nn

from .arguments import check_state, check_steps, check_unroll
from .structure import keeps_methods

State = tuple[Tensor, ...]
"""What a core carries from step to step: tensors that are batch-first, [B, ...]."""
UnrollPath = Literal["fused", "fused, bf16", "parallel", "loop"]
Made = TypeVar("Made")


class Recording(Protocol):
    """The steps of an unroll, taken one by one, and kept: what an actor has computed, its learner need not.

    Made by `Core.record`. No weight may change between the first step and the gradient of `unroll`.
    """

    def step(self, x: Tensor, state: State, starts: Tensor) -> tuple[Tensor, State]:
        """The core's `unroll` over the next step, without a gradient: x [1, B, input_size], starts bool [1, B]."""

    def unroll(self, x: Tensor, state: State, starts: Tensor) -> tuple[Tensor, State]:
        """The core's `unroll` over all steps, with its gradient, from what `step` has kept.

        x, starts and the state before step 0 are to be those of the steps.
        """


_kept: ContextVar[dict[Hashable, Any] | None] = ContextVar("_kept", default=None)


@contextmanager
def unchanged_weights() -> Iterator[None]:
    """While inside, no weight changes: what cores make of them is made once, and not at every step of an actor."""
    token = _kept.set({})
    try:
        yield
    finally:
        _kept.reset(token)


def kept_of_weights(key: Hashable, make: Callable[[], Made]) -> Made:
    """What `make` makes of weights: once for each key within `unchanged_weights`, and anew everywhere else."""
    kept = _kept.get()
    if kept is None:
        return make()
    if key not in kept:
        kept[key] = make()
    return cast(Made, kept[key])


def reset_state(starts: Tensor, initial_state: State, state: State) -> State:
    """The initial state in the rows where an episode starts, the present state in the others.

    A state is selected and never multiplied by zero: a core's initial state need not be zero.

    Args:
        starts: bool [B].
        initial_state: leaves [B, ...].
        state: leaves [B, ...].
    """
    return tuple(
        torch.where(starts.view(-1, *[1] * (leaf.dim() - 1)), initial, leaf)
        for initial, leaf in zip(initial_state, state, strict=True)
    )


class Core(nn.Module, ABC):
    """A recurrent core: one step of a batch (`forward`), and where an episode starts from (`initial_state`).

    A subclass sets `input_size` and `output_size` and defines those two methods. It may override `unroll` with
    something faster that gives the same numbers.
    """

    def __init__(self, input_size: int, output_size: int) -> None:
        super().__init__()
        self.input_size = input_size
        self.output_size = output_size

    @abstractmethod
    def initial_state(self, batch_size: int) -> State:
        """The state before the first step of an episode, on the core's device and in its dtype: leaves [B, ...]."""

    @abstractmethod
    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """One step: x [B, input_size], state -> output [B, output_size], next state."""

    def unroll(self, x: Tensor, state: State, starts: Tensor) -> tuple[Tensor, State]:
        """Run the core over T steps; the state is not detached on the way.

        By default `unroll_loop`, which defines what any other way must give.

        Args:
            x: [T, B, input_size].
            state: the state before step 0, leaves [B, ...].
            starts: bool [T, B]; where true, an episode begins and the state is reset before that step.

        Returns:
            outputs [T, B, output_size] and the state after the last step.

        Raises:
            ValueError: a shape is another one, or starts are not bool.
        """
        return self.unroll_loop(x, state, starts)

    def record(self, num_steps: int, batch_size: int) -> Recording | None:
        """Where an unroll of so many steps can be taken step by step and kept; None if this core cannot, or not here.

        Only an unroll that would be fused can.
        """
        return None

    def unroll_path(self, x: Tensor, state: State) -> UnrollPath:
        """Which way `unroll` goes for these tensors.

        `"fused"`: one compiled operation over all steps, with its own gradient, for float32 on the CPU.
        `"fused, bf16"`: the same within `torch.autocast("cpu")` on a processor made for it; matrix products have
        bfloat16 operands and float32 sums, and all else is float32.
        `"parallel"`: all steps at once, in torch's own operations. `"loop"`: step by step, for everything else.
        """
        return "loop"

    def unroll_loop(self, x: Tensor, state: State, starts: Tensor) -> tuple[Tensor, State]:
        """The loop over `forward`, with a reset before every step."""
        check_steps(x, starts, self.input_size)
        initial_state = self.initial_state(x.shape[1])
        check_state(state, x.shape[1], [leaf.shape[1:] for leaf in initial_state])
        outputs = []
        for x_t, starts_t in zip(x, starts, strict=True):
            output, state = self(x_t, reset_state(starts_t, initial_state, state))
            outputs.append(output)
        return torch.stack(outputs), state


class IdentityCore(Core):
    """No memory at all: the output is the input. It makes any recurrent agent a feed-forward one."""

    def __init__(self, input_size: int) -> None:
        check_positive(input_size=input_size)
        super().__init__(input_size, output_size=input_size)
        self.is_own = keeps_methods(type(self), IdentityCore)

    def initial_state(self, batch_size: int) -> State:
        return ()

    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        return x, state

    def unroll(self, x: Tensor, state: State, starts: Tensor) -> tuple[Tensor, State]:
        if not self.is_own:
            return self.unroll_loop(x, state, starts)
        check_unroll(x, state, starts, self.input_size, ())
        return x, state


def check_positive(**sizes: int) -> None:
    """Raise a ValueError that names the first size that is not a whole number of at least 1."""
    for name, size in sizes.items():
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise ValueError(f"{name} must be a whole number of at least 1, got {size!r}")

"""What the compiled unrolls share: when they apply, how they are divided among threads, and what to do otherwise."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, TypeVar

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from . import blas, tiles
from .arguments import check_unroll, is_traced
from .core import Core, State, UnrollPath
from .structure import structure

if TYPE_CHECKING:
    from .gru import GRU
    from .lstm import LSTM
    from .relational_memory import RelationalMemory

ROWS_PER_THREAD = 8
"""A batch is divided among threads in parts of at least so many rows."""
KEPT_SIZES = 8
"""Memory for unrolls of so many sizes is kept."""
BF16_IS_FAST = tiles.HAS_BF16 or blas.IS_FAST
"""Whether the processor has instructions for products of bfloat16 operands, summed in float32."""
Precision = Literal["fp32", "bf16"]
"""Of matrix products. In `"bf16"` operands are rounded to bfloat16 and summed in float32; all else stays float32."""
Result = TypeVar("Result")
Work = TypeVar("Work")


def path_here(x: Tensor, *tensors: Tensor) -> UnrollPath:
    """The way of an unroll of these, if its core has a compiled one: float32 on the CPU, computed here and now.

    Within autocast x may be in its type, as a layer's output is.
    """
    given = (x, *tensors)
    is_compiled = (
        (x.dtype == torch.float32 or (torch.is_autocast_enabled("cpu") and x.dtype != torch.float64))
        and all(tensor.dtype == torch.float32 for tensor in tensors)
        and all(tensor.device.type == "cpu" and tensor.numel() > 0 for tensor in given)
        and not is_traced()
    )
    if not is_compiled:
        return "loop"
    return "fused, bf16" if precision_here() == "bf16" else "fused"


def path_of(core: LSTM | GRU | RelationalMemory, x: Tensor, *tensors: Tensor) -> UnrollPath:
    """As `path_here`, of a core: compiled code stands in for it as it was made, if no method is overridden."""
    path = path_here(x, *tensors)
    if path == "loop" or not core.is_own or structure(core) != core.made_of:
        return "loop"
    return path


def precision_here() -> Precision:
    """What autocast asks of matrix products, where the processor is made for it; float32 costs nothing but time."""
    asked = torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16
    return "bf16" if asked and BF16_IS_FAST else "fp32"


def without_autocast() -> AbstractContextManager[object]:
    """For what has heeded autocast by now; entering torch's context where there is none to leave takes its time."""
    return torch.autocast("cpu", enabled=False) if torch.is_autocast_enabled("cpu") else nullcontext()


def array(tensor: Tensor) -> NDArray[Any]:
    """A tensor's numbers, side by side."""
    return tensor.detach().contiguous().numpy()


def empty(*shape: int, precision: Precision = "fp32") -> NDArray[Any]:
    """An array in torch's memory, which begins where a cache line does: float32, or bfloat16 as uint16."""
    return torch.empty(shape, dtype=torch.float32 if precision == "fp32" else torch.uint16).numpy()


class Loan(Generic[Work]):
    """Memory that is allocated once: held for as long as this object lives, then free for the next loan of its key."""

    free: ClassVar[OrderedDict[Hashable, list[Any]]] = OrderedDict()

    def __init__(self, key: Hashable, allocate: Callable[[], Work]) -> None:
        self.returns_to = self.free.setdefault(key, [])
        self.free.move_to_end(key)
        if len(self.free) > KEPT_SIZES:
            self.free.popitem(last=False)
        self.workspace: Work = self.returns_to.pop() if self.returns_to else allocate()

    def __del__(self) -> None:
        self.returns_to.append(self.workspace)


def in_parts(batch: int, run: Callable[[int, int], Result]) -> list[Result]:
    """Run(b0, b1) for parts of the batch, in as many threads as torch uses."""
    count = min(torch.get_num_threads(), max(1, batch // ROWS_PER_THREAD))
    if torch.get_num_threads() == 1:
        return [run(0, batch)]
    bounds = [batch * part // count for part in range(count + 1)]
    return list(_threads(count).map(run, bounds[:-1], bounds[1:]))


@cache
def _threads(count: int) -> ThreadPoolExecutor:
    # The parts are independent, so that threads within one matrix product would only be in one another's way.
    return ThreadPoolExecutor(count, "unroll", initializer=blas.one_thread_here)


class FusedRecording(ABC):
    """A `Recording` for a core with a fused unroll.

    Args:
        core: whose steps they are.
        num_steps: how many there will be.
        batch_size: rows of each.
    """

    def __init__(self, core: Core, num_steps: int, batch_size: int) -> None:
        self.precision, self.num_taken = precision_here(), 0
        self.outputs = torch.empty(num_steps, batch_size, core.output_size)
        self.input_size, self.sizes = core.input_size, [leaf.shape[1:] for leaf in core.initial_state(1)]

    def step(self, x: Tensor, state: State, starts: Tensor) -> tuple[Tensor, State]:
        self._check(1, x, state, starts)
        if self.num_taken == len(self.outputs):
            raise ValueError(f"num_steps must be larger to record another step, got {self.num_taken}")
        part = slice(self.num_taken, self.num_taken + 1)
        with torch.no_grad(), without_autocast():
            state = self._take(part, x.float(), state, starts)
        self.num_taken += 1
        return self.outputs[part], state

    @abstractmethod
    def _take(self, part: slice, x: Tensor, state: State, starts: Tensor) -> State:
        """Write what a step saves and gives to this part of all steps; returns the state after it."""

    def unroll(self, x: Tensor, state: State, starts: Tensor) -> tuple[Tensor, State]:
        self._check(len(self.outputs), x, state, starts)
        if self.num_taken != len(self.outputs):
            raise ValueError(f"num_steps must be that of the steps taken, {self.num_taken}, got {len(self.outputs)}")
        return self._unroll(x, state, starts)

    @abstractmethod
    def _unroll(self, x: Tensor, state: State, starts: Tensor) -> tuple[Tensor, State]:
        """As `Recording.unroll`."""

    def _check(self, num_steps: int, x: Tensor, state: State, starts: Tensor) -> None:
        """Raise a ValueError unless these are of so many steps of this recording."""
        wanted = (num_steps, self.outputs.shape[1], self.input_size)
        if x.shape != wanted:
            raise ValueError(f"x must be {list(wanted)} in this recording, got {list(x.shape)}")
        check_unroll(x, state, starts, self.input_size, self.sizes)


def steps_with_gradient(grad_outputs: Tensor, *grad_last_state: Tensor) -> int:
    """How many steps of an unroll [T, B, ...] a gradient reaches: a learner has none at its last observation."""
    steps = len(grad_outputs)
    if any(leaf.any() for leaf in grad_last_state):
        return steps
    while steps > 1 and not grad_outputs[steps - 1].any():
        steps -= 1
    return steps


def must_loop(core: Core, parameters: Sequence[Tensor]) -> bool:
    """Whether a gradient is to be had from the loop: one that is to be differentiated in its turn, or one of weights
    that stood in for the core's own and are gone by now (`torch.func.functional_call`)."""
    stood_in = any(p.data_ptr() != own.data_ptr() for p, own in zip(parameters, core.parameters(), strict=True))
    return torch.is_grad_enabled() or stood_in


def loop_gradients(
    core: Core,
    starts: Tensor,
    x: Tensor,
    state: State,
    parameters: Sequence[Tensor],
    grad_outputs: tuple[Tensor, ...],
) -> tuple[Tensor | None, ...]:
    """Gradients of x, state and parameters, by the loop, that can be differentiated again.

    `grad_outputs` are those of the outputs and of as many leaves of the last state, from its end, as there are more.
    """
    with torch.enable_grad():
        named = {f"core.{name}": p for (name, _), p in zip(core.named_parameters(), parameters, strict=True)}
        results = torch.func.functional_call(_Loop(core), named, (x, state, starts))
        inputs = (x, *state, *parameters)
        wanted = [tensor for tensor in inputs if tensor.requires_grad]
        results = (results[0], *results[len(results) - len(grad_outputs) + 1 :])
        found = torch.autograd.grad(results, wanted, grad_outputs, create_graph=True)
    by_input = dict(zip(wanted, found, strict=True))
    return tuple(by_input.get(tensor) for tensor in inputs)


class _Loop(nn.Module):
    """A core's loop as a module's forward, for `functional_call`."""

    def __init__(self, core: Core) -> None:
        super().__init__()
        self.core = core

    def forward(self, x: Tensor, state: State, starts: Tensor) -> tuple[Tensor, ...]:
        outputs, last_state = self.core.unroll_loop(x, state, starts)
        return outputs, *last_state

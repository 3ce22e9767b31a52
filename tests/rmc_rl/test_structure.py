"""Cores that a user has changed: compiled code stands in for the library's own alone, and the loop for all others."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

from rmc_rl.cores import GRU, LSTM, Core, RelationalMemory, State, reset_state

INPUT, BATCH, STEPS = 3, 4, 5
RMC = {"mem_slots": 2, "head_size": 5, "num_heads": 2}
KINDS: list[tuple[type[Core], dict[str, Any]]] = [
    (LSTM, {"hidden_size": 7}),
    (GRU, {"hidden_size": 7}),
    (RelationalMemory, RMC),
]
every_kind = pytest.mark.parametrize(("kind", "kwargs"), KINDS, ids=lambda value: getattr(value, "__name__", ""))


def by_steps(core: Core, x: Tensor, state: State, starts: Tensor) -> tuple[Tensor, State]:
    """What any unroll is to give: the core's own steps."""
    outputs = []
    for x_t, starts_t in zip(x, starts, strict=True):
        output, state = core(x_t, reset_state(starts_t, core.initial_state(BATCH), state))
        outputs.append(output)
    return torch.stack(outputs), state


def assert_loops_and_is_right(core: Core) -> None:
    """Outputs, last state and the gradients of everything."""
    x, starts = torch.randn(STEPS, BATCH, INPUT, requires_grad=True), torch.rand(STEPS, BATCH) < 0.3
    state = tuple(torch.randn_like(leaf) for leaf in core.initial_state(BATCH))
    assert core.unroll_path(x, state) == "loop"
    assert core.record(STEPS, BATCH) is None
    found, expected = (unroll(x, state, starts) for unroll in (core.unroll, lambda *given: by_steps(core, *given)))
    torch.testing.assert_close(found, expected)
    parameters = [x, *core.parameters()]
    gradients = [
        torch.autograd.grad(outputs.square().sum(), parameters, allow_unused=True) for outputs, _ in (found, expected)
    ]
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-4)


def with_step(kind: type[Core]) -> type[Core]:
    class Halved(kind):  # type: ignore[valid-type, misc]
        def forward(self, x: Tensor, state: State, *arguments: Any) -> Any:
            return super().forward(x / 2, state, *arguments)

    return Halved


def with_initial_state(kind: type[Core]) -> type[Core]:
    class Elsewhere(kind):  # type: ignore[valid-type, misc]
        def initial_state(self, batch_size: int) -> State:
            return tuple(leaf + 0.5 for leaf in super().initial_state(batch_size))

    return Elsewhere


def with_parameter(kind: type[Core]) -> type[Core]:
    class Larger(kind):  # type: ignore[valid-type, misc]
        def __init__(self, *arguments: Any, **kwargs: Any) -> None:
            super().__init__(*arguments, **kwargs)
            self.unused = nn.Parameter(torch.randn(2))

    return Larger


@every_kind
@pytest.mark.parametrize("subclass", [with_step, with_initial_state, with_parameter])
def test_a_subclass_that_computes_something_else_loops(
    kind: type[Core], kwargs: dict[str, Any], subclass: Callable[[type[Core]], type[Core]]
) -> None:
    torch.manual_seed(1)
    assert_loops_and_is_right(subclass(kind)(INPUT, **kwargs))


@every_kind
def test_a_subclass_with_arguments_of_its_own_is_fused(kind: type[Core], kwargs: dict[str, Any]) -> None:
    class Sized(kind):  # type: ignore[valid-type, misc]
        """The same core, made in another way, with a method more."""

        def __init__(self, input_size: int) -> None:
            super().__init__(input_size, **kwargs)

        def width(self) -> int:
            return self.output_size

    core = Sized(INPUT)
    assert core.unroll_path(torch.randn(STEPS, BATCH, INPUT), core.initial_state(BATCH)) == "fused"
    assert core.record(STEPS, BATCH) is not None


def part(core: Any) -> tuple[nn.Module, str]:
    """One of a core's layers and the name of a weight."""
    return (core.blocks[0].qkv, "weight") if isinstance(core, RelationalMemory) else (core.cell, "weight_hh")


@every_kind
@pytest.mark.parametrize(
    "change",
    [
        lambda core: parametrizations.weight_norm(*part(core)),
        lambda core: prune.l1_unstructured(*part(core), amount=0.3),
        lambda core: part(core)[0].register_forward_pre_hook(lambda module, given: (given[0] / 2, *given[1:])),
        lambda core: core.register_module("unused", nn.Linear(2, 3)),
    ],
    ids=["weight_norm", "prune", "hook", "another module"],
)
def test_a_core_that_was_changed_loops(kind: type[Core], kwargs: dict[str, Any], change: Callable[[Core], Any]) -> None:
    torch.manual_seed(1)
    core = kind(INPUT, **kwargs)
    assert core.unroll_path(torch.randn(STEPS, BATCH, INPUT), core.initial_state(BATCH)) == "fused"
    change(core)
    assert_loops_and_is_right(core)


def tie_biases(core: Any) -> None:
    core.cell.bias_hh = core.cell.bias_ih


def tie_norms(core: Any) -> None:
    core.blocks[0].mlp_norm = core.blocks[0].attention_norm


def take_gelu(core: Any) -> None:
    core.attention_mlp[1] = nn.GELU()


def widen(core: Any) -> None:
    core.attention_mlp[0], core.attention_mlp[2] = nn.Linear(core.size, 31), nn.Linear(31, core.size)


def take_another_epsilon(core: Any) -> None:
    core.blocks[0].qkv_norm.eps = 0.1


@pytest.mark.parametrize(
    ("kind", "kwargs", "change"),
    [
        (LSTM, {"hidden_size": 7}, tie_biases),
        (GRU, {"hidden_size": 7}, tie_biases),
        *((RelationalMemory, RMC, change) for change in (tie_norms, take_gelu, widen, take_another_epsilon)),
    ],
)
def test_another_part_loops(kind: type[Core], kwargs: dict[str, Any], change: Callable[[Core], None]) -> None:
    torch.manual_seed(1)
    core = kind(INPUT, **kwargs)
    change(core)
    assert_loops_and_is_right(core)

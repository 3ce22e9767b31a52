"""What every registered core must do, whatever it is: a new core is tested here by one entry in CASES."""

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rmc_rl.checkpoint import load_checkpoint, save_checkpoint
from rmc_rl.cores import CORES, Core, State, make_core

# Every core's name with arguments to test it with; sizes all different, and different from those below.
CASES: dict[str, list[dict[str, Any]]] = {
    "rmc": [
        {"mem_slots": 3, "head_size": 2, "num_heads": 5, "gate_style": "unit"},
        {"mem_slots": 2, "head_size": 5, "num_blocks": 2, "gate_style": "memory", "key_size": 8},
        {"mem_slots": 13, "head_size": 1, "num_heads": 9, "gate_style": None, "attention_mlp_layers": 1},
    ],
    "lstm": [{"hidden_size": 9}],
    "gru": [{"hidden_size": 9}],
    "identity": [{}],
}
# Arguments that the core must reject by name, on top of an illegal input_size.
ILLEGAL: dict[str, list[str]] = {
    "rmc": ["mem_slots", "head_size", "num_heads", "num_blocks", "attention_mlp_layers", "key_size", "gate_style"],
    "lstm": ["hidden_size"],
    "gru": ["hidden_size"],
    "identity": [],
}
INPUT, BATCH, STEPS = 11, 4, 6
MEMORYLESS = {"identity"}

every_core = pytest.mark.parametrize(
    ("name", "kwargs"),
    [pytest.param(name, kwargs, id=f"{name}-{i}") for name in CASES for i, kwargs in enumerate(CASES[name])],
)


def make(name: str, kwargs: dict[str, Any]) -> Core:
    torch.manual_seed(5)
    return make_core(name, INPUT, **kwargs).double()


def random_state(core: Core, batch_size: int = BATCH) -> State:
    return tuple(torch.randn_like(leaf.contiguous()) for leaf in core.initial_state(batch_size))


def random_inputs(num_steps: int = STEPS, batch_size: int = BATCH) -> Tensor:
    return torch.randn(num_steps, batch_size, INPUT, dtype=torch.float64)


def no_starts(num_steps: int = STEPS, batch_size: int = BATCH) -> Tensor:
    return torch.zeros(num_steps, batch_size, dtype=torch.bool)


def assert_state_close(actual: State, expected: State) -> None:
    for leaf, expected_leaf in zip(actual, expected, strict=True):
        torch.testing.assert_close(leaf, expected_leaf)


@pytest.mark.parametrize("name", CORES)
def test_every_registered_core_is_tested_here(name: str) -> None:
    assert name in CASES, f"add the core {name!r} to CASES: arguments to test it with, all sizes different"
    assert name in ILLEGAL, f"add the core {name!r} to ILLEGAL: the names of its arguments that have illegal values"


def test_every_core_tested_here_is_registered() -> None:
    assert CASES.keys() == ILLEGAL.keys() == CORES.keys()


@every_core
@pytest.mark.parametrize("batch_size", [1, BATCH])
def test_shapes(name: str, kwargs: dict[str, Any], batch_size: int) -> None:
    core = make(name, kwargs)
    assert core.input_size == INPUT
    initial = core.initial_state(batch_size)
    assert isinstance(initial, tuple)
    assert all(leaf.shape[0] == batch_size for leaf in initial)
    output, state = core(random_inputs(1, batch_size)[0], initial)
    assert output.shape == (batch_size, core.output_size)
    assert [leaf.shape for leaf in state] == [leaf.shape for leaf in initial]
    outputs, state = core.unroll(random_inputs(STEPS, batch_size), initial, no_starts(STEPS, batch_size))
    assert outputs.shape == (STEPS, batch_size, core.output_size)
    assert [leaf.shape for leaf in state] == [leaf.shape for leaf in initial]


@every_core
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtype_is_that_of_the_core(name: str, kwargs: dict[str, Any], dtype: torch.dtype) -> None:
    core = make(name, kwargs).to(dtype)
    initial = core.initial_state(BATCH)
    outputs, state = core.unroll(random_inputs().to(dtype), initial, no_starts())
    assert {tensor.dtype for tensor in (*initial, *state, outputs)} == {dtype}


@every_core
def test_device_is_that_of_the_core(name: str, kwargs: dict[str, Any]) -> None:
    """On the `meta` device, which every machine has: a tensor made on the CPU inside could not be combined with it."""
    core = make(name, kwargs).to("meta")
    initial = core.initial_state(BATCH)
    outputs, state = core.unroll(random_inputs().to("meta"), initial, no_starts().to("meta"))
    assert {tensor.device.type for tensor in (*initial, *state, outputs)} == {"meta"}


@every_core
def test_initial_state_is_the_same_for_all_rows(name: str, kwargs: dict[str, Any]) -> None:
    core = make(name, kwargs)
    for leaf, leaf_of_one in zip(core.initial_state(BATCH), core.initial_state(1), strict=True):
        assert torch.equal(leaf, leaf_of_one.expand_as(leaf))


STARTS = st.lists(st.lists(st.booleans(), min_size=BATCH, max_size=BATCH), min_size=1, max_size=STEPS)


@every_core
@settings(max_examples=20)
@given(pattern=STARTS)
def test_unroll_equals_steps_that_start_afresh(name: str, kwargs: dict[str, Any], pattern: list[list[bool]]) -> None:
    """Outputs and gradients, for any pattern of starts; here rows are reset one by one, by hand."""
    core = make(name, kwargs)
    starts = torch.tensor(pattern)
    x, state = random_inputs(len(pattern)), random_state(core)
    weights = torch.randn(len(pattern), BATCH, core.output_size, dtype=torch.float64)

    def gradients(outputs: Tensor, *sources: Tensor) -> list[Tensor | None]:
        wanted = [*sources, *core.parameters()]
        return list(torch.autograd.grad((outputs * weights).sum(), wanted, allow_unused=True))

    x_unroll, x_steps = x.clone().requires_grad_(), x.clone().requires_grad_()
    outputs, final = core.unroll(x_unroll, state, starts)
    columns, finals = [], []
    for b in range(BATCH):
        row_state: State = tuple(leaf[b : b + 1] for leaf in state)
        column = []
        for t in range(len(pattern)):
            if pattern[t][b]:
                row_state = core.initial_state(1)
            output, row_state = core(x_steps[t, b : b + 1], row_state)
            column.append(output)
        columns.append(torch.cat(column))
        finals.append(row_state)
    expected = torch.stack(columns, dim=1)
    torch.testing.assert_close(outputs, expected)
    assert_state_close(final, tuple(torch.cat(leaves) for leaves in zip(*finals, strict=True)))
    for actual_gradient, expected_gradient in zip(
        gradients(outputs, x_unroll), gradients(expected, x_steps), strict=True
    ):
        torch.testing.assert_close(actual_gradient, expected_gradient)


@every_core
def test_a_start_forgets_everything(name: str, kwargs: dict[str, Any]) -> None:
    """Also a state that is not finite, which no multiplication by zero would get rid of."""
    core = make(name, kwargs)
    x, starts = random_inputs(), no_starts()
    starts[0, 1:] = True
    ruined = tuple(leaf.clone() for leaf in random_state(core))
    for leaf in ruined:
        leaf[1:] = torch.nan
    outputs, state = core.unroll(x, ruined, starts)
    fresh_outputs, fresh_state = core.unroll(x, core.initial_state(BATCH), no_starts())
    torch.testing.assert_close(outputs[:, 1:], fresh_outputs[:, 1:])
    assert_state_close(tuple(leaf[1:] for leaf in state), tuple(leaf[1:] for leaf in fresh_state))


@every_core
def test_no_gradient_flows_across_a_start(name: str, kwargs: dict[str, Any]) -> None:
    """Row 2 starts at step 3: what comes then owes nothing to what was before, and everything to what comes after."""
    core = make(name, kwargs)
    x = random_inputs().requires_grad_()
    state = tuple(leaf.requires_grad_() for leaf in random_state(core))
    starts = no_starts()
    starts[3, 2] = True
    outputs, _ = core.unroll(x, state, starts)
    gradient, *state_gradients = torch.autograd.grad(outputs[3:, 2].square().sum(), [x, *state], allow_unused=True)
    assert not gradient[:3].any()
    assert gradient[3:, 2].abs().sum() > 0
    for state_gradient in state_gradients:
        assert state_gradient is not None
        assert not state_gradient.any()


@every_core
def test_state_is_not_detached_inside_an_unroll(name: str, kwargs: dict[str, Any]) -> None:
    """The last output owes something to the first input and to the state before it."""
    core = make(name, kwargs)
    x = random_inputs().requires_grad_()
    state = tuple(leaf.requires_grad_() for leaf in random_state(core))
    outputs, _ = core.unroll(x, state, no_starts())
    gradient, *state_gradients = torch.autograd.grad(outputs[-1].square().sum(), [x, *state])
    touched = gradient.abs().sum(dim=(1, 2)) > 0  # [T]
    assert touched.tolist() == [name not in MEMORYLESS] * (STEPS - 1) + [True]
    assert (len(state_gradients) == 0) == (name in MEMORYLESS)
    for state_gradient in state_gradients:
        assert (state_gradient.flatten(1).abs().sum(dim=1) > 0).all()


@every_core
def test_an_unroll_can_be_cut_in_two(name: str, kwargs: dict[str, Any]) -> None:
    core = make(name, kwargs)
    x, starts = random_inputs(), torch.rand(STEPS, BATCH) < 0.3
    whole, final = core.unroll(x, core.initial_state(BATCH), starts)
    first, state = core.unroll(x[:2], core.initial_state(BATCH), starts[:2])
    second, state = core.unroll(x[2:], state, starts[2:])
    torch.testing.assert_close(torch.cat([first, second]), whole)
    assert_state_close(state, final)


@every_core
def test_rows_of_a_batch_do_not_touch_one_another(name: str, kwargs: dict[str, Any]) -> None:
    """Another input, state and start in row 1 change row 1 alone, and row 1's outputs owe nothing to other rows."""
    core = make(name, kwargs)
    x, state, starts = random_inputs(), random_state(core), torch.rand(STEPS, BATCH) < 0.3
    others = [0, 2, 3]
    outputs, final = core.unroll(x, state, starts)
    other_x, other_starts = x.clone(), starts.clone()
    other_x[:, 1] += 1.0
    other_starts[:, 1] ^= True
    other_state = tuple(leaf.clone() for leaf in state)
    for leaf in other_state:
        leaf[1] += 1.0
    other_outputs, other_final = core.unroll(other_x, other_state, other_starts)
    assert not torch.allclose(outputs[:, 1], other_outputs[:, 1])
    torch.testing.assert_close(outputs[:, others], other_outputs[:, others])
    assert_state_close(tuple(leaf[others] for leaf in final), tuple(leaf[others] for leaf in other_final))

    x.requires_grad_()
    (gradient,) = torch.autograd.grad(core.unroll(x, state, starts)[0][:, 1].square().sum(), x)
    assert gradient[:, 1].abs().sum() > 0
    assert not gradient[:, others].any()


@every_core
def test_arguments_are_not_written_into(name: str, kwargs: dict[str, Any]) -> None:
    """An actor keeps the state from before an unroll for the learner."""
    core = make(name, kwargs)
    arguments = (random_inputs(), random_state(core), torch.rand(STEPS, BATCH) < 0.5)
    x, state, starts = arguments[0].clone(), tuple(leaf.clone() for leaf in arguments[1]), arguments[2].clone()
    with torch.no_grad():
        core.unroll(*arguments)
        core(arguments[0][0], arguments[1])
    assert torch.equal(arguments[0], x)
    assert torch.equal(arguments[2], starts)
    for leaf, copy in zip(arguments[1], state, strict=True):
        assert torch.equal(leaf, copy)


@every_core
def test_weights_and_state_survive_a_checkpoint(name: str, kwargs: dict[str, Any], tmp_path: Path) -> None:
    core, other = make(name, kwargs), make_core(name, INPUT, **kwargs).double()
    x, starts = random_inputs(), no_starts()
    _, state = core.unroll(x, core.initial_state(BATCH), starts)
    leaves = {f"state/{i}": leaf for i, leaf in enumerate(state)}
    save_checkpoint(tmp_path / "core.zip", "core", {}, leaves | core.state_dict())
    _, tensors = load_checkpoint(tmp_path / "core.zip", "core")
    restored = tuple(tensors.pop(name) for name in sorted(leaves))
    other.load_state_dict(tensors)
    torch.testing.assert_close(core.unroll(x, state, starts)[0], other.unroll(x, restored, starts)[0], rtol=0, atol=0)


@every_core
def test_every_parameter_gets_a_gradient(name: str, kwargs: dict[str, Any]) -> None:
    """No parameter is left out of the outputs, or reached by a gradient that is not finite."""
    core = make(name, kwargs)
    x = random_inputs().requires_grad_()
    core.unroll(x, random_state(core), no_starts())[0].square().sum().backward()
    for parameter_name, parameter in core.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.isfinite().all(), parameter_name
        assert parameter.grad.any(), parameter_name


@pytest.mark.parametrize("value", [0, -3, 2.5, True])
@pytest.mark.parametrize(
    ("name", "argument"), [(name, argument) for name in ILLEGAL for argument in ("input_size", *ILLEGAL[name])]
)
def test_illegal_arguments_are_named(name: str, argument: str, value: Any) -> None:
    arguments = {"input_size": INPUT, **CASES[name][0], argument: value}
    with pytest.raises(ValueError, match=rf"{argument} must be .*, got {value!r}"):
        make_core(name, **arguments)


@pytest.mark.parametrize("name", CORES)
def test_unknown_arguments_are_rejected(name: str) -> None:
    with pytest.raises(TypeError, match="num_slots"):
        make_core(name, INPUT, **CASES[name][0], num_slots=3)


def test_unknown_cores_are_rejected() -> None:
    with pytest.raises(ValueError, match=r"core must be one of \[.*'rmc'.*\], got 'transformer'"):
        make_core("transformer", INPUT)

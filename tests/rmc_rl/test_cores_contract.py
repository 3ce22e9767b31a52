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
        {"mem_slots": 7, "head_size": 10, "gate_style": "memory", "key_size": 8, "attention_mlp_layers": 3},
        {"mem_slots": 13, "head_size": 1, "num_heads": 9, "gate_style": None, "attention_mlp_layers": 1},
    ],
    "lstm": [{"hidden_size": 9}],
    "gru": [{"hidden_size": 9}],
    "deep_lstm": [{"hidden_size": 9, "num_layers": 3}, {"hidden_size": 7, "num_layers": 1}],
    "dnc": [
        {"memory_size": 7, "word_size": 3, "num_reads": 2, "controller_size": 8, "controller_layers": 2},
        {"memory_size": 5, "word_size": 2, "num_reads": 1, "num_writes": 3, "controller_size": 9, "output_size": 8},
        {"memory_size": 9, "word_size": 7, "num_reads": 3, "num_writes": 2, "controller": "feed_forward"},
    ],
    "mingru": [{"hidden_size": 9}],
    "identity": [{}],
}
# Arguments that the core must reject by name, on top of an illegal input_size.
ILLEGAL: dict[str, list[str]] = {
    "rmc": ["mem_slots", "head_size", "num_heads", "num_blocks", "attention_mlp_layers", "key_size", "gate_style"],
    "lstm": ["hidden_size"],
    "gru": ["hidden_size"],
    "deep_lstm": ["hidden_size", "num_layers"],
    "dnc": [
        "memory_size",
        "word_size",
        "num_reads",
        "num_writes",
        "controller",
        "controller_size",
        "controller_layers",
        "output_size",
    ],
    "mingru": ["hidden_size"],
    "identity": [],
}
INPUT, BATCH, STEPS = 11, 4, 6
MEMORYLESS = {"identity"}

DTYPES = [torch.float32, torch.float64]  # a core may compute them in different ways

every_core = pytest.mark.parametrize(
    ("name", "kwargs", "dtype"),
    [
        pytest.param(name, kwargs, dtype, id=f"{name}-{i}-{str(dtype).removeprefix('torch.')}")
        for name, cases in CASES.items()
        for i, kwargs in enumerate(cases)
        for dtype in DTYPES
    ],
)


def make(name: str, kwargs: dict[str, Any], dtype: torch.dtype) -> Core:
    torch.manual_seed(5)
    return make_core(name, INPUT, **kwargs).to(dtype)


def random_state(core: Core, batch_size: int = BATCH) -> State:
    """One that the core comes to: what it takes for weights must be weights."""
    x = 3 * torch.randn(3, batch_size, INPUT).to(next(iter(core.initial_state(1)), torch.empty(0)))
    with torch.no_grad():
        _, state = core.unroll_loop(x, core.initial_state(batch_size), no_starts(3, batch_size))
    return tuple(leaf.clone() for leaf in state)


def random_inputs(dtype: torch.dtype, num_steps: int = STEPS, batch_size: int = BATCH) -> Tensor:
    return torch.randn(num_steps, batch_size, INPUT, dtype=dtype)


def no_starts(num_steps: int = STEPS, batch_size: int = BATCH) -> Tensor:
    return torch.zeros(num_steps, batch_size, dtype=torch.bool)


def assert_close(actual: Tensor | None, expected: Tensor | None) -> None:
    """To the precision of their type, of the largest number; None is a gradient that there is none of."""
    if actual is None or expected is None:
        assert actual is expected
        return
    precision = 1e-9 if expected.dtype == torch.float64 else 1e-4
    scale = float(expected.detach().abs().nan_to_num().max()) if expected.numel() else 0.0
    torch.testing.assert_close(actual, expected, rtol=0, atol=precision * max(scale, 1.0))


def assert_state_close(actual: State, expected: State) -> None:
    for leaf, expected_leaf in zip(actual, expected, strict=True):
        assert_close(leaf, expected_leaf)


@pytest.mark.parametrize("name", CORES)
def test_every_registered_core_is_tested_here(name: str) -> None:
    assert name in CASES, f"add the core {name!r} to CASES: arguments to test it with, all sizes different"
    assert name in ILLEGAL, f"add the core {name!r} to ILLEGAL: the names of its arguments that have illegal values"


def test_every_core_tested_here_is_registered() -> None:
    assert CASES.keys() == ILLEGAL.keys() == CORES.keys()


@every_core
@pytest.mark.parametrize("batch_size", [1, BATCH])
def test_shapes(name: str, kwargs: dict[str, Any], dtype: torch.dtype, batch_size: int) -> None:
    core = make(name, kwargs, dtype)
    assert core.input_size == INPUT
    initial = core.initial_state(batch_size)
    assert isinstance(initial, tuple)
    assert all(leaf.shape[0] == batch_size for leaf in initial)
    output, state = core(random_inputs(dtype, 1, batch_size)[0], initial)
    assert output.shape == (batch_size, core.output_size)
    assert [leaf.shape for leaf in state] == [leaf.shape for leaf in initial]
    outputs, state = core.unroll(random_inputs(dtype, STEPS, batch_size), initial, no_starts(STEPS, batch_size))
    assert outputs.shape == (STEPS, batch_size, core.output_size)
    assert [leaf.shape for leaf in state] == [leaf.shape for leaf in initial]


@every_core
def test_dtype_is_that_of_the_core(name: str, kwargs: dict[str, Any], dtype: torch.dtype) -> None:
    core = make(name, kwargs, dtype)
    initial = core.initial_state(BATCH)
    outputs, state = core.unroll(random_inputs(dtype), initial, no_starts())
    assert {tensor.dtype for tensor in (*initial, *state, outputs)} == {dtype}


@every_core
def test_device_is_that_of_the_core(name: str, kwargs: dict[str, Any], dtype: torch.dtype) -> None:
    """On the `meta` device, which every machine has: a tensor made on the CPU inside could not be combined with it."""
    core = make(name, kwargs, dtype).to("meta")
    initial = core.initial_state(BATCH)
    outputs, state = core.unroll(random_inputs(dtype).to("meta"), initial, no_starts().to("meta"))
    assert {tensor.device.type for tensor in (*initial, *state, outputs)} == {"meta"}


@every_core
def test_initial_state_is_the_same_for_all_rows(name: str, kwargs: dict[str, Any], dtype: torch.dtype) -> None:
    core = make(name, kwargs, dtype)
    for leaf, leaf_of_one in zip(core.initial_state(BATCH), core.initial_state(1), strict=True):
        assert torch.equal(leaf, leaf_of_one.expand_as(leaf))


@every_core
def test_leaves_of_the_initial_state_do_not_share_memory(name: str, kwargs: dict[str, Any], dtype: torch.dtype) -> None:
    """Who writes into one of them, such as an LSTM's h, leaves the others as they are."""
    leaves = [leaf.untyped_storage().data_ptr() for leaf in make(name, kwargs, dtype).initial_state(BATCH)]
    assert len(set(leaves)) == len(leaves)


@every_core
@pytest.mark.parametrize("way", ["unroll", "unroll_loop"])
def test_arguments_of_another_shape_are_named(name: str, kwargs: dict[str, Any], dtype: torch.dtype, way: str) -> None:
    """In one line, on every way: compiled code would take other memory for what is missing."""
    core = make(name, kwargs, dtype)
    x, state, starts = random_inputs(dtype), core.initial_state(BATCH), no_starts()
    named: dict[str, list[tuple[Tensor, State, Tensor]]] = {
        "x": [(wrong, state, starts) for wrong in (x[0], x[None], x[..., 1:], torch.cat([x, x], dim=-1))],
        "starts": [
            (x, state, wrong)
            for wrong in (starts[:-1], no_starts(STEPS, 10 * BATCH), starts[0], starts.T, starts.float())
        ],
        "state": [(x, (*state, x[0]), starts)],
    }
    if state:
        few, many = core.initial_state(BATCH - 1), core.initial_state(10 * BATCH)
        wider = tuple(torch.cat([leaf, leaf], dim=-1) for leaf in state)
        named["state"] += [(x, wrong, starts) for wrong in (few, many, state[1:], wider, (*state[:-1], wider[-1]))]
        named["state"] += [(x.transpose(0, 1), state, starts.T)]  # batch first
    for argument, wrongs in named.items():
        for arguments in wrongs:
            with pytest.raises(ValueError, match=rf"^{argument} must be [^\n]*, here [^\n]*, got [^\n]*\Z"):
                getattr(core, way)(*arguments)


def overriding(kind: type[Core]) -> type[Core]:
    """A core that adds 1 to the outputs of another one, by overriding its step."""

    class Overriding(kind):  # type: ignore[valid-type, misc]
        def forward(self, x: Tensor, state: State, *arguments: Any) -> Any:
            output, *rest = super().forward(x, state, *arguments)
            return output + 1, *rest

    return Overriding


@pytest.mark.parametrize("name", [name for name in CORES if name != "rmc"])
def test_a_step_that_a_subclass_overrides_is_taken(name: str) -> None:
    """By `unroll` as well, whatever it does for the class as it is."""
    torch.manual_seed(5)
    core = overriding(CORES[name])(INPUT, **CASES[name][0])
    x, state, starts = random_inputs(torch.float32), core.initial_state(BATCH), no_starts()
    assert core.unroll_path(x, state) == "loop"
    assert core.record(STEPS, BATCH) is None
    outputs, _ = core.unroll(x, state, starts)
    expected, _ = core(x[0], state)
    assert_close(outputs[0], expected)


STARTS = st.lists(st.lists(st.booleans(), min_size=BATCH, max_size=BATCH), min_size=1, max_size=STEPS)


@every_core
@settings(max_examples=20)
@given(pattern=STARTS)
def test_unroll_equals_steps_that_start_afresh(
    name: str, kwargs: dict[str, Any], dtype: torch.dtype, pattern: list[list[bool]]
) -> None:
    """Outputs and gradients, for any pattern of starts; here rows are reset one by one, by hand."""
    core = make(name, kwargs, dtype)
    starts = torch.tensor(pattern)
    x, state = random_inputs(dtype, len(pattern)), random_state(core)
    weights = torch.randn(len(pattern), BATCH, core.output_size, dtype=dtype)

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
    assert_close(outputs, expected)
    assert_state_close(final, tuple(torch.cat(leaves) for leaves in zip(*finals, strict=True)))
    for actual_gradient, expected_gradient in zip(
        gradients(outputs, x_unroll), gradients(expected, x_steps), strict=True
    ):
        assert_close(actual_gradient, expected_gradient)


@every_core
@pytest.mark.parametrize("start", [0, 3])
def test_a_start_forgets_everything(name: str, kwargs: dict[str, Any], dtype: torch.dtype, start: int) -> None:
    """Also what is not finite, in the state and in what was seen: no multiplication by zero would get rid of it.

    Rows 1, 2 and 3 start: the first after infinity, the second after NaN, the third after common numbers.
    """
    core = make(name, kwargs, dtype)
    x, starts, state = random_inputs(dtype), no_starts(), random_state(core)
    starts[start, 1:] = True
    for ruined in (x[:start].transpose(0, 1), *state):  # [B, ...]
        ruined[1], ruined[2] = torch.inf, torch.nan
    x.requires_grad_()
    outputs, final = core.unroll(x, state, starts)
    fresh_x = x.detach()[start:, 1:].requires_grad_()
    fresh_outputs, fresh_final = core.unroll(fresh_x, core.initial_state(3), no_starts(STEPS - start, 3))
    assert_close(outputs[start:, 1:], fresh_outputs)
    assert_state_close(tuple(leaf[1:] for leaf in final), fresh_final)

    # Not even in gradients is anything left; but those of weights that what is not finite went through have some.
    parameters = list(core.parameters()) if start == 0 else []
    gradient, *gradients = torch.autograd.grad(outputs[start:, 1:].square().sum(), [x, *parameters])
    fresh_gradient, *fresh_gradients = torch.autograd.grad(fresh_outputs.square().sum(), [fresh_x, *parameters])
    assert_close(gradient[start:, 1:], fresh_gradient)
    for one, other in zip(gradients, fresh_gradients, strict=True):
        assert_close(one, other)


@every_core
def test_no_gradient_flows_across_a_start(name: str, kwargs: dict[str, Any], dtype: torch.dtype) -> None:
    """Row 2 starts at step 3: what comes then owes nothing to what was before, and everything to what comes after."""
    core = make(name, kwargs, dtype)
    x = random_inputs(dtype).requires_grad_()
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
def test_state_is_not_detached_inside_an_unroll(name: str, kwargs: dict[str, Any], dtype: torch.dtype) -> None:
    """The last output owes something to the first input and to the state before it."""
    core = make(name, kwargs, dtype)
    x = random_inputs(dtype).requires_grad_()
    state = tuple(leaf.requires_grad_() for leaf in random_state(core))
    outputs, _ = core.unroll(x, state, no_starts())
    gradient, *state_gradients = torch.autograd.grad(outputs[-1].square().sum(), [x, *state])
    touched = gradient.abs().sum(dim=(1, 2)) > 0  # [T]
    assert touched.tolist() == [name not in MEMORYLESS] * (STEPS - 1) + [True]
    assert (len(state_gradients) == 0) == (name in MEMORYLESS)
    for state_gradient in state_gradients:
        assert (state_gradient.flatten(1).abs().sum(dim=1) > 0).all()


@every_core
def test_an_unroll_can_be_cut_in_two(name: str, kwargs: dict[str, Any], dtype: torch.dtype) -> None:
    core = make(name, kwargs, dtype)
    x, starts = random_inputs(dtype), torch.rand(STEPS, BATCH) < 0.3
    whole, final = core.unroll(x, core.initial_state(BATCH), starts)
    first, state = core.unroll(x[:2], core.initial_state(BATCH), starts[:2])
    second, state = core.unroll(x[2:], state, starts[2:])
    assert_close(torch.cat([first, second]), whole)
    assert_state_close(state, final)


@every_core
def test_rows_of_a_batch_do_not_touch_one_another(name: str, kwargs: dict[str, Any], dtype: torch.dtype) -> None:
    """Another input, state and start in row 1 change row 1 alone, and row 1's outputs owe nothing to other rows."""
    core = make(name, kwargs, dtype)
    x, state, starts = random_inputs(dtype), random_state(core), torch.rand(STEPS, BATCH) < 0.3
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
    assert_close(outputs[:, others], other_outputs[:, others])
    assert_state_close(tuple(leaf[others] for leaf in final), tuple(leaf[others] for leaf in other_final))

    x.requires_grad_()
    (gradient,) = torch.autograd.grad(core.unroll(x, state, starts)[0][:, 1].square().sum(), x)
    assert gradient[:, 1].abs().sum() > 0
    assert not gradient[:, others].any()


@every_core
def test_arguments_are_not_written_into(name: str, kwargs: dict[str, Any], dtype: torch.dtype) -> None:
    """An actor keeps the state from before an unroll for the learner."""
    core = make(name, kwargs, dtype)
    arguments = (random_inputs(dtype), random_state(core), torch.rand(STEPS, BATCH) < 0.5)
    x, state, starts = arguments[0].clone(), tuple(leaf.clone() for leaf in arguments[1]), arguments[2].clone()
    with torch.no_grad():
        core.unroll(*arguments)
        core(arguments[0][0], arguments[1])
    assert torch.equal(arguments[0], x)
    assert torch.equal(arguments[2], starts)
    for leaf, copy in zip(arguments[1], state, strict=True):
        assert torch.equal(leaf, copy)


@every_core
def test_unrolls_do_not_touch_one_another(name: str, kwargs: dict[str, Any], dtype: torch.dtype) -> None:
    """Outputs and gradients of one stay what they are while others of the same sizes run before and after it."""
    core = make(name, kwargs, dtype)
    x, state, starts = random_inputs(dtype).requires_grad_(), random_state(core), torch.rand(STEPS, BATCH) < 0.3
    outputs, final = core.unroll(x, state, starts)
    (expected_gradient,) = torch.autograd.grad(outputs.square().sum(), x)
    expected, expected_final = outputs.detach().clone(), tuple(leaf.detach().clone() for leaf in final)

    outputs, final = core.unroll(x, state, starts)
    other, _ = core.unroll(random_inputs(dtype).requires_grad_(), random_state(core), no_starts())
    with torch.no_grad():
        core.unroll(random_inputs(dtype), random_state(core), no_starts())
    other.square().sum().backward()
    assert torch.equal(outputs, expected)
    assert all(torch.equal(leaf, expected_leaf) for leaf, expected_leaf in zip(final, expected_final, strict=True))
    for _ in range(2):
        (gradient,) = torch.autograd.grad(outputs.square().sum(), x, retain_graph=True)
        assert_close(gradient, expected_gradient)


@every_core
def test_gradients_of_a_part_of_what_goes_in(name: str, kwargs: dict[str, Any], dtype: torch.dtype) -> None:
    """By the input alone, by the state alone, by the weights alone; from the final state as from the outputs."""
    core = make(name, kwargs, dtype)
    x, state, starts = random_inputs(dtype), random_state(core), torch.rand(STEPS, BATCH) < 0.3
    parameters = list(core.parameters())

    def gradients(wanted: list[Tensor]) -> list[Tensor | None]:
        for tensor in [x, *state, *parameters]:
            tensor.requires_grad_(any(tensor is one for one in wanted))
        outputs, final = core.unroll(x, state, starts)
        loss = outputs.square().sum() + sum(leaf.sin().sum() for leaf in final)
        return list(torch.autograd.grad(loss, wanted, allow_unused=True))

    everything = gradients([x, *state, *parameters])
    ends = [1, 1 + len(state)]
    for part, expected in [
        ([x], everything[: ends[0]]),
        (list(state), everything[ends[0] : ends[1]]),
        (parameters, everything[ends[1] :]),
    ]:
        if part:
            for gradient, expected_gradient in zip(gradients(part), expected, strict=True):
                assert_close(gradient, expected_gradient)


@every_core
def test_inputs_in_any_layout(name: str, kwargs: dict[str, Any], dtype: torch.dtype) -> None:
    """Transposed and expanded tensors, and slices of longer ones, as actors and learners hand them in."""
    core = make(name, kwargs, dtype)
    x, state, starts = random_inputs(dtype), random_state(core), torch.rand(STEPS, BATCH) < 0.3
    expected, _ = core.unroll(x, state, starts)
    batch_first = (x.transpose(0, 1).contiguous().transpose(0, 1), starts.T.contiguous().T)
    spread = torch.stack([x, x + 1], dim=-1)[..., 0]
    spread_state = tuple(torch.stack([leaf, leaf + 1], dim=1)[:, 0] for leaf in state)
    assert_close(core.unroll(batch_first[0], state, batch_first[1])[0], expected)
    assert_close(core.unroll(spread, spread_state, starts)[0], expected)


@every_core
def test_weights_and_state_survive_a_checkpoint(
    name: str, kwargs: dict[str, Any], dtype: torch.dtype, tmp_path: Path
) -> None:
    core, other = make(name, kwargs, dtype), make_core(name, INPUT, **kwargs).to(dtype)
    x, starts = random_inputs(dtype), no_starts()
    _, state = core.unroll(x, core.initial_state(BATCH), starts)
    leaves = {f"state/{i}": leaf for i, leaf in enumerate(state)}
    save_checkpoint(tmp_path / "core.zip", "core", {}, leaves | core.state_dict())
    _, tensors = load_checkpoint(tmp_path / "core.zip", "core")
    restored = tuple(tensors.pop(name) for name in leaves)
    other.load_state_dict(tensors)
    assert torch.equal(core.unroll(x, state, starts)[0], other.unroll(x, restored, starts)[0])


@every_core
def test_every_parameter_gets_a_gradient(name: str, kwargs: dict[str, Any], dtype: torch.dtype) -> None:
    """No parameter is left out of the outputs, or reached by a gradient that is not finite."""
    core = make(name, kwargs, dtype)
    x = random_inputs(dtype).requires_grad_()
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

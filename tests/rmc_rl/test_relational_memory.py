"""The Relational Memory Core against DeepMind's own outputs and gradients, and against a literal transcription."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor, nn

from rmc_rl.cores import RelationalMemory

DATA = Path(__file__).parents[1] / "data" / "rmc"
CASES = ["unit_1block", "unit_3blocks_key", "memory_1block", "ungated"]
SEED = 3
Params = dict[str, NDArray[np.float64]]


def load_case(name: str) -> tuple[dict[str, Any], dict[str, NDArray[np.float64]], Params]:
    """The constructor's arguments, the arrays, and the parameters of one reference file."""
    with np.load(DATA / f"{name}.npz") as file:
        arrays = dict(file)
    config = json.loads(str(arrays.pop("config")))
    config = {key: value for key, value in config.items() if key not in ("batch", "time")}
    params = {key.removeprefix("param/"): arrays.pop(key) for key in list(arrays) if key.startswith("param/")}
    return config, arrays, params


def build(config: dict[str, Any], params: Params) -> RelationalMemory:
    core = RelationalMemory(**config).double()
    core.load_reference(params)
    return core


def gradient(core: RelationalMemory, name: str) -> NDArray[np.float64]:
    """The gradient of the weight that the reference calls `name`."""
    module_name, _, weight = name.partition("/")
    module_name = module_name.replace("block.", "blocks.")
    # The layers of the MLP stand at the even places, the ReLUs between them at the odd ones.
    module_name = re.sub(r"attention_mlp\.(\d)", lambda match: f"attention_mlp.{2 * int(match[1])}", module_name)
    parameter = getattr(core.get_submodule(module_name), "weight" if weight in ("w", "gamma") else "bias")
    assert parameter.grad is not None
    return (parameter.grad.T if weight == "w" else parameter.grad).numpy()


def run_stepping(core: RelationalMemory, x: Tensor) -> tuple[Tensor, Tensor]:
    state, outputs = core.initial_state(x.shape[1]), []
    for x_t in x:
        output, state = core(x_t, state)
        outputs.append(output)
    return torch.stack(outputs), state[0]


def run_unroll(core: RelationalMemory, x: Tensor) -> tuple[Tensor, Tensor]:
    starts = torch.zeros(x.shape[:2], dtype=torch.bool)
    outputs, (memory,) = core.unroll(x, core.initial_state(x.shape[1]), starts)
    return outputs, memory


def assert_close(actual: Any, expected: Any, name: str = "") -> None:
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-9, err_msg=name)


# Against the reference


@pytest.mark.parametrize("run", [run_unroll, run_stepping])
@pytest.mark.parametrize("case", CASES)
def test_equals_deepmind(case: str, run: Any) -> None:
    """Outputs, final memory and every gradient, in float64."""
    config, arrays, params = load_case(case)
    core = build(config, params)
    x = torch.from_numpy(arrays["x"]).requires_grad_()
    outputs, memory = run(core, x)
    (outputs * torch.from_numpy(arrays["loss_weights"])).sum().backward()
    assert_close(outputs.detach(), arrays["outputs"], "outputs")
    assert_close(memory.detach(), arrays["final_memory"], "final_memory")
    assert_close(x.grad, arrays["grad_x"], "grad_x")
    names = [key.removeprefix("grad/") for key in arrays if key.startswith("grad/")]
    assert sorted(names) == sorted(params)
    for name in names:
        assert_close(gradient(core, name), arrays[f"grad/{name}"], name)


@pytest.mark.parametrize("case", CASES)
def test_equals_deepmind_in_float32(case: str) -> None:
    """To that type's precision, on whatever path an unroll takes then."""
    config, arrays, params = load_case(case)
    core = RelationalMemory(**config)
    core.load_reference(params)
    x = torch.from_numpy(arrays["x"]).float().requires_grad_()
    outputs, memory = run_unroll(core, x)
    (outputs * torch.from_numpy(arrays["loss_weights"])).sum().backward()
    assert x.grad is not None
    pairs = {"outputs": outputs.detach(), "final_memory": memory.detach(), "grad_x": x.grad}
    pairs |= {key: gradient(core, key.removeprefix("grad/")) for key in arrays if key.startswith("grad/")}
    for name, actual in pairs.items():
        scale = np.abs(arrays[name]).max()
        np.testing.assert_allclose(actual, arrays[name], rtol=0, atol=1e-5 * max(scale, 1), err_msg=name)


def test_every_parameter_has_its_place_in_the_reference() -> None:
    config, _, params = load_case("unit_3blocks_key")
    core = RelationalMemory(**config)
    assert sum(parameter.numel() for parameter in core.parameters()) == sum(array.size for array in params.values())


def test_load_reference_refuses_what_does_not_fit_and_changes_nothing() -> None:
    config, _, params = load_case("unit_3blocks_key")
    core = RelationalMemory(**config)
    before = {name: parameter.clone() for name, parameter in core.named_parameters()}
    missing = {name: array for name, array in params.items() if name != "block.1.qkv/w"}
    unknown = {**params, "block.3.qkv/w": params["block.1.qkv/w"]}
    # The weight to be refused stands last: those before it must not have been taken over either.
    last = list(params)[-1]
    wrong_shape = {**params, last: params[last][:-1]}
    transposed = {**params, "block.1.qkv/w": params["block.1.qkv/w"].T}
    for refused, message in [
        (missing, r"missing \['block\.1\.qkv/w'\], unknown \[\]"),
        (unknown, r"missing \[\], unknown \['block\.3\.qkv/w'\]"),
        (wrong_shape, rf"params\['{last}'\] must have shape \(24,\), got \(23,\)"),
        (transposed, r"params\['block\.1\.qkv/w'\] must have shape \(12, 54\), got \(54, 12\)"),
    ]:
        with pytest.raises(ValueError, match=message):
            core.load_reference(refused)
        for name, parameter in core.named_parameters():
            assert torch.equal(parameter, before[name]), name


# Against a literal transcription of the equations


def layer_norm(rows: NDArray[np.float64], gamma: NDArray[np.float64], beta: NDArray[np.float64]) -> Any:
    mean = rows.mean(axis=-1, keepdims=True)
    variance = ((rows - mean) ** 2).mean(axis=-1, keepdims=True)
    return (rows - mean) / np.sqrt(variance + 1e-5) * gamma + beta


def softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def sigmoid(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return 1 / (1 + np.exp(-x))


def literal_step(config: dict[str, Any], p: Params, x: Any, memory: Any) -> tuple[Any, Any]:
    """One row of the batch, one step: x [input], memory [slots, size] -> memory, attention [blocks, heads, N, N]."""
    slots, heads, head_size, key_size = (config[key] for key in ("mem_slots", "num_heads", "head_size", "key_size"))
    num_layers = config["attention_mlp_layers"]
    row = x @ p["input_projection/w"] + p["input_projection/b"]
    rows = np.vstack([memory, row])
    attention = []
    for k in range(config["num_blocks"]):
        qkv = layer_norm(
            rows @ p[f"block.{k}.qkv/w"] + p[f"block.{k}.qkv/b"],
            p[f"block.{k}.qkv_norm/gamma"],
            p[f"block.{k}.qkv_norm/beta"],
        )
        results, weights_of_heads = [], []
        for head in range(heads):
            own = qkv[:, head * (2 * key_size + head_size) : (head + 1) * (2 * key_size + head_size)]
            query, key, value = own[:, :key_size], own[:, key_size : 2 * key_size], own[:, 2 * key_size :]
            weights = softmax(query @ key.T / np.sqrt(key_size))
            weights_of_heads.append(weights)
            results.append(weights @ value)
        attention.append(weights_of_heads)
        rows = layer_norm(
            rows + np.hstack(results), p[f"block.{k}.attention_norm/gamma"], p[f"block.{k}.attention_norm/beta"]
        )
        hidden = rows
        for i in range(num_layers):
            hidden = hidden @ p[f"attention_mlp.{i}/w"] + p[f"attention_mlp.{i}/b"]
            if i < num_layers - 1:
                hidden = np.maximum(hidden, 0)
        rows = layer_norm(rows + hidden, p[f"block.{k}.mlp_norm/gamma"], p[f"block.{k}.mlp_norm/beta"])
    new = rows[:slots]
    if config["gate_style"] is not None:
        gates = np.tanh(memory) @ p["gate_from_memory/w"] + p["gate_from_memory/b"]
        gates = gates + row @ p["gate_from_input/w"] + p["gate_from_input/b"]
        half = gates.shape[1] // 2
        input_gates = sigmoid(gates[:, :half] + config["input_bias"])
        forget_gates = sigmoid(gates[:, half:] + config["forget_bias"])
        new = input_gates * np.tanh(new) + forget_gates * memory
    return new, np.array(attention)


def random_params(config: dict[str, Any], generator: np.random.Generator) -> Params:
    heads, head_size, key_size = (config[key] for key in ("num_heads", "head_size", "key_size"))
    size, qkv_size = heads * head_size, heads * (2 * key_size + head_size)
    linears = {"input_projection": (config["input_size"], size)}
    linears |= {f"attention_mlp.{i}": (size, size) for i in range(config["attention_mlp_layers"])}
    norms = {}
    for k in range(config["num_blocks"]):
        linears[f"block.{k}.qkv"] = (size, qkv_size)
        norms |= {
            f"block.{k}.qkv_norm": qkv_size,
            f"block.{k}.attention_norm": size,
            f"block.{k}.mlp_norm": size,
        }
    if config["gate_style"] is not None:
        width = 2 * size if config["gate_style"] == "unit" else 2
        linears |= {"gate_from_input": (size, width), "gate_from_memory": (size, width)}
    params = {}
    for name, shape in linears.items():
        params[f"{name}/w"] = generator.normal(scale=shape[0] ** -0.5, size=shape)
        params[f"{name}/b"] = generator.normal(size=shape[1])
    for name, width in norms.items():
        params[f"{name}/gamma"] = generator.normal(1.0, 0.3, width)
        params[f"{name}/beta"] = generator.normal(size=width)
    return params


CONFIGS = st.fixed_dictionaries(
    {
        "input_size": st.integers(1, 9),
        "mem_slots": st.integers(1, 8),
        "head_size": st.integers(1, 6),
        "num_heads": st.integers(1, 4),
        "num_blocks": st.integers(1, 3),
        "forget_bias": st.floats(-2, 2),
        "input_bias": st.floats(-2, 2),
        "gate_style": st.sampled_from(["unit", "memory", None]),
        "attention_mlp_layers": st.integers(1, 4),
        "key_size": st.integers(1, 7),
    }
)


@settings(max_examples=60)
@given(config=CONFIGS, batch=st.integers(1, 4), steps=st.integers(1, 5), seed=st.integers(0, 2**32 - 1))
def test_equals_a_literal_transcription(config: dict[str, Any], batch: int, steps: int, seed: int) -> None:
    """For any sizes and arguments: memories, attention weights, and resets at random steps."""
    generator = np.random.default_rng(seed)
    params = random_params(config, generator)
    core = build(config, params)
    x = generator.normal(size=(steps, batch, config["input_size"]))
    starts = generator.random((steps, batch)) < 0.3
    size = config["num_heads"] * config["head_size"]
    memory = generator.normal(size=(batch, config["mem_slots"], size))
    fresh = np.eye(config["mem_slots"], size)

    with torch.no_grad():
        outputs, (final,) = core.unroll(torch.from_numpy(x), (torch.from_numpy(memory),), torch.from_numpy(starts))
    for t in range(steps):
        expected_attention = []
        before = memory.copy()
        for b in range(batch):
            before[b] = fresh if starts[t, b] else memory[b]
            memory[b], attention = literal_step(config, params, x[t, b], before[b])
            expected_attention.append(attention)
        assert_close(outputs[t], memory.reshape(batch, -1), f"outputs[{t}]")
        with torch.no_grad():
            _, _, weights = core(torch.from_numpy(x[t]), (torch.from_numpy(before),), return_attention=True)
        assert_close(weights, np.array(expected_attention), f"attention[{t}]")
    assert_close(final, memory, "final memory")


@pytest.mark.parametrize(
    "config",
    [
        {"mem_slots": 2, "head_size": 1, "num_heads": 3, "num_blocks": 2, "key_size": 2, "attention_mlp_layers": 3},
        {"mem_slots": 3, "head_size": 2, "num_heads": 1, "gate_style": "memory"},
        {"mem_slots": 1, "head_size": 2, "num_heads": 2, "gate_style": None, "attention_mlp_layers": 1},
    ],
)
def test_gradients_equal_finite_differences(config: dict[str, Any]) -> None:
    """Of an unroll with a reset inside, by the input, the first memory and every parameter."""
    torch.manual_seed(SEED)
    core = RelationalMemory(input_size=4, **config).double()
    names = [name for name, _ in core.named_parameters()]
    starts = torch.tensor([[False, False], [False, True], [False, False]])
    x = torch.randn(3, 2, 4, dtype=torch.float64, requires_grad=True)
    memory = torch.randn(2, core.mem_slots, core.size, dtype=torch.float64, requires_grad=True)

    class Unroll(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.core = core

        def forward(self, x: Tensor, memory: Tensor) -> Tensor:
            return self.core.unroll(x, (memory,), starts)[0]

    unroll = Unroll()

    def function(x: Tensor, memory: Tensor, *weights: Tensor) -> Tensor:
        replaced = {f"core.{name}": weight for name, weight in zip(names, weights, strict=True)}
        return torch.func.functional_call(unroll, replaced, (x, memory))

    weights = [parameter.detach().clone().requires_grad_() for parameter in core.parameters()]
    assert torch.autograd.gradcheck(function, (x, memory, *weights), fast_mode=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_of_weights_that_stand_in_for_the_own(dtype: torch.dtype) -> None:
    """`torch.func.functional_call` puts back the core's own weights before any gradient is asked for."""
    torch.manual_seed(SEED)
    core = RelationalMemory(7, mem_slots=3, head_size=5, num_heads=2).to(dtype)
    other = RelationalMemory(7, mem_slots=3, head_size=5, num_heads=2).to(dtype)
    x, starts = torch.randn(6, 4, 7, dtype=dtype), torch.rand(6, 4) < 0.3

    class Unroll(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.core = core

        def forward(self) -> Tensor:
            return self.core.unroll(x, self.core.initial_state(4), starts)[0]

    weights = dict(other.named_parameters())
    outputs = torch.func.functional_call(Unroll(), {f"core.{name}": weight for name, weight in weights.items()}, ())
    expected, _ = other.unroll(x, other.initial_state(4), starts)
    torch.testing.assert_close(outputs, expected)
    gradients = torch.autograd.grad(outputs.square().sum(), list(weights.values()))
    expected_gradients = torch.autograd.grad(expected.square().sum(), list(weights.values()))
    for name, actual, wanted in zip(weights, gradients, expected_gradients, strict=True):
        scale = float(wanted.abs().max())
        torch.testing.assert_close(actual, wanted, rtol=0, atol=1e-5 * scale, msg=lambda m, n=name: f"{n}: {m}")


# Details


@pytest.mark.parametrize("gate_style", ["unit", "memory", None])
def test_number_of_parameters_does_not_depend_on_the_slots(gate_style: Any) -> None:
    def shapes(slots: int) -> dict[str, torch.Size]:
        core = RelationalMemory(7, mem_slots=slots, head_size=5, num_heads=2, gate_style=gate_style)
        return {name: parameter.shape for name, parameter in core.named_parameters()}

    assert shapes(1) == shapes(3) == shapes(17)


@pytest.mark.parametrize(("slots", "heads", "head_size"), [(3, 2, 4), (8, 1, 5), (6, 2, 3)])
def test_initial_memory_is_the_identity_padded_or_cut(slots: int, heads: int, head_size: int) -> None:
    core = RelationalMemory(7, mem_slots=slots, head_size=head_size, num_heads=heads)
    (memory,) = core.initial_state(4)
    assert memory.shape == (4, slots, heads * head_size)
    for row in memory:
        for i in range(slots):
            for j in range(heads * head_size):
                assert row[i, j] == (1.0 if i == j else 0.0)


def test_slots_differ_from_the_first_step_on() -> None:
    """An identity memory breaks the symmetry between slots, which all-zero slots would keep for ever."""
    torch.manual_seed(SEED)
    core = RelationalMemory(7, mem_slots=3, head_size=5)
    x = torch.randn(6, 2, 7)
    _, (memory,) = core.unroll(x, core.initial_state(2), torch.zeros(6, 2, dtype=torch.bool))
    assert (memory[:, 0] - memory[:, 1]).abs().max() > 0.1
    _, (memory,) = core.unroll(x, (torch.zeros(2, 3, 5),), torch.zeros(6, 2, dtype=torch.bool))
    assert torch.allclose(memory[:, 0], memory[:, 1])


def test_initialisation_is_sonnets() -> None:
    """A normal of deviation 1/sqrt(fan_in) cut at two deviations, which leaves 0.88 of it; biases zero."""
    torch.manual_seed(SEED)
    core = RelationalMemory(400, mem_slots=3, head_size=40, num_heads=3, num_blocks=2, attention_mlp_layers=3)
    linears = [module for module in core.modules() if isinstance(module, nn.Linear)]
    norms = [module for module in core.modules() if isinstance(module, nn.LayerNorm)]
    assert (len(linears), len(norms)) == (1 + 2 + 3 + 2, 6)
    for linear in linears:
        in_deviations = linear.weight * linear.in_features**0.5
        assert in_deviations.abs().max() <= 2.0
        assert in_deviations.abs().max() > 1.95
        assert in_deviations.std().item() == pytest.approx(0.8796, abs=0.02)
        assert in_deviations.mean().item() == pytest.approx(0.0, abs=0.03)
        assert not linear.bias.any()
    for norm in norms:
        assert norm.eps == 1e-5
        assert (norm.weight == 1).all()
        assert not norm.bias.any()


def test_layers_of_the_mlp_are_not_tied_and_blocks_share_it() -> None:
    core = RelationalMemory(7, mem_slots=2, head_size=5, num_blocks=3, attention_mlp_layers=4)
    mlp = [layer.weight for layer in core.attention_mlp if isinstance(layer, nn.Linear)]
    assert len({weight.data_ptr() for weight in mlp}) == 4
    assert len({block.qkv.weight.data_ptr() for block in core.blocks}) == 3  # type: ignore[union-attr]
    assert sum("attention_mlp" in name for name, _ in core.named_parameters()) == 2 * 4


def test_key_size_is_the_head_size_by_default() -> None:
    default, explicit = RelationalMemory(7, 3, 5), RelationalMemory(7, 3, 5, key_size=5)
    assert [p.shape for p in default.parameters()] == [p.shape for p in explicit.parameters()]


def test_return_attention() -> None:
    """Shapes; weights are a distribution over the rows; outputs are the same as without."""
    torch.manual_seed(SEED)
    core = RelationalMemory(7, mem_slots=4, head_size=5, num_heads=3, num_blocks=2)
    x, state = torch.randn(6, 7), (torch.randn(6, 4, 15),)
    output, (memory,) = core(x, state)
    same_output, (same_memory,), attention = core(x, state, return_attention=True)
    assert torch.equal(output, same_output)
    assert torch.equal(memory, same_memory)
    assert attention.shape == (6, 2, 3, 5, 5)
    assert (attention >= 0).all()
    torch.testing.assert_close(attention.sum(dim=-1), torch.ones(6, 2, 3, 5))
    assert not torch.allclose(attention.sum(dim=-2), torch.ones(6, 2, 3, 5))  # columns need not


SIZES = ["input_size", "mem_slots", "head_size", "num_heads", "num_blocks", "attention_mlp_layers", "key_size"]


@pytest.mark.parametrize("value", [0, -1, True, 2.0, "2"])
@pytest.mark.parametrize("name", SIZES)
def test_sizes_must_be_whole_numbers(name: str, value: Any) -> None:
    arguments: dict[str, Any] = {"input_size": 7, "mem_slots": 3, "head_size": 5, name: value}
    with pytest.raises(ValueError, match=rf"{name} must be a whole number of at least 1, got {value!r}"):
        RelationalMemory(**arguments)


@pytest.mark.parametrize("value", ["units", "", False, 0])
def test_unknown_gate_styles_are_rejected(value: Any) -> None:
    with pytest.raises(ValueError, match=f"gate_style must be 'unit', 'memory' or None, got {value!r}"):
        RelationalMemory(7, 3, 5, gate_style=value)

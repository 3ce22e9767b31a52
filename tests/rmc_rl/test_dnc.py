"""The differentiable neural computer: step by step what its equations say, and of use where a memory is."""

from typing import Any

import numpy as np
import pytest
import torch

from rmc_rl.cores import DNC
from rmc_rl.cores.dnc import NORM_EPSILON, Access, Interface, allocation_weights, content_weights

INPUT, BATCH, STEPS = 4, 3, 6
CASES: dict[str, dict[str, Any]] = {
    "one head": {"memory_size": 7, "word_size": 5, "num_reads": 1, "num_writes": 1},
    "several heads": {"memory_size": 8, "word_size": 3, "num_reads": 4, "num_writes": 2},
}
Array = np.ndarray[Any, np.dtype[np.float64]]


def cosine(u: Array, v: Array) -> float:
    return float(u @ v / np.sqrt((u @ u + NORM_EPSILON) * (v @ v + NORM_EPSILON)))


def content(memory: Array, key: Array, strength: float) -> Array:
    """C(M, k, beta)[i]."""
    scores = np.array([np.exp(strength * cosine(key, row)) for row in memory])
    return scores / scores.sum()


def allocation(usage: Array) -> Array:
    """a[phi[j]] = (1 - u[phi[j]]) prod_{i < j} u[phi[i]], phi the free list, from the least used."""
    free_list = sorted(range(len(usage)), key=lambda i: (usage[i], i))
    weights = np.zeros(len(usage))
    for j, row in enumerate(free_list):
        weights[row] = (1 - usage[row]) * np.prod([usage[free_list[i]] for i in range(j)])
    return weights


def literal_step(before: dict[str, Array], asked: dict[str, Array]) -> dict[str, Array]:
    """One step for one row of a batch, as the Methods have it, in their order; H write heads and R read heads."""
    rows = len(before["usage"])
    heads, readers = len(asked["write_keys"]), len(asked["read_keys"])
    # Dynamic memory allocation.
    retention = np.ones(rows)
    for r in range(readers):
        retention *= 1 - asked["free_gates"][r] * before["read_weights"][r]
    usage = np.empty(rows)
    for i in range(rows):
        unwritten = np.prod([1 - before["write_weights"][h, i] for h in range(heads)])
        usage[i] = (before["usage"][i] + (1 - unwritten) * (1 - before["usage"][i])) * retention[i]
    # Write weighting; each head sees as used what the heads before it allocate.
    write_weights, seen = np.empty((heads, rows)), usage.copy()
    for h in range(heads):
        gate, share = asked["write_gates"][h], asked["allocation_gates"][h]
        space = allocation(seen)
        seen = seen + (1 - seen) * gate * share * space
        by_content = content(before["memory"], asked["write_keys"][h], asked["write_strengths"][h])
        write_weights[h] = gate * (share * space + (1 - share) * by_content)
    # M_t = M_{t-1} o (E - w e^T) + w v^T.
    memory = before["memory"].copy()
    for h in range(heads):
        memory *= 1 - np.outer(write_weights[h], asked["erase"][h])
    for h in range(heads):
        memory += np.outer(write_weights[h], asked["write"][h])
    # Temporal links.
    links, precedence = np.zeros((heads, rows, rows)), np.empty((heads, rows))
    for h in range(heads):
        w = write_weights[h]
        for i in range(rows):
            for j in range(rows):
                if i != j:
                    old = (1 - w[i] - w[j]) * before["links"][h, i, j]
                    links[h, i, j] = old + w[i] * before["precedence"][h, j]
        precedence[h] = (1 - w.sum()) * before["precedence"][h] + w
    # Read weighting: pi[1] b + pi[2] c + pi[3] f, with a b and an f for each write head.
    read_weights = np.zeros((readers, rows))
    for r in range(readers):
        old, modes = before["read_weights"][r], asked["read_modes"][r]
        for h in range(heads):
            read_weights[r] += modes[h] * links[h].T @ old + modes[heads + 1 + h] * links[h] @ old
        read_weights[r] += modes[heads] * content(memory, asked["read_keys"][r], asked["read_strengths"][r])
    return {
        "memory": memory,
        "usage": usage,
        "links": links,
        "precedence": precedence,
        "write_weights": write_weights,
        "read_weights": read_weights,
        "reads": np.stack([memory.T @ weights for weights in read_weights]),
    }


def literal_interface(core: DNC, vector: Array) -> dict[str, Array]:
    """The interface vector of one row, cut in the order of `Interface`."""
    heads, readers, word = core.num_writes, core.num_reads, core.word_size
    shapes = [(readers, word), (readers,), (heads, word), (heads,), (heads, word), (heads, word)]
    shapes += [(readers,), (heads,), (heads,), (readers, 1 + 2 * heads)]
    parts = {}
    for name, shape in zip(Interface._fields, shapes, strict=True):
        size = int(np.prod(shape))
        parts[name], vector = vector[:size].reshape(shape), vector[size:]
    assert len(vector) == 0
    for name in ("read_strengths", "write_strengths"):  # oneplus
        parts[name] = 1 + np.log(1 + np.exp(parts[name]))
    for name in ("erase", "free_gates", "allocation_gates", "write_gates"):
        parts[name] = 1 / (1 + np.exp(-parts[name]))
    exponentials = np.exp(parts["read_modes"])
    parts["read_modes"] = exponentials / exponentials.sum(axis=1, keepdims=True)
    return parts


def literal_lstm(x: Array, h: Array, c: Array, weights: dict[str, Array]) -> tuple[Array, Array]:
    """One LSTM step; gates in the order input, forget, candidate, output."""
    gates = weights["weight_ih"] @ x + weights["bias_ih"] + weights["weight_hh"] @ h + weights["bias_hh"]
    i, f, g, o = gates.reshape(4, -1)
    i, f, o = (1 / (1 + np.exp(-gate)) for gate in (i, f, o))
    c = f * c + i * np.tanh(g)
    return o * np.tanh(c), c


@pytest.mark.parametrize("kwargs", CASES.values(), ids=CASES.keys())
@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_every_step_is_what_the_equations_say(kwargs: dict[str, Any], scale: float) -> None:
    """Output and all of the state, in float64, for sharp gates (large weights) and soft ones."""
    torch.manual_seed(6)
    core = DNC(INPUT, **kwargs, controller_size=6, controller_layers=2, output_size=9).double()
    with torch.no_grad():
        core.interface.weight *= scale
    weights = {name: value.detach().numpy() for name, value in core.named_parameters()}
    cells = [f"controller.layers.{i}.cell." for i in range(2)]
    layers = [{name.removeprefix(cell): value for name, value in weights.items()} for cell in cells]
    x, state = torch.randn(STEPS, BATCH, INPUT).double(), core.initial_state(BATCH)
    names = Access._fields
    rows = [dict(zip(names, (leaf[b].numpy() for leaf in state), strict=False)) for b in range(BATCH)]
    hidden = [np.zeros((2, 2, 6)) for _ in range(BATCH)]  # of each layer h and c
    for t in range(STEPS):
        with torch.no_grad():
            output, state = core(x[t], state)
        for b in range(BATCH):
            controller_input = np.concatenate([x[t, b].numpy(), rows[b]["reads"].ravel()])
            hidden[b][0] = literal_lstm(controller_input, *hidden[b][0], layers[0])
            hidden[b][1] = literal_lstm(np.concatenate([controller_input, hidden[b][0, 0]]), *hidden[b][1], layers[1])
            outputs = hidden[b][:, 0].ravel()  # of both layers
            vector = weights["interface.weight"] @ outputs + weights["interface.bias"]
            rows[b] = literal_step(rows[b], literal_interface(core, vector))
            read = np.concatenate([outputs, rows[b]["reads"].ravel()])
            expected = weights["output.weight"] @ read + weights["output.bias"]
            np.testing.assert_allclose(output[b].numpy(), expected, rtol=0, atol=1e-12)
            for name, leaf in zip(names, state, strict=False):
                np.testing.assert_allclose(leaf[b].numpy(), rows[b][name], rtol=0, atol=1e-12, err_msg=f"{name}, {t}")


def test_weightings_stay_weightings() -> None:
    """Weights lie between 0 and 1 and sum to at most 1, usage between 0 and 1, for inputs far off."""
    torch.manual_seed(1)
    core = DNC(INPUT, 6, 3, num_reads=2, num_writes=1).double()
    with torch.no_grad():
        core.interface.weight *= 10
    x, starts = 20 * torch.randn(30, BATCH, INPUT).double(), torch.zeros(30, BATCH, dtype=torch.bool)
    _, state = core.unroll(x, core.initial_state(BATCH), starts)
    access = Access(*state[: len(Access._fields)])
    for weights in (access.write_weights, access.read_weights, access.precedence, access.links):
        assert weights.min() >= 0
        assert weights.sum(dim=-1).max() <= 1 + 1e-9
    assert access.usage.min() >= 0
    assert access.usage.max() <= 1
    assert not access.links.diagonal(dim1=-2, dim2=-1).any()


def test_space_goes_to_the_least_used_row() -> None:
    """All of it where a row is free; the first of several; and the next head takes the next one."""
    usage = torch.tensor([[1.0, 0.0, 1.0, 0.0, 0.5]])
    weights = allocation_weights(usage, torch.ones(1, 2))
    assert weights[0, 0].tolist() == [0, 1, 0, 0, 0]
    assert weights[0, 1].tolist() == [0, 0, 0, 1, 0]
    full = allocation_weights(torch.ones(1, 5), torch.ones(1, 1))
    assert not full.any()


def test_an_empty_memory_has_a_finite_gradient() -> None:
    """A row of zeros has no direction: its length's gradient would be infinite."""
    memory, keys = torch.zeros(1, 4, 3, requires_grad=True), torch.randn(1, 2, 3)
    weights = content_weights(memory, keys, torch.ones(1, 2))
    torch.testing.assert_close(weights, torch.full((1, 2, 4), 0.25))
    weights[0, :, 1].sum().backward()
    assert memory.grad is not None
    assert memory.grad.isfinite().all()


def test_gradients_are_those_of_the_outputs() -> None:
    """Through sorting, links and every gate."""
    torch.manual_seed(2)
    core = DNC(INPUT, 4, 3, num_reads=2, num_writes=2, controller_size=3, output_size=2).double()
    x = torch.randn(3, 2, INPUT).double().requires_grad_()
    starts = torch.zeros(3, 2, dtype=torch.bool)
    assert torch.autograd.gradcheck(lambda x: core.unroll(x, core.initial_state(2), starts)[0], x)

"""The fused unrolls: the same numbers as the loop, and taken whenever they can be."""

import math
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rmc_rl.cores import GRU, LSTM, RelationalMemory, blas, native, primitives, storage, unchanged_weights
from rmc_rl.cores.native import Loan

# A layer norm of two or three numbers is close to a step: its gradients say nothing of precision.
CONFIGURATIONS = st.fixed_dictionaries(
    {
        "input_size": st.integers(1, 9),
        "mem_slots": st.integers(1, 5),
        "head_size": st.integers(1, 7),
        "num_heads": st.integers(1, 4),
        "forget_bias": st.sampled_from([1.0, -0.7]),
        "input_bias": st.sampled_from([0.0, 0.4]),
        "gate_style": st.sampled_from(["unit", "memory", None]),
        "attention_mlp_layers": st.integers(1, 3),
        "key_size": st.none() | st.integers(1, 6),
    }
).filter(lambda drawn: drawn["num_heads"] * drawn["head_size"] > 3)


def _core(configuration, seed, kind=RelationalMemory):
    """A core whose biases and layer norms are not at their trivial initial values."""
    torch.manual_seed(seed)
    core = kind(**configuration)
    with torch.no_grad():
        for parameter in core.parameters():
            if parameter.dim() == 1:
                parameter += 0.3 * torch.randn_like(parameter)
    return core


def _unroll_inputs(core, steps, batch_size):
    x = torch.randn(steps, batch_size, core.input_size, requires_grad=True)
    state = tuple(torch.randn_like(leaf).requires_grad_() for leaf in core.initial_state(batch_size))
    return x, state, torch.rand(steps, batch_size) < 0.3


def _outputs_and_gradients(core, unroll, x, state, starts, seed):
    outputs, last_state = unroll(x, state, starts)
    generator = torch.Generator().manual_seed(seed)
    loss = torch.zeros(())
    for result in (outputs, *last_state):
        loss = loss + (result * torch.randn(result.shape, generator=generator).to(result)).sum()
    return [outputs, *last_state, *torch.autograd.grad(loss, [x, *state, *core.parameters()])]


def _assert_equals_the_loop(core, steps, batch_size, seed, threads):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        x, state, starts = _unroll_inputs(core, steps, batch_size)
        assert core.unroll_path(x, state) == "fused"
        fused = _outputs_and_gradients(core, core.unroll, x, state, starts, seed)
        loop = _outputs_and_gradients(core, core.unroll_loop, x, state, starts, seed)
        with torch.no_grad():
            torch.testing.assert_close(core.unroll(x, state, starts)[0], fused[0], rtol=0, atol=0)
        core.double()
        x, *state = [tensor.detach().double().requires_grad_() for tensor in (x, *state)]
        exact = _outputs_and_gradients(core, core.unroll_loop, x, tuple(state), starts, seed)
        _assert_as_precise(fused, loop, exact)
    finally:
        torch.set_num_threads(before)


def _assert_as_precise(fused, loop, exact):
    """The fused path may differ from float64 by round-off: no more than a few times what the float32 loop does."""
    for one, other, truth in zip(fused, loop, exact, strict=True):
        scale = truth.abs().max().clamp(min=1e-3)
        error, usual = (one - truth).abs().max() / scale, (other - truth).abs().max() / scale
        assert error <= 8 * usual + 2e-5, f"error {error:.1e} against {usual:.1e} of the loop"


@settings(max_examples=60, deadline=None)
@given(CONFIGURATIONS, st.integers(1, 6), st.integers(1, 21), st.integers(0, 10_000), st.sampled_from([1, 2]))
def test_rmc_equals_the_loop_forward_and_in_every_gradient(configuration, steps, batch_size, seed, threads):
    _assert_equals_the_loop(_core(configuration, seed), steps, batch_size, seed, threads)


@pytest.mark.parametrize("kind", [LSTM, GRU])
@settings(max_examples=30, deadline=None)
@given(st.integers(1, 9), st.integers(1, 11), st.integers(1, 7), st.integers(1, 21), st.integers(0, 10_000))
def test_lstm_and_gru_equal_the_loop_forward_and_in_every_gradient(kind, inputs, units, steps, batch_size, seed):
    core = _core({"input_size": inputs, "hidden_size": units}, seed, kind)
    _assert_equals_the_loop(core, steps, batch_size, seed, threads=1 + seed % 2)


CORES = [
    (RelationalMemory, {"input_size": 3, "mem_slots": 2, "head_size": 5, "num_heads": 2}),
    (LSTM, {"input_size": 3, "hidden_size": 7}),
    (GRU, {"input_size": 3, "hidden_size": 7}),
]
every_core = pytest.mark.parametrize(("kind", "configuration"), CORES)


@every_core
def test_the_fused_path_is_really_taken(kind, configuration, monkeypatch):
    core = _core(configuration, 0, kind)
    x, state, starts = _unroll_inputs(core, 4, 7)

    def refuse(*arguments):
        raise AssertionError("the loop was taken")

    monkeypatch.setattr(core, "unroll_loop", refuse)
    outputs, _ = core.unroll(x, state, starts)
    outputs.sum().backward()


@pytest.mark.parametrize("reason", ["float64", "two blocks"])
def test_falls_back_to_the_loop(reason):
    core = RelationalMemory(3, 2, 5, 2, num_blocks=2 if reason == "two blocks" else 1)
    dtype = torch.float64 if reason == "float64" else torch.float32
    x = torch.randn(4, 7, 3, dtype=dtype)
    core.to(dtype)
    assert core.unroll_path(x, core.initial_state(7)) == "loop"
    core.unroll(x, core.initial_state(7), torch.zeros(4, 7, dtype=torch.bool))


def _autocast():
    return torch.autocast("cpu", torch.bfloat16)


@every_core
def test_autocast_on_a_processor_without_bf16_keeps_float32(kind, configuration, monkeypatch):
    monkeypatch.setattr(native, "BF16_IS_FAST", False)
    core = _core(configuration, 0, kind)
    x, state, starts = _unroll_inputs(core, 4, 7)
    expected, _ = core.unroll(x, state, starts)
    with _autocast():
        assert core.unroll_path(x, state) == "fused"
        outputs, _ = core.unroll(x, state, starts)
    torch.testing.assert_close(outputs, expected, rtol=0, atol=0)


needs_bf16 = pytest.mark.skipif(not native.BF16_IS_FAST, reason="no bfloat16 instructions here")


def _bf16_errors(core, steps, batch_size, seed):
    """Relative errors of outputs, last state and every gradient: the fused unroll's, and those of autocast's loop."""
    x, state, starts = _unroll_inputs(core, steps, batch_size)

    def in_bf16(unroll):
        def run(*inputs):
            with _autocast():
                return unroll(*inputs)

        return run

    with _autocast():
        assert core.unroll_path(x, state) == "fused, bf16"
    exact = _outputs_and_gradients(core, core.unroll_loop, x, state, starts, seed)
    fused, usual = (
        _outputs_and_gradients(core, in_bf16(unroll), x, state, starts, seed)
        for unroll in (core.unroll, core.unroll_loop)
    )
    assert not torch.equal(fused[0], exact[0]), "float32 was taken"
    norms = [truth.norm().clamp(min=1e-3) for truth in exact]
    return [
        torch.stack([(one - truth).norm() / norm for one, truth, norm in zip(found, exact, norms, strict=True)])
        for found in (fused, usual)
    ]


RMC = {"input_size": 7, "mem_slots": 3, "head_size": 12, "num_heads": 2, "key_size": 5}
BF16_CORES = [
    (RelationalMemory, RMC | {"gate_style": "memory"}),
    (RelationalMemory, RMC | {"gate_style": "unit"}),
    (RelationalMemory, RMC | {"gate_style": None}),
    (LSTM, {"input_size": 7, "hidden_size": 19}),
    (GRU, {"input_size": 7, "hidden_size": 19}),
]


@needs_bf16
@pytest.mark.parametrize(("kind", "configuration"), BF16_CORES)
def test_bf16_is_as_precise_as_autocast(kind, configuration):
    """In the whole no less than torch's own bfloat16; medians over ten samples, as in one a ReLU may switch."""
    errors = [_bf16_errors(_core(configuration, seed, kind), 6, 33, seed) for seed in range(10)]
    fused, usual = (torch.stack(found).median(dim=0).values for found in zip(*errors, strict=True))
    assert fused.mean() <= usual.mean()
    assert (fused <= 2 * usual).all(), f"{fused} against {usual}"


@pytest.mark.skipif(not blas.AVAILABLE, reason="torch's library offers no product of bfloat16 here")
@pytest.mark.parametrize("kind", [LSTM, GRU])
def test_bf16_in_the_library_is_as_precise_as_autocast(kind, monkeypatch):
    """What processors with matrix units do, on any processor."""
    monkeypatch.setattr(blas, "IS_FAST", True)
    monkeypatch.setattr(native, "BF16_IS_FAST", True)
    errors = [_bf16_errors(_core({"input_size": 7, "hidden_size": 19}, seed, kind), 6, 33, seed) for seed in range(10)]
    fused, usual = (torch.stack(found).median(dim=0).values for found in zip(*errors, strict=True))
    assert fused.mean() <= usual.mean()


@pytest.mark.parametrize("kind", [LSTM, GRU])
@pytest.mark.parametrize(
    ("loss", "reached"),
    [
        (lambda outputs, state: outputs[:4].sum(), 4),
        (lambda outputs, state: outputs[0].sum(), 1),
        (lambda outputs, state: state[-1].sum(), 6),
    ],
)
def test_gradients_that_reach_some_steps_alone(kind, loss, reached):
    """Steps after the last that is reached are left out of backward."""
    core = _core({"input_size": 5, "hidden_size": 9}, 0, kind)
    x, state, _ = _unroll_inputs(core, 6, 3)
    starts = torch.zeros(6, 3, dtype=torch.bool)
    fused, loop = (
        torch.autograd.grad(loss(*unroll(x, state, starts)), [x, *state, *core.parameters()])
        for unroll in (core.unroll, core.unroll_loop)
    )
    torch.testing.assert_close(fused, loop)
    assert fused[0][:reached].any(dim=2).all()
    assert not fused[0][reached:].any()


@needs_bf16
@every_core
def test_weights_are_rounded_anew_but_where_they_are_said_not_to_change(kind, configuration):
    core = _core(configuration, 0, kind)
    x, state, starts = _unroll_inputs(core, 4, 7)

    def outputs():
        with torch.no_grad(), _autocast():
            return core.unroll(x, state, starts)[0]

    with unchanged_weights():
        first = outputs()
        torch.testing.assert_close(outputs(), first, rtol=0, atol=0)
    with torch.no_grad():
        for parameter in core.parameters():
            parameter.data.mul_(2)  # a change that torch does not count
    assert not torch.equal(outputs(), first)
    with unchanged_weights():
        assert not torch.equal(outputs(), first)


def test_the_first_unroll_of_a_process_may_be_within_autocast():
    code = (
        "import torch; from rmc_rl import RelationalMemory;"
        "core, x = RelationalMemory(3, 2, 5, 2), torch.randn(4, 7, 3);"
        "context = torch.autocast('cpu', torch.bfloat16); context.__enter__();"
        "print(core.unroll_path(x, core.initial_state(7)))"
    )
    path = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert path == ("fused, bf16" if native.BF16_IS_FAST else "fused")


GRADIENTS = """
import torch
from rmc_rl.cores import LSTM
torch.manual_seed(0)
core, x = LSTM(8, hidden_size=7), torch.randn(5, 6, 8)
outputs, _ = core.unroll(x, core.initial_state(6), torch.rand(5, 6) < 0.2)
outputs.square().sum().backward()
print([parameter.grad.tolist() for parameter in core.parameters()])
"""


@pytest.mark.slow
def test_what_was_just_compiled_computes_what_the_cache_does(tmp_path):
    """To the last bit: a run may load, when it is resumed, what it had compiled when it began."""
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", GRADIENTS]
    done = [subprocess.run(command, env=environment, capture_output=True, text=True, check=True) for _ in range(2)]
    assert ["compiling" in each.stderr for each in done] == [True, False]
    assert done[0].stdout == done[1].stdout


def test_rounding_to_bf16_is_that_of_torch():
    x = torch.cat(
        [
            torch.randn(500) * 10.0 ** torch.randint(-30, 30, (500,)),
            torch.tensor([0.0, -0.0, math.inf, -math.inf, math.nan]),
        ]
    )
    # Halfway between two neighbours, where the even one is right; and what rounds up to infinity.
    x = torch.cat([x, torch.tensor([1 + 2**-8, 1 + 3 * 2**-8, -1 - 2**-8, 3.4e38])])
    rounded = torch.empty(1, len(x), dtype=torch.uint16)
    storage.round_to(x[None].numpy(), rounded.numpy())
    torch.testing.assert_close(rounded[0].view(torch.bfloat16), x.bfloat16(), rtol=0, atol=0, equal_nan=True)


@every_core
def test_two_unrolls_before_a_backward_do_not_share_memory(kind, configuration):
    core = _core(configuration, 1, kind)
    first, second = _unroll_inputs(core, 4, 7), _unroll_inputs(core, 4, 7)
    expected = [torch.autograd.grad(core.unroll_loop(x, state, s)[0].sum(), x)[0] for x, state, s in (first, second)]
    sums = [core.unroll(x, state, s)[0].sum() for x, state, s in (first, second)]
    found = [torch.autograd.grad(total, x)[0] for total, (x, _, _) in zip(sums, (first, second), strict=True)]
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


@every_core
def test_memory_is_used_again(kind, configuration):
    """A training loop must not grow: unrolls of one size take turns with one workspace."""
    core = _core(configuration, 1, kind)
    Loan.free.clear()
    for _ in range(5):
        x, state, starts = _unroll_inputs(core, 3, 8)
        core.unroll(x, state, starts)[0].sum().backward()
    assert [len(workspaces) for workspaces in Loan.free.values()] == [1]


@every_core
def test_gradients_can_be_differentiated_again(kind, configuration):
    core = _core(configuration, 2, kind)
    x, state, starts = _unroll_inputs(core, 3, 5)

    def second_derivatives(unroll):
        (gradient,) = torch.autograd.grad(unroll(x, state, starts)[0].square().sum(), x, create_graph=True)
        return torch.autograd.grad(gradient.square().sum(), [x, *state, *core.parameters()])

    for one, other in zip(second_derivatives(core.unroll), second_derivatives(core.unroll_loop), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4 * float(other.abs().max() + 1))


def test_frozen_parameters_and_inputs_get_no_gradient():
    core = _core({"input_size": 3, "mem_slots": 2, "head_size": 4, "num_heads": 2}, seed=3)
    core.input_projection.requires_grad_(False)
    x = torch.randn(3, 5, 3)
    core.unroll(x, core.initial_state(5), torch.zeros(3, 5, dtype=torch.bool))[0].sum().backward()
    assert core.input_projection.weight.grad is None
    assert core.gate_from_input.weight.grad is not None


def test_nan_is_not_hidden():
    core = _core({"input_size": 3, "mem_slots": 2, "head_size": 4, "num_heads": 2}, seed=3)
    x = torch.randn(3, 5, 3)
    x[1, 2] = math.nan
    outputs, _ = core.unroll(x, core.initial_state(5), torch.zeros(3, 5, dtype=torch.bool))
    assert outputs[1:, 2].isnan().all()
    assert outputs[:, [0, 1, 3, 4]].isfinite().all()


@pytest.mark.parametrize(("name", "truth"), [("exp", np.exp), ("tanh", np.tanh)])
def test_elementwise_functions_are_precise(name, truth):
    """To two units in the last place, over the range where float32 has an answer."""
    function = getattr(primitives, name)
    for x in np.concatenate([np.linspace(-85, 85, 2001), np.logspace(-8, 0, 500), -np.logspace(-8, 0, 500)]):
        x = np.float32(x)
        assert function(x) == pytest.approx(truth(np.float64(x)), rel=2.5e-7)

"""Unrolls whose steps were taken one by one and kept: the numbers and gradients of an unroll, computed once."""

import pytest
import torch
from gymnasium import spaces

from rmc_rl.cores import DNC, GRU, LSTM, DeepLSTM, IdentityCore, RelationalMemory, native
from rmc_rl.cores.native import Loan
from rmc_rl.network import RecurrentActorCritic

RMC = {"input_size": 3, "mem_slots": 2, "head_size": 5, "num_heads": 2}
CORES = [
    pytest.param(RelationalMemory, RMC | {"gate_style": "unit"}, id="rmc-unit"),
    pytest.param(RelationalMemory, RMC | {"gate_style": "memory"}, id="rmc-memory"),
    pytest.param(RelationalMemory, RMC | {"gate_style": None}, id="rmc-none"),
    pytest.param(LSTM, {"input_size": 3, "hidden_size": 7}, id="lstm"),
    pytest.param(GRU, {"input_size": 3, "hidden_size": 7}, id="gru"),
]
every_core = pytest.mark.parametrize(("kind", "configuration"), CORES)
PRECISIONS = [
    False,
    pytest.param(True, marks=pytest.mark.skipif(not native.BF16_IS_FAST, reason="no bfloat16 instructions here")),
]
STEPS, BATCH = 6, 4


def _autocast(in_bf16=True):
    return torch.autocast("cpu", torch.bfloat16, enabled=in_bf16)


def _make(kind, configuration, seed=0):
    torch.manual_seed(seed)
    core = kind(**configuration)
    state = tuple(torch.randn_like(leaf) for leaf in core.initial_state(BATCH))
    return core, torch.randn(STEPS, BATCH, 3), state, torch.rand(STEPS, BATCH) < 0.3


def _record(core, x, state, starts):
    """A recording of all steps, with what each gave."""
    recording = core.record(STEPS, BATCH)
    outputs = []
    for t in range(STEPS):
        output, state = recording.step(x[t : t + 1], state, starts[t : t + 1])
        outputs.append(output.clone())
    return recording, torch.cat(outputs), state


def _with_gradients(core, unroll, x, state, starts, in_bf16=False):
    x, state = x.clone().requires_grad_(), tuple(leaf.clone().requires_grad_() for leaf in state)
    with _autocast(in_bf16):
        outputs, last_state = unroll(x, state, starts)
    loss = sum((result * torch.arange(result.numel()).view(result.shape).sin()).sum() for result in last_state)
    loss = loss + outputs.square().sum()
    return [outputs, *last_state, *torch.autograd.grad(loss, [x, *state, *core.parameters()])]


@pytest.mark.parametrize("in_bf16", PRECISIONS)
@every_core
def test_a_recorded_unroll_is_the_unroll(kind, configuration, in_bf16):
    core, x, state, starts = _make(kind, configuration)
    with _autocast(in_bf16):
        recording, outputs, last_state = _record(core, x, state, starts)
    found = _with_gradients(core, recording.unroll, x, state, starts)
    expected = _with_gradients(core, core.unroll, x, state, starts, in_bf16)
    torch.testing.assert_close(outputs, found[0], rtol=0, atol=0)
    for one, other in zip(last_state, found[1:], strict=False):
        torch.testing.assert_close(one, other, rtol=0, atol=0)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5 * float(other.detach().abs().max() + 1))


@every_core
def test_what_was_recorded_is_not_computed_again(kind, configuration):
    core, x, state, starts = _make(kind, configuration)
    recording, outputs, _ = _record(core, x, state, starts)
    recording.outputs += 1  # what a computation would undo
    found, _ = recording.unroll(x, state, starts)
    torch.testing.assert_close(found, outputs + 1, rtol=0, atol=0)


@every_core
def test_a_recorded_gradient_can_be_differentiated_again(kind, configuration):
    core, x, state, starts = _make(kind, configuration)
    recording, _, _ = _record(core, x, state, starts)

    def second_derivatives(unroll):
        inputs = x.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(unroll(inputs, state, starts)[0].square().sum(), inputs, create_graph=True)
        return torch.autograd.grad(gradient.square().sum(), [inputs, *core.parameters()])

    for one, other in zip(second_derivatives(recording.unroll), second_derivatives(core.unroll), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5 * float(other.abs().max() + 1))


@every_core
def test_two_recordings_do_not_share_memory(kind, configuration):
    core, x, state, starts = _make(kind, configuration)
    first, _, _ = _record(core, x, state, starts)
    expected = _with_gradients(core, core.unroll, x, state, starts)
    second, _, _ = _record(core, -x, state, starts)
    for one, other in zip(_with_gradients(core, first.unroll, x, state, starts), expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5 * float(other.detach().abs().max() + 1))
    assert second.outputs.data_ptr() != first.outputs.data_ptr()


@every_core
def test_memory_is_used_again(kind, configuration):
    core, x, state, starts = _make(kind, configuration)
    Loan.free.clear()
    for _ in range(4):
        recording, _, _ = _record(core, x, state, starts)
        _with_gradients(core, recording.unroll, x, state, starts)
        del recording
    assert [len(workspaces) for workspaces in Loan.free.values()].count(1) == len(Loan.free)


@pytest.mark.parametrize(
    "core",
    [
        RelationalMemory(3, 2, 5, 2, num_blocks=2),
        RelationalMemory(3, 2, 5, 2).double(),
        LSTM(3, 7).double(),
        GRU(3, 7).double(),
        DeepLSTM(3, 7),
        DNC(3),
        IdentityCore(3),
    ],
    ids=lambda core: type(core).__name__,
)
def test_what_is_not_fused_is_not_recorded(core):
    assert core.record(STEPS, BATCH) is None


@every_core
def test_steps_of_another_shape_are_refused(kind, configuration):
    """They would be written over others' memory; nothing is counted as taken."""
    core, x, state, starts = _make(kind, configuration)
    recording = core.record(STEPS, BATCH)
    more = core.initial_state(2 * BATCH)
    for argument, wrong in [
        ("x", (x[:2], state, starts[:2])),
        ("x", (x[0], state, starts[:1])),
        ("x", (x[:1, :, :2], state, starts[:1])),
        ("x", (x[:1, 1:], tuple(leaf[1:] for leaf in state), starts[:1, 1:])),
        ("starts", (x[:1], state, starts[:2])),
        ("starts", (x[:1], state, starts[:1].float())),
        ("state", (x[:1], more, starts[:1])),
        ("state", (x[:1], (*state, *state), starts[:1])),
    ]:
        with pytest.raises(ValueError, match=f"^{argument} must be "):
            recording.step(*wrong)
    assert recording.num_taken == 0


@every_core
def test_a_recording_is_of_as_many_steps_as_it_was_made_for(kind, configuration):
    core, x, state, starts = _make(kind, configuration)
    recording = core.record(STEPS, BATCH)
    recording.step(x[:1], state, starts[:1])
    with pytest.raises(ValueError, match="num_steps must be that of the steps taken, 1, got 6"):
        recording.unroll(x, state, starts)
    recording, _, _ = _record(core, x, state, starts)
    with pytest.raises(ValueError, match="num_steps must be larger to record another step, got 6"):
        recording.step(x[:1], state, starts[:1])
    with pytest.raises(ValueError, match="x must be "):
        recording.unroll(x[1:], state, starts[1:])


# The whole network

IMAGE_AND_VECTOR = spaces.Dict({"image": spaces.Box(0, 1, (5, 4, 3)), "vector": spaces.Box(-1, 1, (2,))})


def _make_network(core, precision="fp32"):
    torch.manual_seed(0)
    network = RecurrentActorCritic(IMAGE_AND_VECTOR, spaces.Discrete(3), core, embedding_size=9, precision=precision)
    observations = {key: torch.rand(STEPS, BATCH, *part.shape) for key, part in IMAGE_AND_VECTOR.items()}
    return network, observations, torch.rand(STEPS, BATCH) < 0.3


@torch.no_grad()
def _record_network(network, observations, starts):
    recording, state = network.record(STEPS, BATCH), network.initial_state(BATCH)
    for t in range(STEPS):
        _, state = network.step({key: part[t] for key, part in observations.items()}, state, starts[t], recording)
    return recording


@pytest.mark.parametrize("precision", ["fp32", pytest.param("bf16", marks=PRECISIONS[1].marks)])
@pytest.mark.parametrize("core", ["lstm", "identity", "mingru"])
def test_a_recorded_network_is_the_network(core, precision):
    """Whether its core is recorded or not: outputs and all gradients."""
    network, observations, starts = _make_network(core, precision)

    def outputs_and_gradients(recording):
        output, _ = network(observations, network.initial_state(BATCH), starts, recording)
        loss = output.policy.square().sum() + output.value.sum()
        return [*output, *torch.autograd.grad(loss, list(network.parameters()))]

    found = outputs_and_gradients(_record_network(network, observations, starts))
    for one, other in zip(found, outputs_and_gradients(None), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5 * float(other.detach().abs().max() + 1))


def test_recorded_layers_compute_nothing_again():
    network, observations, starts = _make_network("identity")
    recording = _record_network(network, observations, starts)
    convolutions, embedding = recording.layers.outputs
    embedding.fill_(2.0)
    output, _ = network(observations, (), starts, recording)
    constant = torch.full((1, 1, 9), 2.0)
    assert convolutions.shape[:2] == (STEPS, BATCH)
    torch.testing.assert_close(output.value, network.value_head(constant)[..., 0].expand(STEPS, BATCH))


def test_a_recording_has_no_effect_outside():
    network, observations, starts = _make_network("lstm")
    expected, _ = network(observations, network.initial_state(BATCH), starts)
    _record_network(network, {key: -part for key, part in observations.items()}, starts)
    found, _ = network(observations, network.initial_state(BATCH), starts)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)

"""The recurrent actor-critic network: unrolled and step by step, its gradients, and the spaces it takes."""

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.distributions import CategoricalDistribution
from torch import Tensor

from rmc_rl.cores.native import BF16_IS_FAST
from rmc_rl.network import NetworkOutput, RecurrentActorCritic, add_time

CORES: dict[str, dict[str, Any]] = {
    "rmc": {"mem_slots": 3, "head_size": 2, "num_heads": 2},
    "lstm": {"hidden_size": 7},
    "gru": {"hidden_size": 7},
    "identity": {},
}
IMAGE = spaces.Box(0, 255, (5, 6, 3), np.uint8)
DICT = spaces.Dict({"clock": spaces.Discrete(4, start=2), "image": IMAGE, "speed": spaces.Box(-1, 1, (2,))})
STEPS, BATCH, EMBEDDING = 6, 3, 8
every_core = pytest.mark.parametrize("core", CORES)


def build(
    core: str = "lstm", observation_space: spaces.Space[Any] = DICT, action_space: spaces.Space[Any] | None = None
) -> RecurrentActorCritic:
    torch.manual_seed(2)
    action_space = spaces.Discrete(5) if action_space is None else action_space
    return RecurrentActorCritic(observation_space, action_space, core, CORES[core], embedding_size=EMBEDDING)


def sample(space: spaces.Space[Any], *leading: int) -> Any:
    """Observations [*leading, ...] as tensors of the space's own types."""
    if isinstance(space, spaces.Dict):
        return {key: sample(part, *leading) for key, part in space.items()}
    count = int(np.prod(leading))
    flat = np.stack([np.asarray(space.sample()) for _ in range(count)])
    return torch.from_numpy(flat.reshape(*leading, *flat.shape[1:]))


def at(observations: Any, t: int) -> Any:
    return {key: part[t] for key, part in observations.items()} if isinstance(observations, dict) else observations[t]


@every_core
@pytest.mark.parametrize("space", [IMAGE, DICT, spaces.Discrete(4), spaces.Box(-1, 1, (2, 4))], ids=str)
def test_forward_equals_step_by_step(core: str, space: spaces.Space[Any]) -> None:
    """What a learner computes of an unroll is what an actor computed on the way, starts included."""
    space.seed(3)
    network = build(core, space)
    observations, starts = sample(space, STEPS, BATCH), torch.rand(STEPS, BATCH) < 0.3
    output, final = network(observations, network.initial_state(BATCH), starts)
    assert output.policy.shape == (STEPS, BATCH, 5)
    assert output.value.shape == (STEPS, BATCH)
    state = network.initial_state(BATCH)
    for t in range(STEPS):
        one, state = network.step(at(observations, t), state, starts[t])
        torch.testing.assert_close(one.policy, output.policy[t])
        torch.testing.assert_close(one.value, output.value[t])
    for leaf, expected in zip(state, final, strict=True):
        torch.testing.assert_close(leaf, expected)


def test_the_first_steps_of_adam_leave_units_to_an_embedding_of_a_large_image() -> None:
    """All weights move alike, and there are many: units that a few steps take below 0 for all images are lost."""
    network = build(observation_space=spaces.Box(0, 1, (20, 20, 3), np.float32))
    images = torch.rand(16, 20, 20, 3)
    before = (network._embed(images) > 0).any(0).float().mean()
    optimizer = torch.optim.Adam(network.embedding.parameters(), lr=1e-4)
    for _ in range(2):
        optimizer.zero_grad()
        network._embed(images).sum().backward()
        optimizer.step()
    assert (network._embed(images) > 0).any(0).float().mean() == before > 0.3


@every_core
@pytest.mark.parametrize("head", ["policy", "value"])
def test_gradient_of_each_head_reaches_every_layer_below(core: str, head: str) -> None:
    """The value's too, which some frameworks detach from the core."""
    DICT.seed(3)
    network = build(core)
    output: NetworkOutput
    output, _ = network(sample(DICT, STEPS, BATCH), network.initial_state(BATCH), torch.zeros(STEPS, BATCH).bool())
    getattr(output, head).square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        is_other_head = name.startswith("policy_head" if head == "value" else "value_head")
        assert parameter.grad.any() != is_other_head, name


def test_values_are_of_discrete_observations_counted_from_their_start() -> None:
    """Discrete(4, start=2) has the values 2 to 5, and each is another one-hot."""
    shifted, plain = build("identity", spaces.Discrete(4, start=2)), build("identity", spaces.Discrete(4))
    starts = torch.zeros(1, 4).bool()
    outputs = [
        network(torch.arange(4).view(1, 4) + start, (), starts)[0].value
        for network, start in ((shifted, 2), (plain, 0))
    ]
    assert torch.equal(*outputs)
    assert len(set(outputs[0].flatten().tolist())) == 4
    multi = build("identity", spaces.MultiDiscrete([2, 4], start=[-1, 7]))
    assert multi(torch.tensor([[[0, 10]]]), (), torch.zeros(1, 1).bool())[0].value.isfinite().all()


def test_images_are_scaled() -> None:
    """The bytes of an image become numbers in [0, 1] before the first layer; planes of 0 and 1 stay."""
    seen = []
    for high in (255, 1):
        network = build("identity", spaces.Box(0, high, (3, 3, 1), np.uint8))
        network.encoder.register_forward_pre_hook(lambda module, arguments: seen.append(arguments[0]))
        network.step(torch.full((2, 3, 3, 1), high, dtype=torch.uint8), (), torch.zeros(2).bool())
    for pixels in seen:
        assert torch.equal(pixels, torch.ones(2, 3, 3, 1))


ACTIONS = [
    (spaces.Discrete(5), 5),
    (spaces.Discrete(5, start=3), 5),
    (spaces.MultiDiscrete([2, 4]), 6),
    (spaces.MultiDiscrete([2, 4], start=[1, -1]), 6),
    (spaces.MultiBinary(3), 3),
    (spaces.Box(-1, 1, (2,)), 2),
]


@pytest.mark.parametrize(("space", "width"), ACTIONS, ids=str)
def test_action_spaces(space: spaces.Space[Any], width: int) -> None:
    """The head's width; samples whose log probability is finite; an entropy for each row."""
    network = build("gru", spaces.Box(-1, 1, (4,)), space)
    output, _ = network.step(torch.rand(BATCH, 4), network.initial_state(BATCH), torch.zeros(BATCH).bool())
    assert output.policy.shape == (BATCH, width)
    distribution = network.distribution(output.policy)
    actions = distribution.sample()
    assert actions.shape == (BATCH, *space.shape)
    assert distribution.log_prob(actions).shape == (BATCH,)
    assert distribution.log_prob(actions).isfinite().all()
    entropy = distribution.entropy()
    assert entropy is not None
    assert entropy.shape == (BATCH,)


def test_logits_are_those_of_the_distribution() -> None:
    network = build("identity", spaces.Box(-1, 1, (4,)))
    logits = torch.tensor([[0.0, 1.0, -2.0, 0.5, 3.0]])
    distribution = network.distribution(logits)
    for action in range(5):
        expected = torch.log_softmax(logits, dim=-1)[0, action]
        torch.testing.assert_close(distribution.log_prob(torch.tensor([action]))[0], expected)


def test_discrete_actions_are_those_of_sb3() -> None:
    """The same draws from the same random numbers, probabilities and gradients; nothing that is impossible is drawn."""
    never = -1e8
    logits = (2 * torch.randn(3000, 4)).index_fill_(1, torch.tensor([2]), never).requires_grad_()
    found = []
    for distribution in (
        build("identity", spaces.Box(-1, 1, (4,)), spaces.Discrete(4)).distribution(logits),
        CategoricalDistribution(4).proba_distribution(logits),
    ):
        torch.manual_seed(0)
        actions, likeliest = distribution.get_actions(), distribution.get_actions(deterministic=True)
        log_probs, entropy = distribution.log_prob(actions), distribution.entropy()
        assert entropy is not None
        gradient = torch.autograd.grad((log_probs + entropy).sum(), logits)[0]
        found.append((actions, likeliest, log_probs.detach(), entropy.detach(), gradient))
    torch.testing.assert_close(*found)
    assert set(found[0][0].tolist()) == {0, 1, 3}


def test_the_deviation_of_continuous_actions_is_learned() -> None:
    network = build("gru", spaces.Box(-1, 1, (4,)), spaces.Box(-1, 1, (2,)))
    assert network.log_std is not None
    network.distribution(torch.zeros(1, 2)).log_prob(torch.full((1, 2), 3.0)).sum().backward()
    assert network.log_std.grad is not None
    assert network.log_std.grad.any()
    assert "log_std" in network.state_dict()


def test_policies_start_near_uniform() -> None:
    """And value estimates small, whatever the observation."""
    DICT.seed(3)
    for core in CORES:
        network = build(core)
        starts = torch.zeros(STEPS, 20).bool()
        output, _ = network(sample(DICT, STEPS, 20), network.initial_state(20), starts)
        assert (torch.softmax(output.policy, dim=-1) - 0.2).abs().max() < 0.05, core


def test_initialisation_leaves_the_core_alone() -> None:
    """Orthogonal layers outside the core; the core keeps its own start."""
    network = build("rmc")
    weight: Tensor = network.embedding_scale * network.embedding.weight
    torch.testing.assert_close(weight @ weight.T, 2 * torch.eye(EMBEDDING), rtol=0, atol=1e-5)
    core = network.core.input_projection.weight  # type: ignore[union-attr]
    assert core.abs().max() <= 2 * EMBEDDING**-0.5
    assert not torch.allclose(core @ core.T, torch.diag((core @ core.T).diagonal()), atol=1e-3)


def test_add_time() -> None:
    observations = {"a": torch.rand(3, 2), "b": torch.rand(3)}
    with_time = add_time(observations)
    assert isinstance(with_time, dict)
    assert {key: part.shape for key, part in with_time.items()} == {"a": (1, 3, 2), "b": (1, 3)}


@pytest.mark.parametrize(
    "space",
    [
        spaces.Tuple([spaces.Discrete(2)]),
        spaces.Dict({"part": spaces.Discrete(2)}),
        spaces.MultiDiscrete([[2, 3], [4, 5]]),
        spaces.MultiBinary([2, 3]),
        spaces.Box(-1, 1, (2, 3)),
        spaces.Box(-1, 1, ()),
        spaces.Box(0, 9, (2,), np.int64),
    ],
    ids=str,
)
def test_other_action_spaces_are_rejected(space: spaces.Space[Any]) -> None:
    with pytest.raises(ValueError, match=r"action_space must be Discrete, .* or a Box of floats .*, got "):
        build("gru", spaces.Box(-1, 1, (4,)), space)


@pytest.mark.parametrize("value", [0, -1, 2.5, True])
def test_embedding_size_must_be_a_whole_number(value: Any) -> None:
    with pytest.raises(ValueError, match=f"embedding_size must be a whole number of at least 1, got {value!r}"):
        RecurrentActorCritic(IMAGE, spaces.Discrete(2), "gru", embedding_size=value)


def test_unknown_core() -> None:
    with pytest.raises(ValueError, match=r"core must be one of .*, got 'transformer'"):
        RecurrentActorCritic(IMAGE, spaces.Discrete(2), "transformer")


@pytest.mark.parametrize("core", ["rmc", "lstm", "gru", "identity"])
def test_bf16_rounds_products_and_leaves_parameters_states_and_outputs_in_float32(core: str) -> None:
    """Where the processor has instructions for it: elsewhere everything is exact."""
    core_kwargs = {"mem_slots": 2, "head_size": 5} if core == "rmc" else {}
    torch.manual_seed(0)
    network = RecurrentActorCritic(spaces.Box(-1, 1, (7,)), spaces.Discrete(3), core, core_kwargs)
    x, starts, state = torch.randn(4, 6, 7), torch.rand(4, 6) < 0.3, network.initial_state(6)
    exact, _ = network(x, state, starts)
    network.precision = "bf16"
    rounded, last_state = network(x, state, starts)
    error = (exact.value - rounded.value).abs().max().item()
    assert 0 < error < 0.1 if BF16_IS_FAST else error == 0
    torch.autograd.backward(rounded.value.sum() + rounded.policy.square().sum())
    tensors = [*rounded, *last_state, *(parameter.grad for parameter in network.parameters())]
    assert all(tensor is not None and tensor.dtype == torch.float32 for tensor in tensors)


def test_unknown_precision_is_refused() -> None:
    with pytest.raises(ValueError, match="precision must be 'fp32' or 'bf16', got 'fp8'"):
        RecurrentActorCritic(spaces.Box(-1, 1, (7,)), spaces.Discrete(3), "lstm", precision="fp8")

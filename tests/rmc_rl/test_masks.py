"""Action masks: the distribution that is left, what the network sees of them, and which are refused."""

import itertools
import re
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor

from rmc_rl.masks import ActionMaskError, check_mask, choices, mask_policy, without_mask
from rmc_rl.network import RecurrentActorCritic
from rmc_rl.policies import GRUPolicy

ACTIONS: dict[str, spaces.Space[Any]] = {
    "Discrete": spaces.Discrete(5, start=2),
    "MultiDiscrete": spaces.MultiDiscrete([2, 4, 3], start=[1, 0, -1]),
    "MultiBinary": spaces.MultiBinary(4),
}
MASKS = {
    "Discrete": [0, 1, 0, 1, 1],
    "MultiDiscrete": [0, 1, 1, 0, 0, 1, 1, 1, 1],
    "MultiBinary": [1, 1, 0, 1, 1, 0, 1, 1],  # free, 1, 0, free
}
SPEED = spaces.Box(-1, 1, (3,))
every_kind = pytest.mark.parametrize("kind", ACTIONS)


def build(kind: str, seed: int = 0) -> RecurrentActorCritic:
    """A network whose favourite actions, by far, are forbidden ones."""
    space = spaces.Dict({"action_mask": spaces.MultiBinary(len(MASKS[kind])), "speed": SPEED})
    torch.manual_seed(seed)
    network = RecurrentActorCritic(space, ACTIONS[kind], "gru", {"hidden_size": 6}, embedding_size=7)
    with torch.no_grad():
        network.policy_head.weight.normal_(std=2.0)
        network.policy_head.bias.copy_(50.0 * (1 - torch.tensor(favourites(kind))))
    return network


def favourites(kind: str) -> list[float]:
    """0 where the logit is to be large."""
    mask = MASKS[kind]
    return [float(mask[2 * i + 1]) for i in range(len(mask) // 2)] if kind == "MultiBinary" else list(map(float, mask))


def observe(kind: str, batch: int, mask: Any = None) -> dict[str, Tensor]:
    torch.manual_seed(1)
    masks = torch.tensor(MASKS[kind] if mask is None else mask, dtype=torch.int8).expand(batch, -1)
    return {"action_mask": masks, "speed": torch.rand(batch, 3)}


def components(kind: str) -> list[list[int]]:
    """The values of each component that the mask allows, counted from 0."""
    parts = np.split(np.array(MASKS[kind]), np.cumsum(choices(ACTIONS[kind]))[:-1])
    return [np.flatnonzero(part).tolist() for part in parts]


def literal_log_probs(kind: str, logits: Tensor) -> dict[tuple[int, ...], Tensor]:
    """Of each action that is allowed: its probability without a mask, divided by that of all that are allowed."""
    sizes = choices(ACTIONS[kind])
    parts = (
        [torch.stack([torch.zeros_like(logit), logit]) for logit in logits]
        if kind == "MultiBinary"
        else torch.split(logits, sizes)
    )
    weights = {}
    for action in itertools.product(*map(range, sizes)):
        if all(value in allowed for value, allowed in zip(action, components(kind), strict=True)):
            terms = [torch.log_softmax(part, dim=0)[value] for part, value in zip(parts, action, strict=True)]
            weights[action] = torch.stack(terms).sum()
    total = torch.logsumexp(torch.stack(list(weights.values())), dim=0)
    return {action: weight - total for action, weight in weights.items()}


def as_tensor(kind: str, action: tuple[int, ...]) -> Tensor:
    dtype = torch.float64 if kind == "MultiBinary" else torch.int64
    return torch.tensor([action[0]] if kind == "Discrete" else [action], dtype=dtype)


@every_kind
def test_what_is_left_is_the_policy_given_that_the_action_is_allowed(kind: str) -> None:
    """Log probabilities, entropy, and the gradients of both."""
    torch.manual_seed(3)
    width = build(kind).policy_head.out_features
    logits = torch.randn(width, dtype=torch.float64, requires_grad=True)
    masked = mask_policy(logits[None], torch.tensor([MASKS[kind]]), ACTIONS[kind])
    distribution = build(kind).distribution(masked)
    expected = literal_log_probs(kind, logits)
    assert len(expected) == np.prod([len(allowed) for allowed in components(kind)])
    entropy = distribution.entropy()
    assert entropy is not None
    literal_entropy = -torch.stack([log_prob.exp() * log_prob for log_prob in expected.values()]).sum()
    pairs = [(entropy[0], literal_entropy)]
    pairs += [(distribution.log_prob(as_tensor(kind, action))[0], wanted) for action, wanted in expected.items()]
    for actual, wanted in pairs:
        torch.testing.assert_close(actual, wanted)
        (gradient,) = torch.autograd.grad(actual, logits, retain_graph=True)
        (wanted_gradient,) = torch.autograd.grad(wanted, logits, retain_graph=True)
        torch.testing.assert_close(gradient, wanted_gradient)
        assert gradient.isfinite().all()


@every_kind
def test_no_forbidden_action_is_ever_taken(kind: str) -> None:
    """Though the network wants nothing else; and every allowed value comes up."""
    network = build(kind)
    batch = 4000
    output, _ = network.step(observe(kind, batch), network.initial_state(batch), torch.zeros(batch).bool())
    for deterministic in (False, True):
        actions = network.distribution(output.policy).get_actions(deterministic).view(batch, -1).long()
        for column, allowed in zip(actions.T, components(kind), strict=True):
            assert set(column.tolist()) <= set(allowed)
    uniform = mask_policy(torch.zeros_like(output.policy), observe(kind, batch)["action_mask"], ACTIONS[kind])
    actions = network.distribution(uniform).sample().view(batch, -1).long()
    for column, allowed in zip(actions.T, components(kind), strict=True):
        assert sorted(set(column.tolist())) == allowed


@every_kind
def test_a_mask_that_allows_everything_changes_nothing(kind: str) -> None:
    logits = torch.randn(6, build(kind).policy_head.out_features)
    assert torch.equal(mask_policy(logits, torch.ones(6, len(MASKS[kind])), ACTIONS[kind]), logits)


@every_kind
def test_the_mask_is_no_input_of_the_encoder(kind: str) -> None:
    """It changes the policy, and nothing else: neither the value nor the memory; in an unroll and step by step."""
    network = build(kind)
    assert network.encoder.features_dim == 3
    starts = torch.zeros(2, 5).bool()
    everything = [1] * len(MASKS[kind])
    outputs = []
    for mask in (MASKS[kind], everything):
        observations = {key: torch.stack([part, part]) for key, part in observe(kind, 5, mask).items()}
        outputs.append(network(observations, network.initial_state(5), starts))
        first, _ = network.step(observe(kind, 5, mask), network.initial_state(5), starts[0])
        torch.testing.assert_close(first.policy, outputs[-1][0].policy[0])
    (masked, masked_state), (free, free_state) = outputs
    assert torch.equal(masked.value, free.value)
    assert all(torch.equal(*leaves) for leaves in zip(masked_state, free_state, strict=True))
    assert not torch.equal(masked.policy, free.policy)


def test_other_parts_keep_their_order() -> None:
    parts = [("z", SPEED), ("action_mask", spaces.MultiBinary(2)), ("a", spaces.Discrete(3))]
    assert list(without_mask(spaces.Dict(parts), spaces.Discrete(2)).keys()) == ["z", "a"]  # type: ignore[attr-defined]


def test_masks_as_elsewhere() -> None:
    """PettingZoo's and RLlib's are int8 boxes; MaskablePPO's order is that of `choices`."""
    box = spaces.Dict({"action_mask": spaces.Box(0, 1, (5,), np.int8), "observation": SPEED})
    assert without_mask(box, spaces.Discrete(5)) == spaces.Dict({"observation": SPEED})
    assert choices(spaces.Discrete(5, start=3)) == [5]
    assert choices(spaces.MultiDiscrete([2, 4])) == [2, 4]
    assert choices(spaces.MultiBinary(3)) == [2, 2, 2]


# What is refused


@pytest.mark.parametrize(
    ("mask", "action_space", "message"),
    [
        (spaces.MultiBinary(4), spaces.Discrete(5), "must be MultiBinary(5), one entry for each value of Discrete(5)"),
        (spaces.MultiBinary(3), spaces.MultiBinary(3), "must be MultiBinary(6)"),
        (spaces.MultiBinary([2, 3]), spaces.MultiDiscrete([3, 3]), "must be MultiBinary(6)"),
        (spaces.Discrete(5), spaces.Discrete(5), "must be MultiBinary(5)"),
        (
            spaces.MultiBinary(2),
            spaces.Box(-1, 1, (2,)),
            "Discrete, MultiDiscrete of one dimension or MultiBinary(n), n a whole number, got Box",
        ),
    ],
    ids=str,
)
def test_masks_of_another_length(mask: spaces.Space[Any], action_space: spaces.Space[Any], message: str) -> None:
    space = spaces.Dict({"action_mask": mask, "speed": SPEED})
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        GRUPolicy(space, action_space)
    assert "\n" not in str(error.value)


def test_a_mask_and_nothing_else() -> None:
    with pytest.raises(ValueError, match="observation_space must have another part beside 'action_mask', got Dict"):
        GRUPolicy(spaces.Dict({"action_mask": spaces.MultiBinary(2)}), spaces.Discrete(2))


@pytest.mark.parametrize(
    ("kind", "mask", "what"),
    [
        ("Discrete", [0, 0, 0, 0, 0], "no action"),
        ("MultiDiscrete", [1, 1, 0, 0, 0, 0, 1, 1, 1], "no value of the action's component 1"),
        ("MultiDiscrete", [0, 0, 0, 0, 0, 0, 0, 0, 0], "no value of the action's component 0"),
        ("MultiBinary", [1, 1, 1, 1, 1, 0, 0, 0], "no value of the action's component 3"),
    ],
)
def test_a_mask_that_allows_nothing(kind: str, mask: list[int], what: str) -> None:
    """The row is named, by the check and by whoever predicts."""
    rows = np.array([MASKS[kind], MASKS[kind], mask])
    with pytest.raises(
        ActionMaskError, match=f"^environment 2: action_mask allows {what}, where it must allow one at least$"
    ):
        check_mask(rows, ACTIONS[kind])
    check_mask(rows[:2], ACTIONS[kind])
    space = spaces.Dict({"action_mask": spaces.MultiBinary(len(mask)), "speed": SPEED})
    policy = GRUPolicy(space, ACTIONS[kind], core_kwargs={"hidden_size": 6}, embedding_size=7)
    observation = {"action_mask": rows.astype(np.int8), "speed": np.zeros((3, 3), np.float32)}
    for deterministic in (False, True):
        with pytest.raises(ActionMaskError, match=f"environment 2: action_mask allows {what}"):
            policy.predict(observation, deterministic=deterministic)


@pytest.mark.parametrize("value", [0.5, -1.0, 2.0, np.nan, 1.00001])
def test_a_mask_that_is_none(value: float) -> None:
    """As one that was normalised, in which nothing is 0: it would allow everything."""
    rows = np.array([MASKS["Discrete"]] * 3, np.float32)
    for dtype in (bool, np.int8, np.float32):
        check_mask(rows.astype(dtype), ACTIONS["Discrete"])
    rows[2, 1] = value
    message = f"^environment 2: action_mask must hold 0 and 1 alone, got {rows[2, 1]}; .*VecNormalize.*norm_obs_keys"
    with pytest.raises(ActionMaskError, match=message) as error:
        check_mask(rows, ACTIONS["Discrete"])
    assert "\n" not in str(error.value)
    space = spaces.Dict({"action_mask": spaces.Box(0, 1, (5,)), "speed": SPEED})
    policy = GRUPolicy(space, ACTIONS["Discrete"], core_kwargs={"hidden_size": 6}, embedding_size=7)
    with pytest.raises(ActionMaskError, match=message):
        policy.predict({"action_mask": rows, "speed": np.zeros((3, 3), np.float32)})


@pytest.mark.parametrize("observation", [{"speed": np.zeros(3)}, np.zeros(3), {"action_mask": np.ones(5), "sped": 1}])
def test_observations_without_a_mask(observation: Any) -> None:
    """What an environment gives that nobody has wrapped."""
    space = spaces.Dict({"action_mask": spaces.MultiBinary(5), "speed": SPEED})
    with pytest.raises(ValueError, match=r"must be a dict with the keys \['action_mask', 'speed'\], got .*ActionMasks"):
        GRUPolicy(space, spaces.Discrete(5)).predict(observation)

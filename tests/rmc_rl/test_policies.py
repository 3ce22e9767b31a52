"""Policies: predicting with and without a state, saving and loading, and what they refuse."""

import pickle
import resource
import time
import zipfile
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.policies import BasePolicy

from rmc_rl.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from rmc_rl.cores import CORES, Core, State
from rmc_rl.policies import (
    POLICIES,
    FeedForwardPolicy,
    GRUPolicy,
    LSTMPolicy,
    RecurrentPolicy,
    RMCPolicy,
    to_env_actions,
)

SMALL: dict[str, dict[str, Any]] = {
    "RMCPolicy": {"core_kwargs": {"mem_slots": 3, "head_size": 5, "num_heads": 2}},
    "LSTMPolicy": {"core_kwargs": {"hidden_size": 7}},
    "GRUPolicy": {"core_kwargs": {"hidden_size": 7}},
    "DeepLSTMPolicy": {"core_kwargs": {"hidden_size": 7, "num_layers": 3}},
    "DNCPolicy": {"core_kwargs": {"memory_size": 4, "word_size": 2, "num_reads": 3, "controller_size": 7}},
    "MinGRUPolicy": {"core_kwargs": {"hidden_size": 7}},
    "FeedForwardPolicy": {},
    "RecurrentPolicy": {"core": "lstm", "core_kwargs": {"hidden_size": 8}},
}
STATE_SHAPES: dict[str, list[tuple[int, ...]]] = {
    "RMCPolicy": [(3, 10)],
    "LSTMPolicy": [(7,), (7,)],
    "GRUPolicy": [(7,)],
    "DeepLSTMPolicy": [(7,)] * 6,
    "DNCPolicy": [(4, 2), (4,), (1, 4, 4), (1, 4), (1, 4), (3, 4), (3, 2), (7,), (7,)],
    "MinGRUPolicy": [(7,)],
    "FeedForwardPolicy": [],
    "RecurrentPolicy": [(8,), (8,)],
}
DICT = spaces.Dict(
    {
        "image": spaces.Box(0, 255, (5, 6, 3), np.uint8),
        "clock": spaces.Discrete(4, start=1),
        "previous_action": spaces.Box(0, 1, (5,)),
    }
)
ACTIONS = {
    "Discrete": spaces.Discrete(5),
    "Discrete from -2": spaces.Discrete(5, start=-2),
    "MultiDiscrete": spaces.MultiDiscrete([2, 4]),
    "MultiDiscrete from 3": spaces.MultiDiscrete([2, 4], start=[3, 0]),
    "MultiBinary": spaces.MultiBinary(3),
    "Box": spaces.Box(np.array([-0.1, 0.2], np.float32), np.array([0.1, 0.3], np.float32)),
}
BATCH = 3
every_policy = pytest.mark.parametrize("name", POLICIES)


def build(
    name: str = "GRUPolicy",
    observation_space: spaces.Space[Any] = DICT,
    action_space: spaces.Space[Any] = ACTIONS["Discrete"],
    **kwargs: Any,
) -> RecurrentPolicy:
    """A small policy that is far from uniform, so that what it has seen shows in what it does."""
    torch.manual_seed(4)
    policy = POLICIES[name](observation_space, action_space, **{"embedding_size": 12, **SMALL[name], **kwargs})
    with torch.no_grad():
        policy.network.policy_head.weight.normal_(std=3.0)
    return policy


def stack(observations: list[Any]) -> Any:
    if isinstance(observations[0], dict):
        return {key: np.stack([observation[key] for observation in observations]) for key in observations[0]}
    return np.stack(observations)


def sequence(space: spaces.Space[Any] = DICT, steps: int = 4, seed: int = 0) -> list[list[Any]]:
    """Observations by step and row."""
    space.seed(seed)
    return [[space.sample() for _ in range(BATCH)] for _ in range(steps)]


def assert_states_close(actual: Any, expected: Any) -> None:
    assert len(actual) == len(expected)
    for leaf, expected_leaf in zip(actual, expected, strict=True):
        np.testing.assert_allclose(leaf, expected_leaf, rtol=1e-5, atol=1e-6)


def test_every_core_has_a_policy() -> None:
    assert {policy.core for policy in POLICIES.values()} == {*CORES, None}
    assert RecurrentPolicy.core is None  # it takes any
    assert set(SMALL) == set(STATE_SHAPES) == set(POLICIES)


def test_default_sizes() -> None:
    """What the docstrings say: 4 slots of 4 heads x 16 with memory gates; 256 units."""
    space = spaces.Box(-1, 1, (3,))
    for policy_class, shapes in [
        (RMCPolicy, [(1, 4, 64)]),
        (LSTMPolicy, [(1, 256), (1, 256)]),
        (GRUPolicy, [(1, 256)]),
        (FeedForwardPolicy, []),
    ]:
        policy = policy_class(space, spaces.Discrete(2))
        _, state = policy.predict(np.zeros(3, np.float32))
        assert [leaf.shape for leaf in state] == shapes
    assert RMCPolicy(space, spaces.Discrete(2)).network.core.gate_style == "memory"


def test_arguments_of_the_core_go_over_the_defaults() -> None:
    policy = RMCPolicy(spaces.Box(-1, 1, (3,)), spaces.Discrete(2), core_kwargs={"mem_slots": 7})
    _, (memory,) = policy.predict(np.zeros(3, np.float32))
    assert memory.shape == (1, 7, 64)
    assert RMCPolicy.default_core_kwargs["mem_slots"] == 4


# predict


@every_policy
def test_single_observations_and_batches(name: str) -> None:
    """A batch of rows does what its rows do one by one, step after step."""
    policy = build(name)
    states: list[Any] = [None] * BATCH
    batch_state = None
    for rows in sequence():
        actions, batch_state = policy.predict(stack(rows), batch_state, deterministic=True)
        assert actions.shape == (BATCH,)
        assert [leaf.shape for leaf in batch_state] == [(BATCH, *shape) for shape in STATE_SHAPES[name]]
        for i, row in enumerate(rows):
            action, states[i] = policy.predict(row, states[i], deterministic=True)
            assert action.shape == ()
            assert action == actions[i]
            assert_states_close(states[i], [leaf[i : i + 1] for leaf in batch_state])


@every_policy
def test_the_state_is_what_makes_the_memory(name: str) -> None:
    """Handing it on changes what the policy does, and only if it has a memory."""
    policy = build(name)
    with torch.no_grad():
        policy.network.policy_head.weight.mul_(0.3)
    state, with_state, without = None, [], []
    for step, rows in enumerate(sequence(steps=30)):
        torch.manual_seed(step)
        actions, state = policy.predict(stack(rows), state)
        with_state.append(actions)
        torch.manual_seed(step)
        without.append(policy.predict(stack(rows))[0])
    assert np.array_equal(with_state, without) == (name == "FeedForwardPolicy")


@every_policy
def test_no_state_is_a_fresh_one(name: str) -> None:
    policy = build(name)
    (rows, *_) = sequence()
    _, state = policy.predict(stack(rows))
    fresh = tuple(leaf.numpy() for leaf in policy.network.initial_state(BATCH))
    assert_states_close(policy.predict(stack(rows), fresh)[1], state)
    ruined = tuple(np.full_like(leaf, np.nan) for leaf in state)
    every_row = np.ones(BATCH, dtype=bool)
    assert_states_close(policy.predict(stack(rows), ruined, every_row)[1], state)
    assert_states_close(policy.predict(stack(rows), None, every_row)[1], state)


@every_policy
def test_episode_start_resets_rows(name: str) -> None:
    """Those rows, and no others; without it no row is reset."""
    policy = build(name)
    first, second, *_ = sequence()
    _, state = policy.predict(stack(first))
    starts = np.array([False, True, False])
    _, reset = policy.predict(stack(second), state, starts)
    _, kept = policy.predict(stack(second), state)
    _, fresh = policy.predict(stack(second))
    assert_states_close([leaf[[0, 2]] for leaf in reset], [leaf[[0, 2]] for leaf in kept])
    assert_states_close([leaf[1] for leaf in reset], [leaf[1] for leaf in fresh])
    for leaf, fresh_leaf in zip(kept, fresh, strict=True):
        assert not np.allclose(leaf[1], fresh_leaf[1])


@every_policy
def test_predict_does_not_write_into_the_state(name: str) -> None:
    policy = build(name)
    rows, *_ = sequence()
    _, state = policy.predict(stack(rows))
    copies = [leaf.copy() for leaf in state]
    policy.predict(stack(rows), state, np.array([True, False, True]))
    for leaf, copy in zip(state, copies, strict=True):
        np.testing.assert_array_equal(leaf, copy)


@pytest.mark.parametrize("name", ["RMCPolicy", "LSTMPolicy"])
def test_states_and_starts_that_do_not_fit_are_rejected(name: str) -> None:
    policy = build(name)
    rows, *_ = sequence()
    observation = stack(rows)
    _, state = policy.predict(observation)
    for wrong in (tuple(leaf[:1] for leaf in state), (), state + state, tuple(leaf[..., :-1] for leaf in state)):
        with pytest.raises(ValueError, match=r"state must be None or what .* of shapes \[\(3, .*\], got"):
            policy.predict(observation, wrong)
    for wrong in (5, state[0]):
        with pytest.raises(
            ValueError, match=r"state must be None or what predict returned, a tuple of .*, got"
        ) as error:
            policy.predict(observation, wrong)
        assert "\n" not in str(error.value)
    for wrong_starts in (np.array([True]), np.array(True), np.ones((3, 1), bool)):
        with pytest.raises(ValueError, match=r"episode_start must have shape \(3,\), got"):
            policy.predict(observation, state, wrong_starts)


def test_states_of_another_precision_are_taken() -> None:
    """As they come back from a file of text, say."""
    policy = build("LSTMPolicy")
    rows, *_ = sequence()
    _, state = policy.predict(stack(rows))
    _, expected = policy.predict(stack(rows), state)
    _, found = policy.predict(stack(rows), tuple(leaf.astype(np.float64) for leaf in state))
    for leaf, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(leaf, other)
        assert leaf.dtype == np.float32


def test_states_and_starts_may_be_views() -> None:
    """Also such as torch does not take: rows from the last to the first."""
    policy = build("LSTMPolicy")
    first, second, *_ = sequence()
    _, state = policy.predict(stack(first))
    starts = np.array([True, False, False])
    _, expected = policy.predict(stack(second[::-1]), tuple(leaf[::-1].copy() for leaf in state), starts[::-1].copy())
    _, found = policy.predict(stack(second[::-1]), tuple(leaf[::-1] for leaf in state), starts[::-1])
    assert_states_close(found, expected)


def test_what_is_not_finite_is_refused() -> None:
    """In observations and in states: the row is named, and no action drawn from NaN."""
    policy = build("LSTMPolicy", spaces.Box(-1, 1, (4,)))
    good = np.zeros((BATCH, 4), np.float32)
    bad = good.copy()
    bad[1, 2] = np.nan
    _, state = policy.predict(good)
    state[0][2, 0] = np.inf
    state[1][2, 0] = np.nan
    for observation, memory, row in [(bad, None, 1), (good, state, 2)]:
        with pytest.raises(FloatingPointError, match=f"environment {row}: .* is not finite") as error:
            policy.predict(observation, memory)
        assert "\n" not in str(error.value)
    policy.predict(good, state, np.array([False, False, True]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: (rows, {}), r"observation must be the observation alone, got a tuple of 2: .*reset\(\)"),
        (lambda rows: rows | {"clock": np.array([1, 5, 4])}, r"observation\['clock'\] must be from 1 to 4, got 5"),
        (lambda rows: rows | {"clock": np.array([1, 4, 0])}, r"observation\['clock'\] must be from 1 to 4, got 0"),
        (
            lambda rows: rows | {"clock": np.array([1, 4])},
            r"all parts of an observation must be of one batch size, got \{'image': 3, 'clock': 2, 'previous_a",
        ),
    ],
)
def test_observations_that_are_none_of_the_space(change: Any, message: str) -> None:
    rows, *_ = sequence()
    batch = {key: stack(rows)[key] for key in ("image", "clock", "previous_action")}
    with pytest.raises(ValueError, match=message) as error:
        build().predict(change(batch))
    assert "\n" not in str(error.value)


def test_discrete_values_out_of_their_range() -> None:
    """Of one observation, and of one component; those within it are taken, in any dtype."""
    space = spaces.MultiDiscrete([3, 2], start=[-1, 4])
    policy = build(observation_space=space)
    for dtype in (np.int64, np.int8):
        policy.predict(np.array([[-1, 4], [1, 5]], dtype))
    with pytest.raises(ValueError, match="observation must be from 4 to 5 at 1, got 3"):
        policy.predict(np.array([1, 3]))
    with pytest.raises(ValueError, match="observation must be from -1 to 1 at 0, got 2"):
        policy.predict(np.array([[1, 4], [2, 5]]))
    with pytest.raises(ValueError, match="observation must be from 5 to 8, got 9"):
        build(observation_space=spaces.Discrete(4, start=5)).predict(np.array(9))


def test_deterministic_is_the_most_likely_action() -> None:
    policy = build(observation_space=spaces.Box(-1, 1, (3,)))
    observation = np.ones((4000, 3), np.float32)
    with torch.no_grad():
        output, _ = policy.network.step(
            torch.from_numpy(observation[:1]), policy.network.initial_state(1), torch.zeros(1).bool()
        )
        probabilities = torch.softmax(output.policy[0], dim=-1).numpy()
    actions, _ = policy.predict(observation, deterministic=True)
    assert set(actions.tolist()) == {int(probabilities.argmax())}
    torch.manual_seed(0)
    sampled, _ = policy.predict(observation)
    frequencies = np.bincount(sampled, minlength=5) / len(sampled)
    np.testing.assert_allclose(frequencies, probabilities, atol=0.04)
    torch.manual_seed(0)
    np.testing.assert_array_equal(policy.predict(observation)[0], sampled)


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("kind", ACTIONS)
def test_actions_lie_in_their_space(kind: str, deterministic: bool) -> None:
    """Of one observation and of a batch; every value of a small space comes up."""
    space = ACTIONS[kind]
    policy = build(observation_space=spaces.Box(-1, 1, (3,)), action_space=space)
    with torch.no_grad():
        policy.network.policy_head.weight.mul_(0.1)
    generator = np.random.default_rng(0)
    torch.manual_seed(0)
    action, _ = policy.predict(np.zeros(3, np.float32), deterministic=deterministic)
    assert space.contains(action.item() if action.shape == () else action)
    actions, _ = policy.predict(generator.normal(size=(300, 3)).astype(np.float32), deterministic=deterministic)
    assert actions.shape == (300, *space.shape)
    for action in actions:
        assert space.contains(action)
    if not deterministic:
        if isinstance(space, spaces.Box):
            assert (actions == space.low).any()
            assert (actions == space.high).any()
        elif isinstance(space, spaces.Discrete):
            assert set(actions.tolist()) == set(range(space.start, space.start + space.n))
        elif isinstance(space, spaces.MultiDiscrete):
            assert set(actions[:, 1].tolist()) == set(range(space.start[1], space.start[1] + space.nvec[1]))


def test_to_env_actions_leaves_the_tensor_alone() -> None:
    """Its memory is shared with numpy's."""
    for actions, space in [
        (torch.tensor([9.0]), spaces.Box(-1, 1, (1,))),
        (torch.tensor([1]), spaces.Discrete(2, start=5)),
    ]:
        before = actions.clone()
        to_env_actions(actions, space)
        assert torch.equal(actions, before)


def test_predict_through_the_policy_of_sb3() -> None:
    """`_predict`, which Stable-Baselines3 calls on a policy for observations without a state."""
    policy = build()
    rows, *_ = sequence()
    observation, _ = policy.obs_to_tensor(stack(rows))
    with torch.no_grad():
        actions = policy._predict(observation, deterministic=True)
    np.testing.assert_array_equal(actions.numpy(), policy.predict(stack(rows), deterministic=True)[0])


def test_images_are_not_transposed() -> None:
    """An image whose channels are last is seen as it is; one that is not of the space is refused."""
    space = spaces.Box(0, 255, (5, 6, 3), np.uint8)
    policy = build("FeedForwardPolicy", space)
    seen = []
    policy.network.encoder.register_forward_pre_hook(lambda module, arguments: seen.append(arguments[0]))
    image = np.arange(90, dtype=np.uint8).reshape(5, 6, 3)
    policy.predict(image)
    np.testing.assert_allclose(seen[0][0] * 255, image, rtol=1e-5)
    with pytest.raises(ValueError, match="observation shape"):
        policy.predict(np.zeros((6, 6, 3), np.uint8))


# Saving and loading


@every_policy
@pytest.mark.parametrize(
    "observation_space", [DICT, spaces.Box(0, 1, (5, 5, 6), np.uint8), spaces.Discrete(4)], ids=str
)
def test_a_loaded_policy_does_the_same(name: str, observation_space: spaces.Space[Any], tmp_path: Path) -> None:
    policy = build(name, observation_space)
    policy.save(tmp_path / "policy")
    loaded = POLICIES[name].load(tmp_path / "policy", device="cpu")
    assert type(loaded) is POLICIES[name]
    assert (loaded.observation_space, loaded.action_space) == (observation_space, policy.action_space)
    assert loaded.network_kwargs == policy.network_kwargs
    state = other_state = None
    for rows in sequence(observation_space):
        actions, state = policy.predict(stack(rows), state, deterministic=True)
        other_actions, other_state = loaded.predict(stack(rows), other_state, deterministic=True)
        np.testing.assert_array_equal(actions, other_actions)
        for leaf, other_leaf in zip(state, other_state, strict=True):
            np.testing.assert_array_equal(leaf, other_leaf)


@pytest.mark.parametrize("kind", ACTIONS)
def test_every_action_space_can_be_saved(kind: str, tmp_path: Path) -> None:
    policy = build(action_space=ACTIONS[kind])
    policy.save(tmp_path / "policy.zip")
    loaded = GRUPolicy.load(tmp_path / "policy.zip")
    assert loaded.action_space == ACTIONS[kind]
    rows, *_ = sequence()
    expected, _ = policy.predict(stack(rows), deterministic=True)
    np.testing.assert_array_equal(loaded.predict(stack(rows), deterministic=True)[0], expected)


@pytest.mark.parametrize(
    "space", [spaces.MultiDiscrete([2, 4], np.int32), spaces.Box(0, 1, (3,), np.bool_)], ids=["int32", "bool"]
)
def test_the_dtype_of_a_space_is_saved(space: spaces.Space[Any], tmp_path: Path) -> None:
    """Without it, the policy's space is not that of its environment."""
    policy = build(observation_space=space, action_space=spaces.MultiDiscrete([2, 4], np.int32))
    policy.save(tmp_path / "policy")
    loaded = GRUPolicy.load(tmp_path / "policy")
    assert (loaded.observation_space, loaded.action_space) == (space, policy.action_space)
    rows, *_ = sequence(space)
    assert loaded.predict(stack(rows))[0].dtype == np.int32


def test_parts_of_a_dict_keep_their_order(tmp_path: Path) -> None:
    """Also where it is not that of the alphabet: each weight belongs to one part."""
    space = spaces.Dict([("z", spaces.Box(-1, 1, (2,))), ("a", spaces.Box(-1, 1, (2,)))])
    policy = build(observation_space=space)
    policy.save(tmp_path / "policy")
    loaded = GRUPolicy.load(tmp_path / "policy")
    observation = {"z": np.array([1.0, -1.0], np.float32), "a": np.array([0.5, 0.0], np.float32)}
    assert_states_close(loaded.predict(observation)[1], policy.predict(observation)[1])


def test_arguments_are_saved(tmp_path: Path) -> None:
    space = spaces.Box(0, 255, (5, 5, 5), np.uint8)
    policy = build(observation_space=space, encoder="grid", encoder_kwargs={"channels": "first"}, embedding_size=9)
    policy.save(tmp_path / "policy")
    loaded = GRUPolicy.load(tmp_path / "policy")
    assert loaded.network.encoder.channels == "first"
    assert loaded.network.embedding.out_features == 9
    assert loaded.network.core.output_size == 7


def test_base_class_loads_any_policy(tmp_path: Path) -> None:
    build("LSTMPolicy").save(tmp_path / "policy")
    assert type(RecurrentPolicy.load(tmp_path / "policy")) is LSTMPolicy


def test_another_class_than_was_saved_is_refused(tmp_path: Path) -> None:
    build("LSTMPolicy").save(tmp_path / "policy")
    with pytest.raises(CheckpointError, match=r"policy.*: holds a LSTMPolicy, not a RMCPolicy"):
        RMCPolicy.load(tmp_path / "policy")


def tamper(path: Path, change: Any) -> None:
    data, tensors = load_checkpoint(path, "policy")
    change(data, tensors)
    save_checkpoint(path, "policy", data, tensors)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data, tensors: data.update(policy="os.system"), r"policy must be one of \[.*\], got 'os.system'"),
        (lambda data, tensors: data.update(policy=None), r"policy must be one of \[.*\], got None"),
        (lambda data, tensors: data.pop("action_space"), "not a saved GRUPolicy: 'action_space'"),
        (lambda data, tensors: data.update(action_space={"type": "Tuple"}), "not a saved GRUPolicy: not a saved space"),
        (lambda data, tensors: data["network_kwargs"].update(embedding_size=0), "embedding_size must be"),
        (lambda data, tensors: data["network_kwargs"].update(no_such=1), "no_such"),
        (lambda data, tensors: data.update(policy=[]), r"policy must be one of \[.*\], got \[\]"),
        (lambda data, tensors: data.update(network_kwargs=None), "not a saved GRUPolicy"),
        (
            lambda data, tensors: data["network_kwargs"]["core_kwargs"].update(hidden_size=8),
            r"tensor network.core.cell.weight_ih must be torch.float32 \(24, 12\), got torch.float32 \(21, 12\)",
        ),
        (
            lambda data, tensors: tensors.update({"network.value_head.bias": torch.zeros(1, dtype=torch.float64)}),
            r"tensor network.value_head.bias must be torch.float32 \(1,\), got torch.float64 \(1,\)",
        ),
        (
            lambda data, tensors: tensors["network.value_head.bias"].fill_(float("inf")),
            "tensor network.value_head.bias must be finite",
        ),
        (lambda data, tensors: tensors.pop("network.value_head.weight"), "missing: .*value_head.weight"),
        (lambda data, tensors: tensors.update(extra=torch.zeros(1)), r"unknown: \['extra'\]"),
    ],
)
def test_what_does_not_fit_together_is_refused(change: Any, message: str, tmp_path: Path) -> None:
    """In one line that names the file."""
    path = tmp_path / "policy.zip"
    build().save(path)
    tamper(path, change)
    with pytest.raises(CheckpointError, match=rf"policy\.zip: .*{message}") as error:
        GRUPolicy.load(path)
    assert "\n" not in str(error.value)


ABSURD = 10**12
FULL_BOX = {"type": "Box", "shape": [2**21], "dtype": "uint8", "low": "0", "high": "255"}
VAST_BOX = {"type": "Box", "shape": [3, ABSURD // 3], "dtype": "float64", "low": "0.0", "high": "1.0"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data.update(observation_space=VAST_BOX), "a space must have at most 8388608 values"),
        (lambda data: data.update(action_space=VAST_BOX), "a space must have at most 8388608 values"),
        (
            lambda data: data.update(
                observation_space={"type": "Dict", "spaces": {str(i): FULL_BOX for i in range(5)}}
            ),
            "a space must have at most 8388608 values, got 10485760",
        ),
        (
            lambda data: data.update(action_space={"type": "Discrete", "n": ABSURD, "start": 0}),
            "policy_head.weight must",
        ),
        (lambda data: data.update(observation_space={"type": "MultiBinary", "n": ABSURD}), "tensors are unknown"),
        (
            lambda data: data["network_kwargs"].update(embedding_size=ABSURD),
            "embedding_size must be at most 8388608, got",
        ),
        (
            lambda data: data["network_kwargs"]["core_kwargs"].update(num_blocks=ABSURD),
            r"core_kwargs\['num_blocks'\] must be at most 8388608, got",
        ),
        (
            lambda data: data["network_kwargs"]["core_kwargs"].update(num_blocks=2**23, head_size=1, num_heads=1),
            r"network_kwargs must make at most \d+ parameters for such a file, got more",
        ),
        (
            lambda data: data["network_kwargs"]["core_kwargs"].update(attention_mlp_layers=1000),
            r"network_kwargs must make at most \d+ parameters for such a file, got more",
        ),
        (lambda data: data["network_kwargs"]["core_kwargs"].update(head_size=3000), "tensor .* must be"),
    ],
)
def test_absurd_sizes_take_no_memory(change: Any, message: str, tmp_path: Path) -> None:
    """They are refused before anything of that size is made."""
    path = tmp_path / "policy.zip"
    build("RMCPolicy").save(path)
    tamper(path, lambda data, tensors: change(data))
    before, begin = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    with pytest.raises(CheckpointError, match=rf"policy\.zip: not a saved RMCPolicy: .*{message}"):
        RMCPolicy.load(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # KiB
    assert time.process_time() - begin < 5


class Clock(Core):
    """Has arguments that do not show in its weights; makes a layer that it does not keep."""

    def __init__(self, input_size: int, period: int = 7, **names: Any) -> None:
        super().__init__(input_size, output_size=3)
        self.linear = torch.nn.Linear(input_size, 9)
        self.linear = torch.nn.Linear(input_size, 3)
        self.period = period

    def initial_state(self, batch_size: int) -> State:
        return (self.linear.weight.new_zeros(batch_size, 1),)

    def forward(self, x: torch.Tensor, state: State) -> tuple[torch.Tensor, State]:
        return self.linear(x) * (1 + state[0] / self.period), (state[0] + 1,)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setitem(CORES, "clock", Clock)
    return "clock"


@pytest.mark.parametrize(
    ("name", "kwargs"),
    [
        ("RecurrentPolicy", {"core": "clock", "core_kwargs": {"period": 2**23, "names": ["a", 2, None, 0.5]}}),
        ("DNCPolicy", {"core_kwargs": {"memory_size": 1024, "word_size": 2, "controller_size": 2, "output_size": 4}}),
    ],
)
def test_a_size_may_be_larger_than_the_number_of_weights(
    name: str, kwargs: dict[str, Any], clock: str, tmp_path: Path
) -> None:
    """What is taken and saved is loaded."""
    policy = build(name, spaces.Box(-1, 1, (3,)), embedding_size=4, **kwargs)
    assert sum(tensor.numel() for tensor in policy.state_dict().values()) < 1024
    policy.save(tmp_path / "policy")
    assert RecurrentPolicy.load(tmp_path / "policy").network_kwargs == policy.network_kwargs


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.float32(1), r"must be None, bool, .* so that it can be saved, got np.float32\(1.0\)"),
        (float("inf"), "must be None, bool, int, finite float, .*, got inf"),
        (torch.ones(2, 2), "must be None, .*, got tensor"),
        (torch.nn.ReLU, "must be None, .*, got <class 'torch.nn"),
        ({1: 2}, r"must be .* with keys of type str, .*, got \{1: 2\}"),
        (2**23 + 1, "must be at most 8388608, got 8388609"),
    ],
)
def test_arguments_that_could_not_be_saved_are_refused_at_once(value: Any, message: str, clock: str) -> None:
    """And not at the first checkpoint of a long run; they are named, wherever they are."""
    for kwargs, name in [({"period": value}, r"\['period'\]"), ({"deep": [0, value]}, r"\['deep'\]\[1\]")]:
        with pytest.raises(ValueError, match=f"core_kwargs{name} {message}") as error:
            build("RecurrentPolicy", core="clock", core_kwargs=kwargs)
        assert "\n" not in str(error.value)


class Malice:
    """Its pickle makes a file when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_pickles_are_refused_and_nothing_in_them_runs(tmp_path: Path) -> None:
    evidence = tmp_path / "evidence"
    torch_file, legacy_file, plain_file = (tmp_path / f"{kind}.zip" for kind in ("torch", "legacy", "plain"))
    torch.save({"policy": Malice(evidence)}, torch_file)
    torch.save({"policy": Malice(evidence)}, legacy_file, _use_new_zipfile_serialization=False)
    plain_file.write_bytes(pickle.dumps(Malice(evidence)))
    for path in (torch_file, legacy_file, plain_file):
        with pytest.raises(CheckpointError, match=f"cannot load .*{path.name}: .* pickled data"):
            RecurrentPolicy.load(path)
    assert not evidence.exists()
    pickle.loads(plain_file.read_bytes())  # it would have worked
    assert evidence.exists()


def test_a_pickle_that_is_trusted_is_loaded(tmp_path: Path) -> None:
    """What Stable-Baselines3 saves of such a policy; refused without trust, and anything else with it."""
    path, evidence = tmp_path / "policy.pth", tmp_path / "evidence"
    policy = build("RMCPolicy", embedding_size=9)
    BasePolicy.save(policy, str(path))
    with pytest.raises(CheckpointError, match=r"policy\.pth: .* pickled data"):
        RMCPolicy.load(path)
    loaded = RMCPolicy.load(path, device="cpu", trust=True)
    assert loaded.network_kwargs == policy.network_kwargs
    for name, tensor in policy.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor)
    with pytest.raises(CheckpointError, match=r"policy\.pth: not a pickled GRUPolicy"):
        GRUPolicy.load(path, trust=True)
    torch.save({"policy": Malice(evidence)}, path)
    with pytest.raises(CheckpointError, match=r"policy\.pth: not a pickled RMCPolicy: 'data'"):
        RMCPolicy.load(path, trust=True)
    assert evidence.exists()  # that is what trust means


def test_archives_of_sb3_are_refused_and_nothing_in_them_runs(tmp_path: Path) -> None:
    evidence, path = tmp_path / "evidence", tmp_path / "model.zip"
    PPO("MlpPolicy", gym.make("CartPole-v1"), policy_kwargs={"net_arch": [4]}, device="cpu").save(path)
    with pytest.raises(CheckpointError, match=r"model\.zip: .* pickled data"):
        RecurrentPolicy.load(path)
    build().save(tmp_path / "policy.zip")
    with zipfile.ZipFile(tmp_path / "policy.zip", "a") as archive:
        archive.writestr("policy.pth", pickle.dumps(Malice(evidence)))
    with pytest.raises(CheckpointError, match=r"policy\.zip: .* pickled data"):
        RecurrentPolicy.load(tmp_path / "policy.zip")
    assert not evidence.exists()


def test_missing_files_and_other_kinds_are_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"missing\.zip: there is no such file"):
        RecurrentPolicy.load(tmp_path / "missing")
    save_checkpoint(tmp_path / "model.zip", "model", {}, {})
    with pytest.raises(CheckpointError, match=r"model\.zip: it holds 'model', not 'policy'"):
        RecurrentPolicy.load(tmp_path / "model.zip")


def test_a_policy_that_could_not_be_loaded_is_not_saved(tmp_path: Path) -> None:
    """An argument that is not JSON is named."""
    policy = build(core_kwargs={"hidden_size": 7}, encoder_kwargs={})
    policy.network_kwargs["encoder_kwargs"] = {"dtype": np.uint8}
    with pytest.raises(CheckpointError, match=r"data\['network_kwargs'\]\['encoder_kwargs'\]\['dtype'\] must be"):
        policy.save(tmp_path / "policy")
    assert not list(tmp_path.iterdir())


# Refused arguments


def test_unsupported_spaces() -> None:
    box = spaces.Box(-1, 1, (3,))
    with pytest.raises(ValueError, match=r"observation_space must be Box, .*, got Tuple.*FlattenObservation"):
        GRUPolicy(spaces.Tuple([box, box]), spaces.Discrete(2))
    with pytest.raises(ValueError, match=r"action_space must be Discrete, .*, got Tuple"):
        GRUPolicy(box, spaces.Tuple([spaces.Discrete(2)]))
    with pytest.raises(
        ValueError, match=r"action_space must be .* MultiBinary\(n\), n a whole number, .*, got MultiBin"
    ):
        GRUPolicy(box, spaces.MultiBinary([4]))
    with pytest.raises(ValueError, match=r"observation_space must be a space of gymnasium.spaces, got \(3,\)"):
        GRUPolicy((3,), spaces.Discrete(2))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("kwargs", "error", "message"),
    [
        ({"core_kwargs": {"hidden_size": 0}}, ValueError, "hidden_size must be a whole number of at least 1, got 0"),
        ({"core_kwargs": {"units": 3}}, TypeError, "units"),
        ({"encoder": "cnn"}, ValueError, r"encoder must be one of \[.*\], got 'cnn'"),
        ({"encoder": "grid"}, ValueError, "GridEncoder takes images, a Box of three dimensions"),
        ({"encoder_kwargs": {"kernels": 3}}, TypeError, "kernels"),
        ({"embedding_size": 0}, ValueError, "embedding_size must be a whole number of at least 1, got 0"),
        ({"net_arch": [64]}, TypeError, "net_arch"),
    ],
)
def test_illegal_arguments(kwargs: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        GRUPolicy(spaces.Box(-1, 1, (3,)), spaces.Discrete(2), **kwargs)

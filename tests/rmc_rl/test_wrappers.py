"""The previous action and reward as observations: their values, for one environment and for many."""

import copy
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from rmc_rl.wrappers import PreviousActionReward

SEED = 11


class Walk(gym.Env[Any, Any]):
    """Random observations; the reward grows with time; episodes of 1 to 6 steps end by themselves or are cut off."""

    def __init__(self, action_space: spaces.Space[Any] | None = None, dict_observation: bool = False) -> None:
        self.action_space = spaces.Discrete(3) if action_space is None else action_space
        self.observation_space: spaces.Space[Any] = spaces.Box(-1.0, 1.0, (2, 5), np.float32)
        if dict_observation:
            self.observation_space = spaces.Dict({"image": self.observation_space, "clock": spaces.Discrete(7)})

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.clock, self.length = 0, int(self.np_random.integers(1, 7))
        return self._observe(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.clock += 1
        ended = self.clock == self.length
        return self._observe(), 0.25 + self.clock, ended and self.length % 2 == 0, ended and self.length % 2 == 1, {}

    def _observe(self) -> Any:
        image = self.np_random.uniform(-1.0, 1.0, (2, 5)).astype(np.float32)
        return {"image": image, "clock": self.clock} if isinstance(self.observation_space, spaces.Dict) else image


def many(num_envs: int = 3, mode: AutoresetMode = AutoresetMode.SAME_STEP, **kwargs: Any) -> SyncVectorEnv:
    return SyncVectorEnv([partial(Walk, **kwargs)] * num_envs, autoreset_mode=mode)


ACTIONS = [
    (spaces.Discrete(3), 0, [1, 0, 0]),
    (spaces.Discrete(4, start=-2), 1, [0, 0, 0, 1]),
    (spaces.MultiDiscrete([2, 3]), [1, 2], [0, 1, 0, 0, 1]),
    (spaces.MultiDiscrete([2, 3], start=[5, -1]), [5, 0], [1, 0, 0, 1, 0]),
    (spaces.MultiDiscrete(np.array([[2, 1], [3, 2]])), [[1, 0], [2, 0]], [0, 1, 1, 0, 0, 1, 1, 0]),
    (spaces.MultiBinary((2, 3)), [[0, 1, 1], [1, 0, 0]], [0, 1, 1, 1, 0, 0]),
    (spaces.Box(-2.0, 2.0, (3, 1), np.float64), [[0.5], [-1.5], [0.0]], [0.5, -1.5, 0.0]),
]
SPACES = [space for space, _, _ in ACTIONS]


@pytest.mark.parametrize(("space", "action", "expected"), ACTIONS, ids=str)
def test_step_shows_the_action_and_reward_that_led_to_it(
    space: spaces.Space[Any], action: Any, expected: list[float]
) -> None:
    env = PreviousActionReward(Walk(space))
    env.reset(seed=SEED)
    observation, reward, *_ = env.step(np.asarray(action, space.dtype))
    np.testing.assert_array_equal(observation["previous_action"], np.array(expected, np.float32), strict=True)
    np.testing.assert_array_equal(observation["previous_reward"], np.array([reward], np.float32), strict=True)
    assert reward == 1.25
    assert observation in env.observation_space


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_all_is_zero_after_a_reset(space: spaces.Space[Any]) -> None:
    """So that "no action yet" differs from action 0, also after an episode in which there were actions."""
    env = PreviousActionReward(Walk(space))
    for _ in range(2):
        observation, _ = env.reset(seed=SEED)
        assert not observation["previous_action"].any()
        assert not observation["previous_reward"].any()
        assert observation in env.observation_space
        env.step(space.sample())


@pytest.mark.parametrize("dict_observation", [False, True])
@pytest.mark.parametrize("space", SPACES, ids=str)
def test_each_row_of_many_is_what_one_environment_gives(space: spaces.Space[Any], dict_observation: bool) -> None:
    """In every step, and in `final_obs`; the new observation of a row that ended is that of a reset."""
    vector = PreviousActionReward(many(action_space=space, dict_observation=dict_observation))
    singles = [PreviousActionReward(Walk(space, dict_observation)) for _ in range(3)]
    vector.action_space.seed(SEED)
    observations, _ = vector.reset(seed=SEED)
    expected = [env.reset(seed=SEED + i)[0] for i, env in enumerate(singles)]
    ends = 0
    for _ in range(25):
        assert observations in vector.observation_space
        for i in range(3):
            assert_equal({key: value[i] for key, value in observations.items()}, expected[i])
        actions = vector.action_space.sample()
        observations, rewards, terminations, truncations, infos = vector.step(actions)
        for i, env in enumerate(singles):
            expected[i], reward, terminated, truncated, _ = env.step(actions[i])
            assert (rewards[i], terminations[i], truncations[i]) == (reward, terminated, truncated)
            if terminated or truncated:
                assert_equal(infos["final_obs"][i], expected[i])
                assert infos["final_obs"][i] in vector.single_observation_space
                expected[i], _ = env.reset()
                ends += 1
    assert ends > 10


def assert_equal(actual: dict[str, Any], expected: dict[str, Any]) -> None:
    assert actual.keys() == expected.keys()
    for key, value in expected.items():
        np.testing.assert_array_equal(actual[key], value)


def test_what_was_returned_is_not_written_into() -> None:
    """Actors keep the observations of a whole unroll, and hand in the same action array again and again."""
    env = PreviousActionReward(many(action_space=spaces.Box(-1.0, 1.0, (4,), np.float32)))
    actions = np.zeros((3, 4), np.float32)
    seen = [env.reset(seed=SEED)[0]]
    kept = copy.deepcopy(seen)
    for step in range(12):
        actions[:] = step
        observations, *_, infos = env.step(actions)
        news = [observations, *(final for final in infos.get("final_obs", []) if final is not None)]
        seen += news
        kept += copy.deepcopy(news)
    assert len(seen) > 20
    for actual, expected in zip(seen, kept, strict=True):
        assert_equal(actual, expected)


def test_dict_observations_keep_their_keys_at_the_top() -> None:
    env = PreviousActionReward(Walk(dict_observation=True))
    assert set(env.reset(seed=SEED)[0]) == {"image", "clock", "previous_action", "previous_reward"}


def test_wrapped_environment_can_be_made_again_from_its_spec() -> None:
    env = PreviousActionReward(gym.make("CartPole-v1"))
    assert env.spec is not None
    assert gym.make(env.spec).observation_space == env.observation_space


@pytest.mark.parametrize("wrap", [Walk, many])
def test_illegal_environments_are_named(wrap: Any) -> None:
    with pytest.raises(ValueError, match=r"keys of PreviousActionReward, got \['previous_action', 'previous_reward'\]"):
        PreviousActionReward(PreviousActionReward(wrap()))
    with pytest.raises(ValueError, match=r"action_space must be Discrete, .* or Box, got Tuple\(Discrete\(2\)\)"):
        PreviousActionReward(wrap(action_space=spaces.Tuple([spaces.Discrete(2)])))


def test_no_environment_at_all() -> None:
    with pytest.raises(TypeError, match="Env"):
        PreviousActionReward("CartPole-v1")


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.DISABLED])
def test_other_autoreset_modes_are_rejected(mode: AutoresetMode) -> None:
    """Rows would show the action of one episode at the start of the next."""
    with pytest.raises(ValueError, match=f"SAME_STEP, got {mode.name}: build it with"):
        PreviousActionReward(many(mode=mode))


def test_partial_resets_are_rejected() -> None:
    env = PreviousActionReward(many())
    env.reset(seed=SEED)
    with pytest.raises(ValueError, match="reset_mask"):
        env.reset(options={"reset_mask": np.array([True, False, False])})

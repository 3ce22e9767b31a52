"""The previous action and reward, and action masks, as observations: their values, for one environment and for many."""

import copy
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.envs.toy_text import TaxiEnv
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv

from rmc_rl.masks import ActionMaskError
from rmc_rl.wrappers import ActionMasks, PreviousActionReward
from tests.space_envs import Anything, Informed, Masked

SEED = 11
SAME_STEP = AutoresetMode.SAME_STEP


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


# Action masks


class InformedAsGymnasiumsTaxi(Informed):
    key = "action_mask"


MASKED: list[type[Informed]] = [Masked, Informed, InformedAsGymnasiumsTaxi]
every_source = pytest.mark.parametrize("source", MASKED)


@every_source
@pytest.mark.parametrize("actions", ["Discrete", "MultiDiscrete", "MultiBinary"])
def test_masks_are_those_of_the_environment(source: type[Informed], actions: str) -> None:
    """After every reset and step; all is allowed where the episode is over."""
    inner = source("Dict", actions)
    env = ActionMasks(inner)
    assert set(env.observation_space) == {*inner.observation_space, "action_mask"}  # type: ignore[misc]
    for seed in range(3):
        observation, _ = env.reset(seed=seed)
        over = False
        while not over:
            assert observation in env.observation_space
            np.testing.assert_array_equal(observation["action_mask"], inner.mask)
            assert not observation["action_mask"].all()
            observation, _, terminated, truncated, _ = env.step(inner.legal_action())
            over = terminated or truncated
        assert observation in env.observation_space
        assert observation["action_mask"].all()


@every_source
@pytest.mark.parametrize("vector_class", [SyncVectorEnv, AsyncVectorEnv])
def test_each_row_of_many_has_the_mask_of_one_environment(source: type[Informed], vector_class: Any) -> None:
    """In every step, in `final_obs`, and where a row has begun the next episode."""
    make = partial(source, "vector", "MultiDiscrete")
    vector = ActionMasks(vector_class([make] * 3, autoreset_mode=AutoresetMode.SAME_STEP))
    inner = [make() for _ in range(3)]
    singles = [ActionMasks(env) for env in inner]
    observations, _ = vector.reset(seed=SEED)
    expected = [env.reset(seed=SEED + i)[0] for i, env in enumerate(singles)]
    ends = 0
    for _ in range(10):
        assert observations in vector.observation_space
        for i in range(3):
            assert_equal({key: value[i] for key, value in observations.items()}, expected[i])
        observations, *_, infos = vector.step(np.stack([env.legal_action() for env in inner]))
        for i, env in enumerate(singles):
            expected[i], _, terminated, truncated, _ = env.step(inner[i].legal_action())
            if terminated or truncated:
                assert_equal(infos["final_obs"][i], expected[i])
                expected[i], _ = env.reset()
                ends += 1
    assert ends == 9
    vector.close()


@pytest.mark.parametrize("wrap", [lambda env: env, lambda env: SyncVectorEnv([lambda: env], autoreset_mode=SAME_STEP)])
def test_masks_beside_previous_actions_in_either_order(wrap: Any) -> None:
    """The same observations."""
    seen = []
    for first, second in [(ActionMasks, PreviousActionReward), (PreviousActionReward, ActionMasks)]:
        inner = Masked("vector", "Discrete")
        env = second(first(wrap(inner)))
        observations = [env.reset(seed=SEED)[0]]
        for _ in range(7):
            action = inner.legal_action()
            observation, _, ended, cut, infos = env.step(action if isinstance(env, gym.Env) else np.array([action]))
            observations.append(observation)
            if isinstance(env, gym.Env) and (ended or cut):
                observations.append(env.reset()[0])
            observations += [final for final in infos.get("final_obs", ()) if final is not None]
        seen.append(observations)
    assert len(seen[0]) > 9
    for one, other in zip(*seen, strict=True):
        assert set(one) == {"observation", "action_mask", "previous_action", "previous_reward"}
        assert_equal(one, other)


def test_an_environment_that_no_one_here_wrote() -> None:
    """Gymnasium's Taxi, in which some moves lead nowhere."""
    env = ActionMasks(TaxiEnv())
    observation, info = env.reset(seed=SEED)
    for _ in range(5):
        np.testing.assert_array_equal(observation["action_mask"], info["action_mask"])
        action = int(np.flatnonzero(observation["action_mask"])[0])
        observation, _, _, _, info = env.step(action)
        assert observation in env.observation_space


def test_masks_of_a_vector_environment_without_environments() -> None:
    """One of its own kind, which gives the masks of all rows at once."""

    class Native(Walks):
        def action_masks(self) -> Any:
            return [[True, False, True], [False, True, False]]

    env = ActionMasks(Native())
    for observations in (env.reset()[0], env.step(np.array([0, 1]))[0]):
        np.testing.assert_array_equal(observations["action_mask"], [[1, 0, 1], [0, 1, 0]])


class Walks(gym.vector.VectorEnv[Any, Any, Any]):
    metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}  # noqa: RUF012 - as in Gymnasium
    num_envs = 2
    single_observation_space, single_action_space = spaces.Discrete(4), spaces.Discrete(3)
    observation_space, action_space = spaces.MultiDiscrete([4, 4]), spaces.MultiDiscrete([3, 3])

    def reset(self, **_: Any) -> tuple[Any, dict[str, Any]]:
        return np.zeros(2, np.int64), {}

    def step(self, actions: Any) -> Any:
        return np.ones(2, np.int64), np.zeros(2), np.zeros(2, bool), np.zeros(2, bool), {}


def test_a_mask_is_not_the_environments_own_memory() -> None:
    """Actors keep the observations of a whole unroll; an environment may write into its mask."""
    inner = Masked("vector", "Discrete")
    observation, _ = ActionMasks(inner).reset(seed=SEED)
    before = observation["action_mask"].copy()
    inner.mask[:] = ~inner.mask
    np.testing.assert_array_equal(observation["action_mask"], before)


@pytest.mark.parametrize("many_envs", [False, True])
@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.ones(4, bool), r"action_masks must be one array of shape \(.*5,?\), .*, got .*True.* True.* True.* True"),
        (np.ones((5, 1), bool), r"action_masks must be one array of shape"),
        (None, r"action_masks must be one array of shape \(.*5,?\), .*, got .*None"),
        ([[1, 0], [1, 1, 1]], r"one after the other, got .*\[\[1, 0\], \[1, 1, 1\]\]"),
    ],
)
def test_masks_of_another_length(mask: Any, message: str, many_envs: bool) -> None:
    class Wrong(Masked):
        def action_masks(self) -> Any:
            return mask

    env: Any = Wrong("vector", "Discrete")
    with pytest.raises(ActionMaskError, match=message) as error:
        ActionMasks(SyncVectorEnv([lambda: env], autoreset_mode=SAME_STEP) if many_envs else env).reset(seed=SEED)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("wrap", [Walk, many])
def test_environments_without_masks(wrap: Any) -> None:
    message = r"must have a method action_masks\(\), or 'action_masks' in its info .*, got info with the keys \[\]"
    with pytest.raises(ActionMaskError, match=message):
        ActionMasks(wrap()).reset(seed=SEED)


def test_a_mask_that_some_rows_lack() -> None:
    vector = SyncVectorEnv([partial(Informed, "vector", "Discrete"), Other], autoreset_mode=SAME_STEP)
    with pytest.raises(ActionMaskError, match=r"got info with the keys \['_action_masks', '_other', 'action_masks'"):
        ActionMasks(vector).reset(seed=SEED)


class Other(Informed):
    key = "other"

    def __init__(self) -> None:
        super().__init__("vector", "Discrete")


@pytest.mark.parametrize("wrap", [lambda env: env, lambda env: SyncVectorEnv([lambda: env], autoreset_mode=SAME_STEP)])
def test_what_cannot_be_masked_is_named(wrap: Any) -> None:
    with pytest.raises(ValueError, match=r"action masks need actions that are Discrete, .*, got Box\("):
        ActionMasks(wrap(Anything("vector", "Box")))
    with pytest.raises(ValueError, match=r"keys of ActionMasks, got \['action_mask'\]"):
        ActionMasks(ActionMasks(wrap(Masked("vector", "Discrete"))))
    with pytest.raises(TypeError, match="Env"):
        ActionMasks("Taxi-v3")  # type: ignore[call-overload]
    with pytest.raises(ValueError, match="SAME_STEP, got NEXT_STEP: build it with"):
        ActionMasks(SyncVectorEnv([partial(Masked, "vector", "Discrete")]))

"""Environments of every kind as a VecEnv, with SB3's own DummyVecEnv as the judge."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.vector.utils import batch_space
from stable_baselines3 import A2C
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecMonitor, VecNormalize, is_vecenv_wrapped

from rmc_rl.vec_env import VectorToVecEnv, make_vec_env
from rmc_rl.wrappers import ActionMasks, PreviousActionReward, VectorPreviousActionReward
from tests.space_envs import Informed, Masked

SEED = 7
SAME_STEP, NEXT_STEP = AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP


class Draw(gym.Env[Any, Any]):
    """Observes random numbers; the reward is the action; episodes of 2 to 6 steps: even ones terminate, odd are cut."""

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"]}
    action_space = spaces.Discrete(4)
    observation_space = spaces.Box(0.0, 1.0, (5,), np.float32)

    def __init__(self, render_mode: str | None = None, bonus: float = 0.0) -> None:
        self.render_mode = render_mode
        self.bonus = bonus

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.clock, self.length = 0, (options or {}).get("length", int(self.np_random.integers(2, 7)))
        return self._observe(), {"length": self.length}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.clock += 1
        ended, odd = self.clock == self.length, self.length % 2 == 1
        info = {"clock": self.clock, "note": "odd" if odd else "even", "nested": {"half": self.clock / 2}}
        return self._observe(), float(action) + self.bonus, ended and not odd, ended and odd, info

    def render(self) -> Any:
        return np.full((4, 6, 3), self.clock, np.uint8)

    def add(self, number: int) -> int:
        return self.clock + number

    def _observe(self) -> Any:
        return self.np_random.uniform(size=5).astype(np.float32)


class Native(VectorEnv[Any, Any, Any]):
    """Counts each row's steps up to 2 + its number, all rows at once and without environments of its own."""

    metadata: ClassVar[dict[str, Any]] = {"autoreset_mode": SAME_STEP, "render_modes": ["rgb_array"]}

    def __init__(self, num_envs: int, render_mode: str | None = None) -> None:
        self.num_envs, self.render_mode = num_envs, render_mode
        self.single_observation_space, self.single_action_space = spaces.Discrete(99), spaces.Discrete(4)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        self.clock = np.zeros(self.num_envs, np.int64)
        return self.clock, {}

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        clock = self.clock + 1
        ended = clock == np.arange(self.num_envs) + 2
        infos: dict[str, Any] = {"version": "1"}
        if ended.any():
            infos |= {"final_obs": clock.astype(object), "_final_obs": ended}
            infos |= {"final_info": {"clock": clock, "_clock": ended}, "_final_info": ended}
        self.clock = np.where(ended, 0, clock)
        return self.clock, actions.astype(np.float64), ended, np.zeros_like(ended), infos

    def render(self) -> tuple[Any, ...]:
        return tuple(np.full((4, 6, 3), clock, np.uint8) for clock in self.clock)

    def add(self, number: int) -> int:
        return number


class NextStepNative(Native):
    metadata: ClassVar[dict[str, Any]] = {"autoreset_mode": NEXT_STEP}


@pytest.fixture(autouse=True, scope="module")
def _register() -> Iterator[None]:
    gym.register("Draw-v0", Draw)
    gym.register("Native-v0", Draw, vector_entry_point=Native)
    gym.register("NextStepNative-v0", Draw, vector_entry_point=NextStepNative)
    yield
    for name in ("Draw-v0", "Native-v0", "NextStepNative-v0"):
        gym.registry.pop(name)


def sync(num_envs: int = 3, mode: AutoresetMode = SAME_STEP, **kwargs: Any) -> SyncVectorEnv:
    return SyncVectorEnv([lambda: Draw(**kwargs)] * num_envs, autoreset_mode=mode)


def dummy(num_envs: int = 3) -> DummyVecEnv:
    return DummyVecEnv([Draw] * num_envs)


@pytest.mark.parametrize("vector_class", [SyncVectorEnv, AsyncVectorEnv])
def test_gives_what_sb3_gives(vector_class: Any) -> None:
    """Observations, rewards, ends, terminal observations, truncation and last infos, step by step and bit by bit."""
    ours, theirs = VectorToVecEnv(vector_class([Draw] * 3, autoreset_mode=SAME_STEP)), dummy()
    generator = np.random.default_rng(SEED)
    assert ours.seed(SEED) == theirs.seed(SEED)
    np.testing.assert_array_equal(ours.reset(), theirs.reset())
    assert ours.reset_infos == theirs.reset_infos
    ends = set()
    for _ in range(40):
        actions = generator.integers(4, size=3)
        (*actual, infos), (*expected, expected_infos) = ours.step(actions), theirs.step(actions)
        for a, b in zip(actual, expected, strict=True):
            np.testing.assert_array_equal(a, b, strict=True)
        for done, info, expected_info in zip(actual[2], infos, expected_infos, strict=True):
            if done:
                ends.add(info["TimeLimit.truncated"])
                np.testing.assert_array_equal(info.pop("terminal_observation"), expected_info["terminal_observation"])
                assert info == {key: expected_info[key] for key in info}
                assert info.keys() == expected_info.keys() - {"terminal_observation"}
            else:
                assert info == {}
        assert ours.reset_infos == theirs.reset_infos
    assert ends == {True, False}
    ours.close()


def test_seeds_hold_for_one_reset() -> None:
    """Row i starts from seed + i; the reset after that goes on with the same generators, as in SB3."""
    env = VectorToVecEnv(sync())
    env.seed(SEED)
    first, second = env.reset(), env.reset()
    for i in range(3):
        np.testing.assert_array_equal(first[i], Draw().reset(seed=SEED + i)[0])
    assert not np.array_equal(first, second)
    env.seed()
    assert not np.array_equal(env.reset(), first)


def test_options_reach_the_environments_once() -> None:
    env = VectorToVecEnv(sync())
    env.set_options({"length": 9})
    env.reset()
    assert env.get_attr("length") == [9, 9, 9]
    env.reset()
    assert 9 not in env.get_attr("length")
    env.set_options([{"length": 1}, {"length": 2}, {"length": 3}])
    with pytest.raises(ValueError, match=r"options must be the same for all rows, got \[.*'length': 2"):
        env.reset()


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.DISABLED, None])
def test_other_autoreset_modes_are_rejected(mode: AutoresetMode | None) -> None:
    env = sync()
    env.metadata["autoreset_mode"] = mode
    with pytest.raises(ValueError, match=r"got (NEXT_STEP|DISABLED|None): build it with .*SAME_STEP.* or pass the id"):
        VectorToVecEnv(env)


def test_nested_observations_are_rejected() -> None:
    with pytest.raises(NotImplementedError, match="Nested observation spaces"):
        VectorToVecEnv(SyncVectorEnv([Nested], autoreset_mode=SAME_STEP))


def test_attributes_and_methods_of_environments() -> None:
    env = VectorToVecEnv(sync())
    env.reset()
    env.set_attr("bonus", 2.5)
    assert env.get_attr("bonus", indices=[0, 2]) == [2.5, 2.5]
    _, rewards, *_ = env.step(np.array([0, 1, 2]))
    assert rewards.tolist() == [2.5, 3.5, 4.5]
    assert env.env_method("add", 10) == [11, 11, 11]
    assert not env.has_attr("malus")
    assert env.has_attr("add")


def test_asking_for_an_attribute_does_no_harm_to_other_processes() -> None:
    env = VectorToVecEnv(AsyncVectorEnv([Draw] * 2, autoreset_mode=SAME_STEP))
    assert not env.has_attr("malus")
    assert env.has_attr("bonus")
    assert env.reset().shape == (2, 5)  # type: ignore[union-attr]
    env.close()


def test_attributes_and_methods_of_a_vector_environment_without_environments() -> None:
    env = VectorToVecEnv(PreviousActionReward(Native(3)))
    env.set_attr("label", "x")
    assert env.get_attr("label", indices=1) == ["x"]
    assert env.env_method("add", 10) == [10, 10, 10]
    assert not env.has_attr("malus")


def test_setting_some_rows_only_is_rejected() -> None:
    """Rather than done to all of them."""
    env = VectorToVecEnv(sync())
    for touch in (lambda: env.set_attr("bonus", 1.0, indices=[0, 2]), lambda: env.env_method("add", 1, indices=1)):
        with pytest.raises(ValueError, match="indices must be None or name all 3 rows, got "):
            touch()


def test_env_is_wrapped_sees_vector_wrappers() -> None:
    assert VectorToVecEnv(PreviousActionReward(sync())).env_is_wrapped(VectorPreviousActionReward) == [True] * 3
    assert VectorToVecEnv(sync()).env_is_wrapped(VectorPreviousActionReward, indices=0) == [False]


@pytest.mark.parametrize("make", [sync, Native])
def test_rendering(make: Callable[..., VectorEnv[Any, Any, Any]]) -> None:
    env = VectorToVecEnv(make(3, render_mode="rgb_array"))
    env.reset()
    assert [frame.shape for frame in env.get_images() if frame is not None] == [(4, 6, 3)] * 3
    tiles = env.render()
    assert tiles is not None
    assert tiles.shape == (8, 12, 3)
    assert VectorToVecEnv(make(3)).get_images() == [None] * 3


KINDS: dict[str, Callable[[], Any]] = {
    "id": lambda: make_vec_env("Draw-v0", 3),
    "id with a vector class": lambda: make_vec_env("Native-v0", 3),
    "callable": lambda: make_vec_env(Draw, 3),
    "environment": lambda: make_vec_env(Draw()),
    "vector environment": lambda: make_vec_env(sync()),
    "VecEnv": lambda: make_vec_env(dummy()),
    "VecEnv with VecMonitor": lambda: make_vec_env(VecNormalize(VecMonitor(dummy()), norm_reward=False)),
    "VecEnv with Monitor": lambda: make_vec_env(DummyVecEnv([lambda: Monitor(Draw())])),
    "callable with Monitor": lambda: make_vec_env(lambda: Monitor(Draw()), 2),
    "vector environment with Monitor": lambda: make_vec_env(
        SyncVectorEnv([lambda: Monitor(Draw())], autoreset_mode=SAME_STEP)
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_reports_each_episode_once(kind: str) -> None:
    env: VecEnv = KINDS[kind]()
    env.reset()
    returns, lengths = np.zeros(env.num_envs), np.zeros(env.num_envs, np.int64)
    episodes = 0
    for step in range(30):
        actions = (np.arange(env.num_envs) + step) % 4
        _, rewards, dones, infos = env.step(actions)
        np.testing.assert_array_equal(rewards, actions)
        returns += rewards
        lengths += 1
        for i, info in enumerate(infos):
            assert ("episode" in info) == dones[i]
            if dones[i]:
                assert (info["episode"]["r"], info["episode"]["l"]) == (returns[i], lengths[i])
                assert info["clock"] == lengths[i]
                returns[i] = lengths[i] = 0
                episodes += 1
    assert episodes > 4
    monitors = env.env_is_wrapped(Monitor)[0] + is_vecenv_wrapped(env, VecMonitor)
    assert monitors == 1


@pytest.mark.parametrize(
    "make",
    [
        lambda: make_vec_env("Draw-v0", 3, previous_action_reward=True),
        lambda: make_vec_env("Native-v0", 3, previous_action_reward=True),
        lambda: make_vec_env(Draw, 3, previous_action_reward=True),
        lambda: make_vec_env(sync(), previous_action_reward=True),
    ],
)
def test_previous_action_and_reward_of_every_kind(make: Callable[[], VecEnv]) -> None:
    env = make()
    env.reset()
    observations, *_ = env.step(np.array([3, 0, 2]))
    assert isinstance(observations, dict)
    np.testing.assert_array_equal(observations["previous_action"], np.eye(4)[[3, 0, 2]])
    np.testing.assert_array_equal(observations["previous_reward"], [[3.0], [0.0], [2.0]])


@pytest.mark.parametrize(
    "make",
    [
        lambda: make_vec_env(partial(Masked, "vector", "Discrete"), 3),
        lambda: make_vec_env(Masked("vector", "Discrete")),
        lambda: make_vec_env(SyncVectorEnv([partial(Masked, "vector", "Discrete")] * 3, autoreset_mode=SAME_STEP)),
        lambda: make_vec_env(AsyncVectorEnv([partial(Masked, "vector", "Discrete")] * 3, autoreset_mode=SAME_STEP)),
        lambda: make_vec_env(DummyVecEnv([lambda: ActionMasks(Masked("vector", "Discrete"))] * 3)),
        lambda: make_vec_env(lambda: ActionMasks(Informed("vector", "Discrete")), 3),
        lambda: make_vec_env(lambda: ActionMasks(Masked("vector", "Discrete")), 3),
    ],
)
def test_masks_are_observed_once(make: Callable[[], VecEnv]) -> None:
    """By themselves where there is a method; where they are observed already, they stay."""
    env = make()
    observations: Any = env.reset()
    assert set(observations) == {"action_mask", "observation"}
    assert observations["action_mask"].shape == (env.num_envs, 5)
    assert (observations["action_mask"].sum(axis=1) == 3).all()
    env.close()


def test_masks_are_observed_beside_previous_actions() -> None:
    env = make_vec_env(partial(Masked, "vector", "Discrete"), 3, previous_action_reward=True)
    assert set(env.reset()) == {"action_mask", "observation", "previous_action", "previous_reward"}


def test_an_id_runs_all_rows_at_once_where_its_vector_class_can() -> None:
    assert isinstance(make_vec_env("Native-v0", 3).unwrapped, VectorToVecEnv)
    assert isinstance(make_vec_env("NextStepNative-v0", 3).unwrapped, DummyVecEnv)
    assert isinstance(make_vec_env("Draw-v0", 3).unwrapped, DummyVecEnv)


def test_env_kwargs_reach_ids_and_callables() -> None:
    assert make_vec_env("Draw-v0", 2, {"bonus": 1.5}).get_attr("bonus") == [1.5, 1.5]
    assert make_vec_env(Draw, 2, {"bonus": 1.5}).get_attr("bonus") == [1.5, 1.5]
    assert make_vec_env("Native-v0", 2, {"render_mode": "rgb_array"}).render_mode == "rgb_array"


def test_sb3_trains_and_evaluates_on_a_vector_environment() -> None:
    env = make_vec_env(sync(), previous_action_reward=True)
    model = A2C("MultiInputPolicy", env, n_steps=4, policy_kwargs={"net_arch": [8]}, device="cpu").learn(48)
    returns, lengths = evaluate_policy(model, env, n_eval_episodes=5, return_episode_rewards=True)
    assert len(returns) == len(lengths) == 5
    assert model.ep_info_buffer


SHARED = Draw()
MASKED: Callable[[], Any] = partial(Masked, "vector", "Discrete")


class Nested(Draw):
    observation_space = spaces.Dict({"outer": spaces.Dict({"inner": Draw.observation_space})})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: make_vec_env("Nothing-v3"), "env must be a registered id, got 'Nothing-v3'"),
        (lambda: make_vec_env("no_such_module:Draw-v0"), "'no_such_module:Draw-v0': No module named 'no_such_module'"),
        (lambda: make_vec_env(5), "env must be an id, a callable, .* got 5"),
        (lambda: make_vec_env(dict), r"env must make one gymnasium.Env a call, got \{\}"),
        (lambda: make_vec_env(lambda: SHARED, 2), "returned the same instance"),
        (lambda: make_vec_env(Draw, 0), "n_envs must be a whole number of at least 1, got 0"),
        (lambda: make_vec_env(sync(3), 2), "n_envs must be left out or 3, as many as env has, got 2"),
        (lambda: make_vec_env(Draw(), 2), "n_envs must be left out or 1, as many as env has, got 2"),
        (lambda: make_vec_env(dummy(), env_kwargs={"a": 1}), r"env_kwargs must be empty .* got \{'a': 1\}"),
        (lambda: make_vec_env(dummy(), previous_action_reward=True), "previous_action_reward must be False"),
        (lambda: make_vec_env(sync(mode=NEXT_STEP)), "got NEXT_STEP: build it with"),
        (
            lambda: make_vec_env(DummyVecEnv([MASKED])),
            "env has action_masks that .*: wrap its environments in ActionMasks",
        ),
        (
            lambda: make_vec_env(VectorToVecEnv(SyncVectorEnv([MASKED], autoreset_mode=SAME_STEP))),
            "env has action_masks",
        ),
        (
            lambda: make_vec_env(Nested, previous_action_reward=True),
            "that is not nested, got .*; gymnasium.wrappers.FlattenO",
        ),
        (lambda: make_vec_env(SyncVectorEnv([Nested], autoreset_mode=SAME_STEP)), "that is not nested, got "),
    ],
)
def test_illegal_arguments_are_named(make: Callable[[], VecEnv], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()

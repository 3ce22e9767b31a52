"""Scenes: every moment of every game is shown once, the first and the last included, with the right numbers."""

from collections.abc import Iterator
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from agents.evaluate import evaluate
from agents.watch import Scene, cut, make_visible_env, make_watched_env, pace, play, watch
from rmc_rl.policies import GRUPolicy
from rmc_rl.vec_env import make_vec_env

LENGTHS = [3, 1, 2]


class Countdown(gym.Env[NDArray[np.float32], int]):
    """Episodes of LENGTHS steps in turn; its frames say which episode and step they show, 1 is added to no reward."""

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"], "render_fps": 12}
    observation_space = gym.spaces.Box(0, 1, (2,), np.float32)
    action_space = gym.spaces.Discrete(3)

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode = render_mode
        self.episode = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[NDArray[np.float32], dict[str, Any]]:
        super().reset(seed=seed)
        self.episode, self.step_number = self.episode + 1, 0
        return np.zeros(2, np.float32), {"level": 1}

    def step(self, action: int) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        self.step_number += 1
        ended = self.step_number == LENGTHS[(self.episode - 1) % len(LENGTHS)]
        info = {"level": 1 + self.step_number}
        return np.zeros(2, np.float32), 10.0 * self.step_number + action, ended, False, info

    def render(self) -> NDArray[np.uint8]:
        return np.full((4, 5, 3), 10 * self.episode + self.step_number, np.uint8)


@pytest.fixture(autouse=True)
def _registered() -> Iterator[None]:
    gym.register("Countdown-v0", Countdown, disable_env_checker=True)
    gym.register("Blind-v0", lambda: gym.make("Countdown-v0"), disable_env_checker=True)
    yield
    del gym.registry["Countdown-v0"], gym.registry["Blind-v0"]


def agent() -> GRUPolicy:
    torch.manual_seed(0)
    return GRUPolicy(Countdown.observation_space, Countdown.action_space, core_kwargs={"hidden_size": 6})


def pictures(scenes: list[Scene]) -> list[int]:
    return [int(scene.frame[0, 0, 0]) for scene in scenes]


def test_an_agents_game_is_shown_from_the_first_moment_to_the_last() -> None:
    """A VecEnv has begun the next episode when a step returns: an ending would be lost if frames were drawn then."""
    scenes = list(cut(watch(agent(), make_watched_env("Countdown-v0"), seed=0), episodes=3))
    assert pictures(scenes) == [10, 11, 12, 13, 20, 21, 30, 31, 32]
    assert [scene.episode for scene in scenes] == [1] * 4 + [2] * 2 + [3] * 3
    assert [scene.step for scene in scenes] == [0, 1, 2, 3, 0, 1, 0, 1, 2]
    assert [scene.level for scene in scenes] == [1, 2, 3, 4, 1, 2, 1, 2, 3]
    assert [scene.ended for scene in scenes] == [False] * 3 + [True, False, True, False, False, True]


def test_returns_are_those_of_evaluation() -> None:
    """What is watched is what is measured: the same rollout, seed for seed."""
    policy = agent()
    evaluation = evaluate(policy, make_vec_env("Countdown-v0"), episodes=4, seed=5)
    torch.manual_seed(5)
    scenes = cut(watch(policy, make_watched_env("Countdown-v0"), seed=5), episodes=4)
    assert [scene.episode_return for scene in scenes if scene.ended] == evaluation.returns.tolist()


def test_a_person_plays_the_actions_that_are_chosen() -> None:
    actions = iter([2, 0, 1, 2])
    scenes = list(cut(play(make_visible_env("Countdown-v0"), lambda: next(actions), seed=0), episodes=2))
    assert pictures(scenes) == [10, 11, 12, 13, 20, 21]
    assert [scene.episode_return for scene in scenes] == [0, 12, 32, 63, 0, 12]


def test_a_choice_is_asked_for_only_when_the_scene_before_it_has_been_shown() -> None:
    """Or a person would act before seeing."""
    asked = []
    scenes = play(make_visible_env("Countdown-v0"), lambda: asked.append(1) or 0, seed=0)
    next(scenes)
    assert not asked
    next(scenes)
    assert len(asked) == 1


def test_the_previous_action_and_reward_are_passed_on() -> None:
    env = make_watched_env("Countdown-v0", previous_action_reward=True)
    policy = GRUPolicy(env.observation_space, env.action_space, core_kwargs={"hidden_size": 6})
    assert len(list(cut(watch(policy, env, seed=0), max_scenes=7))) == 7


@pytest.mark.parametrize(
    ("env_id", "kwargs", "message"),
    [
        ("Unheard-v0", {}, "cannot make Unheard-v0"),
        ("no_such_module:Thing-v0", {}, "cannot make no_such_module:Thing-v0"),
        ("Blind-v0", {}, "cannot make Blind-v0 with render_mode='rgb_array'"),
        ("Countdown-v0", {"size": 3}, "size"),
    ],
)
def test_what_cannot_be_shown_says_so(env_id: str, kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_watched_env(env_id, kwargs)


def test_watch_refuses_an_environment_that_forgets_frames() -> None:
    with pytest.raises(ValueError, match=r"make_watched_env, got one with render_mode 'rgb_array'"):
        watch(agent(), make_vec_env("Countdown-v0", env_kwargs={"render_mode": "rgb_array"}), seed=0)


def test_watch_refuses_another_agents_environment() -> None:
    with pytest.raises(ValueError, match="Observation spaces do not match"):
        watch(agent(), make_watched_env("Countdown-v0", previous_action_reward=True), seed=0)


def test_the_pace_is_the_environments_own() -> None:
    assert pace(make_watched_env("Countdown-v0")) == pace(make_visible_env("Countdown-v0")) == 12


@pytest.mark.parametrize(
    ("episode_return", "level", "text"),
    [
        (57.0, 2, "episode 3: return 57, level 2, 41 steps"),
        (np.float32(-0.3), None, "episode 3: return -0.3, 41 steps"),
        (1234567.0, None, "episode 3: return 1234567, 41 steps"),
    ],
)
def test_a_scene_tells_its_score_plainly(episode_return: float, level: int | None, text: str) -> None:
    """Neither float32's extra digits nor an exponent."""
    scene = Scene(np.zeros((1, 1, 3), np.uint8), 3, 41, float(episode_return), level, True)
    assert str(scene) == text

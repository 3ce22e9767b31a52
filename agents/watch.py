"""Games to look at, an agent's or a person's, as one stream of scenes for a window or a video."""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple, Self

import gymnasium as gym
import numpy as np
from gymnasium.wrappers import RenderCollection
from numpy.typing import NDArray
from stable_baselines3.common.utils import check_for_correct_spaces
from stable_baselines3.common.vec_env import VecEnv

from rmc_rl.policies import RecurrentPolicy
from rmc_rl.vec_env import make_vec_env

from .evaluate import rollout

DEFAULT_PACE = 30.0


class Scene(NamedTuple):
    """One moment of a game."""

    frame: NDArray[np.uint8]
    """[height, width, 3]."""
    episode: int
    """Counted from 1."""
    step: int
    """Steps since the episode began: 0 in its first scene."""
    episode_return: float
    """Sum of the rewards so far."""
    level: int | None
    """Where the game has levels (`info["level"]`)."""
    ended: bool
    """The episode's last scene."""

    @classmethod
    def opening(cls, frame: NDArray[np.uint8], episode: int, info: Mapping[str, Any]) -> Self:
        return cls(frame, episode, 0, 0.0, _level(info), False)

    def after(self, frame: NDArray[np.uint8], reward: float, info: Mapping[str, Any], ended: bool) -> Self:
        """The scene one step later."""
        episode_return = self.episode_return + float(reward)
        return type(self)(frame, self.episode, self.step + 1, episode_return, _level(info), ended)

    def __str__(self) -> str:
        level = "" if self.level is None else f"level {self.level}, "
        total = f"{round(self.episode_return, 2):.12g}"
        return f"episode {self.episode}: return {total}, {level}{self.step} steps"


def _level(info: Mapping[str, Any]) -> int | None:
    return int(info["level"]) if "level" in info else None


def make_visible_env(env_id: str, env_kwargs: Mapping[str, Any] | None = None) -> gym.Env[Any, Any]:
    """One environment that draws frames.

    Raises:
        ValueError: an unknown id, illegal arguments, or an environment without `render_mode="rgb_array"`.
    """
    try:
        env = gym.make(env_id, **{**(env_kwargs or {}), "render_mode": "rgb_array"})
    except (gym.error.Error, ImportError, TypeError) as error:
        raise ValueError(f"cannot make {env_id} with render_mode='rgb_array': {error}") from error
    if env.render_mode != "rgb_array":
        raise ValueError(f"{env_id} draws no frames: it has no render_mode 'rgb_array'")
    return env


def make_watched_env(
    env_id: str, env_kwargs: Mapping[str, Any] | None = None, previous_action_reward: bool = False
) -> VecEnv:
    """The environment for `watch`: a single row that keeps every frame until it is fetched.

    A VecEnv begins the next episode within the step that ends one, and so could never show how it ended.

    Raises:
        ValueError: as `make_visible_env`.
    """
    env = RenderCollection(make_visible_env(env_id, env_kwargs), reset_clean=False)
    return make_vec_env(env, previous_action_reward=previous_action_reward)


def watch(policy: RecurrentPolicy, env: VecEnv, seed: int, deterministic: bool = False) -> Iterator[Scene]:
    """An agent's games, one after another for ever, in an environment of `make_watched_env`.

    Actions are sampled from torch's global generator.

    Raises:
        ValueError: another environment, or one whose spaces are not the policy's.
    """
    if env.render_mode != "rgb_array_list":
        raise ValueError(f"env must come from make_watched_env, got one with render_mode {env.render_mode!r}")
    check_for_correct_spaces(env, policy.observation_space, policy.action_space)
    return _watch(policy, env, seed, deterministic)


def _watch(policy: RecurrentPolicy, env: VecEnv, seed: int, deterministic: bool) -> Iterator[Scene]:
    scene: Scene | None = None
    for step in rollout(policy, env, seed, deterministic):
        frames = iter(env.env_method("render")[0])  # all since the last step; the next episode's first may be there
        if scene is None:
            scene = Scene.opening(next(frames), 1, env.unwrapped.reset_infos[0])
            yield scene
        scene = scene.after(next(frames), step.rewards[0], step.infos[0], bool(step.dones[0]))
        yield scene
        if scene.ended:
            scene = Scene.opening(next(frames), scene.episode + 1, env.unwrapped.reset_infos[0])
            yield scene


def play(env: gym.Env[Any, Any], choose: Callable[[], Any], seed: int) -> Iterator[Scene]:
    """Games in an environment of `make_visible_env`, for ever, with the actions that `choose` returns when asked."""
    for episode in itertools.count(1):
        _, info = env.reset(seed=seed if episode == 1 else None)
        scene = Scene.opening(_frame(env), episode, info)
        yield scene
        while not scene.ended:
            _, reward, terminated, truncated, info = env.step(choose())
            scene = scene.after(_frame(env), float(reward), info, bool(terminated or truncated))
            yield scene


def _frame(env: gym.Env[Any, Any]) -> NDArray[np.uint8]:
    return np.asarray(env.render(), np.uint8)


def cut(scenes: Iterable[Scene], episodes: int | None = None, max_scenes: int | None = None) -> Iterator[Scene]:
    """The scenes of the first `episodes` games, and no more than `max_scenes`; None for no limit."""
    for scene in itertools.islice(scenes, max_scenes):
        yield scene
        if scene.ended and scene.episode == episodes:
            return


def pace(env: gym.Env[Any, Any] | VecEnv) -> float:
    """The steps per second at which the environment wants to be shown."""
    metadata = env.get_attr("metadata")[0] if isinstance(env, VecEnv) else env.metadata
    return float(metadata.get("render_fps") or DEFAULT_PACE)

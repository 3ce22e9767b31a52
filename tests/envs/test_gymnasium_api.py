"""What Gymnasium and Stable-Baselines3 expect of the environments, and that one game and many are the same game."""

import itertools
import warnings
from typing import Any

import gymnasium
import numpy as np
import pytest
import stable_baselines3.common.env_checker
from gymnasium.utils.env_checker import check_env, data_equivalence
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import envs
from envs import MiniPacmanEnv, MiniPacmanVectorEnv

from .literal_rules import MODES

KINDS = [("rgb", 5), ("rgb", None), ("planes", 7), ("planes", None), ("planes", "centred")]
ID = "envs:MiniPacman-v0"


@pytest.mark.parametrize(("observation", "viewport"), KINDS)
def test_gymnasiums_checker_is_content(observation: str, viewport: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a single warning, rendering in every mode included."""
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    for mode in MODES:
        env = gymnasium.make(ID, mode=mode, observation=observation, viewport=viewport)
        check_env(env.unwrapped)


@pytest.mark.parametrize(("observation", "viewport"), KINDS)
def test_stable_baselines3s_checker_is_content(observation: str, viewport: Any) -> None:
    """It takes whatever has three axes for an image, small ones and float ones being poor images."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        stable_baselines3.common.env_checker.check_env(MiniPacmanEnv(observation=observation, viewport=viewport))
    messages = [str(warning.message) for warning in caught]
    assert all("image" in message for message in messages)
    if observation == "rgb":
        assert all("36x36" in message for message in messages)


def test_make_adds_no_wrapper_and_no_time_limit() -> None:
    env = gymnasium.make(ID)
    assert isinstance(env, MiniPacmanEnv)
    assert env.spec is not None
    assert env.spec.max_episode_steps is None
    assert isinstance(gymnasium.make_vec(ID, num_envs=3), MiniPacmanVectorEnv)


def test_names_are_found_lazily() -> None:
    assert set(envs.__all__) <= set(dir(envs)) | {"MiniPacmanEnv", "MiniPacmanVectorEnv"}
    with pytest.raises(AttributeError, match="Pong"):
        _ = envs.Pong


def same(a: Any, b: Any) -> bool:
    return bool(data_equivalence(a, b, exact=True))


@pytest.mark.parametrize(("mode", "observation", "viewport"), [("regular", "rgb", 5), ("avoid", "planes", None)])
def test_the_vector_environment_is_gymnasiums_own_made_fast(mode: str, observation: str, viewport: int | None) -> None:
    """Step by step the same as SyncVectorEnv over single environments: observations, rewards, ends, infos, masks."""
    options: dict[str, Any] = {"mode": mode, "observation": observation, "viewport": viewport, "frame_cap": 37}
    ours = gymnasium.make_vec(ID, num_envs=7, **options)
    theirs = SyncVectorEnv([lambda: gymnasium.make(ID, **options)] * 7, autoreset_mode=AutoresetMode.SAME_STEP)
    assert ours.observation_space == theirs.observation_space
    assert ours.single_observation_space == theirs.single_observation_space
    assert ours.action_space == theirs.action_space
    assert ours.metadata["autoreset_mode"] == theirs.metadata["autoreset_mode"]
    assert same(ours.reset(seed=123), theirs.reset(seed=123))
    rng = np.random.default_rng(0)
    ends = 0
    for step in range(400):
        actions = rng.integers(5, size=7)
        ours_result, theirs_result = ours.step(actions), theirs.step(actions)
        assert same(ours_result, theirs_result), step
        ends += "final_obs" in ours_result[4]
        if step == 150:
            mask = np.arange(7) % 3 == 0
            seeds = [11, None, 12, None, 13, None, 14]
            again = [env.reset(seed=list(seeds), options={"reset_mask": mask}) for env in (ours, theirs)]
            assert same(*again)
    assert ends > 30


def play(env: Any, steps: int, seed: int) -> list[Any]:
    """Observations, rewards and ends of a random player, over several episodes."""
    rng = np.random.default_rng(seed)
    seen = []
    for _ in range(steps):
        observation, reward, terminated, truncated, _ = env.step(int(rng.integers(5)))
        seen.append((observation, reward, terminated, truncated))
        if terminated or truncated:
            env.reset()
    return seen


def test_a_row_depends_on_its_own_seed_and_actions_alone() -> None:
    """Neither the neighbors nor the number of rows matter, over many episodes."""
    rng = np.random.default_rng(3)
    actions = rng.integers(5, size=(300, 9))
    small, large = MiniPacmanVectorEnv(2), MiniPacmanVectorEnv(9)
    small.reset(seed=[40, 6])
    large.reset(seed=[1, 2, 6, 4, 5, 6, 7, 40, 9])
    for step in range(300):
        ours = small.step(actions[step, [7, 2]])
        theirs = large.step(actions[step])
        for mine, other in zip(ours[:4], theirs[:4], strict=True):
            np.testing.assert_array_equal(mine, other[[7, 2]])


def test_seeds_make_games() -> None:
    """The same seed gives the same game; neighboring seeds, and none, give games that differ."""
    env = MiniPacmanEnv(viewport=None)
    first = env.reset(seed=5)[0], play(env, 200, seed=0)
    assert same((env.reset(seed=5)[0], play(env, 200, seed=0)), first)
    starts = {env.reset(seed=seed)[0].tobytes() for seed in range(300)}
    assert len(starts) == 300
    assert not same(env.reset()[0], env.reset()[0])
    assert not same(MiniPacmanEnv(viewport=None).reset()[0], MiniPacmanEnv(viewport=None).reset()[0])
    vector = MiniPacmanVectorEnv(300, viewport=None)
    assert len({observation.tobytes() for observation in vector.reset()[0]}) == 300


def test_reset_without_a_seed_goes_on_with_the_random_numbers() -> None:
    env = MiniPacmanEnv(viewport=None)
    env.reset(seed=8)
    after = [env.reset()[0] for _ in range(3)]
    env.reset(seed=8)
    assert same([env.reset()[0] for _ in range(3)], after)


def test_the_seed_that_gymnasium_reports_gives_the_game_again() -> None:
    env = MiniPacmanEnv(viewport=None)
    first, _ = env.reset()
    assert same(env.reset(seed=env.np_random_seed)[0], first)


def test_returned_arrays_stay_as_they_are() -> None:
    vector = MiniPacmanVectorEnv(4)
    kept = [vector.reset(seed=0)[0]]
    copies = [kept[0].copy()]
    infos: list[Any] = []
    for _ in range(100):
        observations, rewards, terminated, truncated, info = vector.step(np.full(4, 1))
        for array in (observations, rewards, terminated, truncated, info["score"], info["food_left"]):
            kept.append(array)
            copies.append(array.copy())
        infos.append(info)
    for array, copy in zip(kept, copies, strict=True):
        np.testing.assert_array_equal(array, copy)
    assert not any(np.shares_memory(a["score"], b["score"]) for a, b in itertools.pairwise(infos))


def test_info() -> None:
    env = MiniPacmanEnv("rush")
    _, info = env.reset(seed=0)
    assert info == {"level": 1, "score": 0.0, "power": 0, "food_left": 138}
    total = 0.0
    for action in np.random.default_rng(1).integers(5, size=40).tolist():
        _, reward, terminated, _, info = env.step(action)
        total += reward
        assert info["score"] == total
        if terminated:
            break


def test_the_pictures_of_many_games() -> None:
    vector = MiniPacmanVectorEnv(3, render_mode="rgb_array")
    vector.reset(seed=0)
    frames = vector.render()
    assert frames is not None
    assert [frame.shape for frame in frames] == [(528, 608, 3)] * 3

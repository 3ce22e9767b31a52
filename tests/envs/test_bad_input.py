"""What is illegal is refused with the field, the value and what would be legal, before anything changes."""

from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import data_equivalence

from envs import MiniPacmanEnv, MiniPacmanVectorEnv

WRONG_ARGUMENTS = [
    ({"mode": "easy"}, r"mode must be one of 'regular', 'avoid', 'hunt', 'ambush', 'rush', got 'easy'"),
    ({"mode": None}, r"mode must be one of .*, got None"),
    ({"viewport": 6}, r"viewport must be odd, from 5 to 37, or, for the whole maze, None or 'centred', got 6"),
    ({"viewport": 3}, r"viewport .* got 3"),
    ({"viewport": 39}, r"viewport .* got 39"),
    ({"viewport": "5"}, r"viewport .* got '5'"),
    ({"observation": "pixels"}, r"observation must be one of 'rgb', 'planes', got 'pixels'"),
    ({"render_mode": "video"}, r"render_mode must be one of None, .*, got 'video'"),
    ({"frame_cap": -1}, r"frame_cap must be an integer from 0 to \d+, got -1"),
    ({"frame_cap": 2.5}, r"frame_cap must be an integer from 0 to \d+, got 2.5"),
]


@pytest.mark.parametrize(("arguments", "message"), WRONG_ARGUMENTS)
def test_wrong_arguments(arguments: dict[str, Any], message: str) -> None:
    for make in (MiniPacmanEnv, lambda **kwargs: MiniPacmanVectorEnv(2, **kwargs)):
        with pytest.raises(ValueError, match=message):
            make(**arguments)


@pytest.mark.parametrize("num_envs", [0, -3, 1.5, None])
def test_wrong_number_of_games(num_envs: Any) -> None:
    with pytest.raises(ValueError, match=r"num_envs must be an integer from 1 to \d+, got"):
        MiniPacmanVectorEnv(num_envs)


@pytest.mark.parametrize("action", [-1, 5, 2**70, 1.0, "up", None, [1], np.array([1])])
def test_wrong_action(action: Any) -> None:
    env = MiniPacmanEnv()
    env.reset(seed=0)
    before = env.get_state()
    with pytest.raises(ValueError, match="action must be an integer from 0 to 4, got"):
        env.step(action)
    assert env.get_state()["frame"] == before["frame"]


@pytest.mark.parametrize("action", [1, np.int64(1), np.uint8(1), np.array(1)])
def test_any_integer_is_an_action(action: Any) -> None:
    env = MiniPacmanEnv()
    env.reset(seed=0)
    env.step(action)


@pytest.mark.parametrize(
    ("actions", "message"),
    [
        (np.array([0, 1, 5]), "actions must be integers from 0 to 4, got 5"),
        (np.array([0, -1, 2]), "actions must be integers from 0 to 4, got -1"),
        (np.array([0, 2**63, 2], np.uint64), "actions must be integers from 0 to 4, got 9223372036854775808"),
        (np.array([0, 1]), r"actions must be integers of shape \(3,\), got int64 of shape \(2,\)"),
        (np.array([[0], [1], [2]]), r"actions must be integers of shape \(3,\), got int64 of shape \(3, 1\)"),
        (np.array([0.0, 1.0, 2.0]), r"actions must be integers of shape \(3,\), got float64"),
        (np.array([True, False, True]), r"actions must be integers of shape \(3,\), got bool"),
        (2, r"actions must be integers of shape \(3,\), got int64 of shape \(\)"),
    ],
)
def test_wrong_actions(actions: Any, message: str) -> None:
    vector = MiniPacmanVectorEnv(3)
    vector.reset(seed=0)
    with pytest.raises(ValueError, match=message):
        vector.step(actions)
    assert [vector.get_state(row)["frame"] for row in range(3)] == [0, 0, 0]


def test_any_integers_are_actions() -> None:
    vector = MiniPacmanVectorEnv(3)
    vector.reset(seed=0)
    for actions in ([0, 1, 2], np.array([0, 1, 2], np.int8), np.arange(6)[::2] // 2, np.array([0, 1, 2], np.uint64)):
        vector.step(actions)  # type: ignore[arg-type]


def test_a_game_comes_before_its_steps() -> None:
    env = MiniPacmanEnv(render_mode="ansi")
    for call in (lambda: env.step(0), env.get_state, env.observe, env.render):
        with pytest.raises(gymnasium.error.ResetNeeded, match=r"reset\(\)"):
            call()
    vector = MiniPacmanVectorEnv(2)
    for call in (lambda: vector.step(np.zeros(2, int)), lambda: vector.get_state(1), vector.observe, vector.render):
        with pytest.raises(gymnasium.error.ResetNeeded, match=r"reset\(\)"):
            call()


def test_no_step_after_the_end() -> None:
    env = MiniPacmanEnv(frame_cap=1, render_mode="ansi")
    env.reset(seed=0)
    assert env.step(0)[3]
    with pytest.raises(gymnasium.error.ResetNeeded, match=r"over: call reset\(\)"):
        env.step(0)
    assert env.get_state()["frame"] == 1
    assert "regular" in env.render()
    env.reset()
    env.step(0)


@pytest.mark.parametrize("seed", [-1, "seven", 1.5])
def test_wrong_seed(seed: Any) -> None:
    with pytest.raises(gymnasium.error.Error, match="Seed must be"):
        MiniPacmanEnv().reset(seed=seed)
    with pytest.raises(gymnasium.error.Error, match="Seed must be"):
        MiniPacmanVectorEnv(1).reset(seed=[seed])


def test_a_wrong_seed_among_right_ones_changes_nothing() -> None:
    vector = MiniPacmanVectorEnv(2)
    vector.reset(seed=0)
    before = vector.get_state(0)
    with pytest.raises(gymnasium.error.Error, match="Seed must be"):
        vector.reset(seed=[5, -1])
    assert data_equivalence(vector.get_state(0), before, exact=True)


@pytest.mark.parametrize("mask", [[True, False], np.array([1, 0]), np.array([True]), np.array([False, False])])
def test_wrong_mask(mask: Any) -> None:
    vector = MiniPacmanVectorEnv(2)
    vector.reset(seed=0)
    with pytest.raises(ValueError, match=r"options\['reset_mask'\] must"):
        vector.reset(options={"reset_mask": mask})


def test_wrong_rows() -> None:
    vector = MiniPacmanVectorEnv(2)
    with pytest.raises(gymnasium.error.ResetNeeded, match="leaves out a row"):
        vector.reset(options={"reset_mask": np.array([True, False])})
    with pytest.raises(ValueError, match="seed must have one entry for each of the 2 rows, got 3"):
        vector.reset(seed=[1, 2, 3])
    with pytest.raises(ValueError, match=r"seed must be an integer, a list with one entry .*got 1\.5"):
        vector.reset(seed=1.5)  # type: ignore[arg-type]
    vector.reset()
    for row in (-1, 2, "first"):
        with pytest.raises(ValueError, match="row must be an integer from 0 to 1, got"):
            vector.get_state(row)  # type: ignore[arg-type]

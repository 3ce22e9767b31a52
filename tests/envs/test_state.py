"""Any position can be set up, and a game goes on from it exactly."""

import json
from typing import Any

import numpy as np
import pytest
from gymnasium.utils.env_checker import data_equivalence

from envs import MiniPacmanEnv, MiniPacmanVectorEnv

from .positions import food_at, position


def played(steps: int, mode: str = "rush") -> MiniPacmanEnv:
    env = MiniPacmanEnv(mode, viewport=None)
    env.reset(seed=4)
    rng = np.random.default_rng(steps)
    for _ in range(steps):
        if any(env.step(int(rng.integers(5)))[2:4]):
            env.reset()
    return env


def follow(env: MiniPacmanEnv, steps: int = 300) -> list[Any]:
    rng = np.random.default_rng(9)
    seen = []
    for _ in range(steps):
        seen.append(env.step(int(rng.integers(5))))
        if any(seen[-1][2:4]):
            seen.append(env.reset())
    return seen


@pytest.mark.parametrize("mode", ["regular", "avoid", "rush"])
def test_a_game_goes_on_exactly(mode: str) -> None:
    """In another environment, after a detour through JSON, and in a row of a vector environment."""
    env = played(25, mode)
    state = env.get_state()
    text = json.dumps({name: np.asarray(value).tolist() for name, value in state.items()})
    expected = follow(env)
    other = MiniPacmanEnv(mode, viewport=None)
    other.set_state(json.loads(text))
    assert data_equivalence(follow(other), expected, exact=True)

    vector = MiniPacmanVectorEnv(3, mode, viewport=None)
    vector.reset(seed=77)
    vector.set_state(1, state)
    rng = np.random.default_rng(9)
    for result in (result for result in expected if len(result) == 5):
        observations, rewards, *_, info = vector.step(np.full(3, rng.integers(5)))
        np.testing.assert_array_equal(info["final_obs"][1] if any(result[2:4]) else observations[1], result[0])
        assert rewards[1] == result[1]


def test_the_state_is_a_copy_that_comes_back_as_it_was() -> None:
    env = played(25)
    state = env.get_state()
    assert set(state) == {*position(), "generator"}
    env.set_state(state)
    assert data_equivalence(env.get_state(), state, exact=True)
    frozen = env.observe()
    for value in state.values():
        if isinstance(value, np.ndarray):
            value[...] = 0
    np.testing.assert_array_equal(env.observe(), frozen)


def test_without_a_generator_the_random_numbers_go_on() -> None:
    env = played(25)
    state = env.get_state()
    generator = state.pop("generator")
    env.step(0)
    later = env.get_state()["generator"]
    env.set_state(state)
    np.testing.assert_array_equal(env.get_state()["generator"], later)
    assert not np.array_equal(generator, later)


def test_no_reset_is_needed() -> None:
    env = MiniPacmanEnv("hunt")
    env.set_state(position())
    env.step(1)
    vector = MiniPacmanVectorEnv(2)
    vector.set_state(1, position())
    assert vector.get_state(1)["level"] == 1
    vector.set_state(0, position())
    vector.step(np.zeros(2, int))
    assert not np.array_equal(vector.get_state(0)["generator"], vector.get_state(1)["generator"])
    ended = MiniPacmanEnv(frame_cap=1)
    ended.reset(seed=0)
    ended.step(0)
    ended.set_state(position())
    assert ended.step(0)[4]["food_left"] == 1


def test_odd_but_possible_positions() -> None:
    """All that the rules can go on from: no food, no ghost, no pill, all of them at once, and a late frame."""
    env = MiniPacmanEnv(frame_cap=10)
    env.set_state(position(food=food_at(), frame=500))
    assert env.step(0)[1:4] == (0, False, True)
    env.set_state(position(pills=[(1, 1)] * 16, ghosts=[(3, 3)] * 256, facings=[5] * 256, power=20, level=999))
    env.step(0)
    assert len(env.get_state()["ghosts"]) >= 255


WRONG = [
    ({"food": np.ones((15, 19), bool)}, r"food must be on free cells only, got some in the wall at \(0, 0\)"),
    ({"food": np.zeros((19, 15), bool)}, r"food must be bool \[15, 19\], got bool \[19, 15\]"),
    ({"food": np.full((15, 19), 0.5)}, r"food must be bool \[15, 19\], got float64"),
    ({"food": [[True], [True, False]]}, r"food must be bool"),
    ({"pills": [(0, 0)]}, r"pills must be at most 16 pairs .* got \(0, 0\), which is no free cell"),
    ({"pills": [(1, 1, 1)]}, "pills must be"),
    ({"pills": (1, 1)}, "pills must be"),
    ({"pills": [(1, 1), (1,)]}, "pills must be"),
    ({"pills": [(1.0, 1.0)]}, "pills must be"),
    ({"pills": [(1, 1)] * 17}, "pills must be at most 16 .* got 17"),
    ({"pacman": (0, 0)}, r"pacman must be the pair \(row, column\) of a free cell, got \(0, 0\)"),
    ({"pacman": (-1, 1)}, r"pacman must be .* got \(-1, 1\)"),
    ({"pacman": (1, 19)}, r"pacman must be .* got \(1, 19\)"),
    ({"pacman": (1, 1, 1)}, "pacman must be"),
    ({"pacman": []}, "pacman must be"),
    ({"pacman": None}, "pacman must be"),
    ({"ghosts": [(2, 2)], "facings": [0]}, r"ghosts must be .* got \(2, 2\), which is no free cell"),
    ({"ghosts": [(1, 1)] * 257, "facings": [0] * 257}, "ghosts must be at most 256 .* got 257"),
    ({"ghosts": [(1, 1)], "facings": [6]}, r"facings must be 1 integers from 0 to 5, one for each ghost, got \[6\]"),
    ({"ghosts": [(1, 1)], "facings": [-1]}, "facings must be"),
    ({"ghosts": [(1, 1)], "facings": []}, "facings must be"),
    ({"facings": [0]}, "facings must be 0 integers"),
    ({"power": 21}, "power must be an integer from 0 to 20, got 21"),
    ({"power": -1}, "power must be"),
    ({"power": 1.5}, "power must be"),
    ({"timer": -1}, "timer must be an integer from 0"),
    ({"frame": -1}, "frame must be an integer from 0"),
    ({"frame": 2**40}, "frame must be an integer from 0"),
    ({"level": 0}, "level must be an integer from 1"),
    ({"score": float("nan")}, "score must be a finite number, got nan"),
    ({"score": "many"}, "score must be a finite number, got 'many'"),
    ({"generator": [0, 0, 0, 0]}, "generator must be 4 integers .* not all 0"),
    ({"generator": [1, 2, 3]}, "generator must be 4 integers"),
    ({"generator": [1, 2, 3, -4]}, "generator must be 4 integers"),
    ({"generator": [1, 2, 3, 2**64]}, "generator must be 4 integers"),
    ({"generator": 7}, "generator must be 4 integers"),
    ({"speed": 1}, r"unknown: \['speed'\]"),
]


@pytest.mark.parametrize(("changes", "message"), WRONG)
def test_impossible_states_are_refused_and_change_nothing(changes: dict[str, Any], message: str) -> None:
    env = played(5)
    before = env.get_state()
    with pytest.raises(ValueError, match=message):
        env.set_state(position() | changes)
    assert data_equivalence(env.get_state(), before, exact=True)


@pytest.mark.parametrize("name", position())
def test_every_field_is_needed(name: str) -> None:
    state = position()
    del state[name]
    with pytest.raises(ValueError, match=rf"missing: \['{name}'\]"):
        MiniPacmanEnv().set_state(state)

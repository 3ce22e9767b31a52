"""What holds in every game, whatever is played."""

from typing import Any

import hypothesis.strategies as st
from hypothesis import given, settings

from envs import MiniPacmanEnv

from .literal_rules import FREE, MODES

# Long runs of one action take Pacman further than single random ones.
ACTIONS = st.lists(st.tuples(st.integers(0, 4), st.integers(1, 12)), min_size=1, max_size=40)


@settings(max_examples=200)
@given(mode=st.sampled_from(list(MODES)), seed=st.integers(0, 2**64), frame_cap=st.integers(1, 200), runs=ACTIONS)
def test_a_game_keeps_its_rules(mode: str, seed: int, frame_cap: int, runs: list[tuple[int, int]]) -> None:
    env = MiniPacmanEnv(mode, frame_cap=frame_cap)
    observation, info = env.reset(seed=seed)
    before, total = env.get_state(), 0.0
    for action in (action for action, times in runs for _ in range(times)):
        observation, reward, terminated, truncated, info = env.step(action)
        after = env.get_state()
        total += reward
        assert observation in env.observation_space
        check_position(after)
        check_change(before, after)
        assert info == {
            "level": after["level"],
            "score": total,
            "power": after["power"],
            "food_left": after["food"].sum(),
        }
        assert not (terminated and truncated)
        assert truncated == (after["frame"] == frame_cap and not terminated)
        if terminated or truncated:
            break
        before = after


def check_position(state: dict[str, Any]) -> None:
    """Nobody and nothing is in a wall, and every number in its range."""
    for cell in (state["pacman"], *state["pills"], *state["ghosts"]):
        assert tuple(cell) in FREE
    assert {tuple(cell) for cell in zip(*state["food"].nonzero(), strict=True)} <= set(FREE)
    assert 0 <= state["power"] <= 20
    assert len(state["facings"]) == len(state["ghosts"])
    assert len(state["pills"]) <= 2


def check_change(before: dict[str, Any], after: dict[str, Any]) -> None:
    """A step changes little."""
    assert after["frame"] == before["frame"] + 1
    assert 0 <= after["level"] - before["level"] <= 1
    if after["level"] > before["level"]:
        return
    assert after["timer"] == before["timer"] + 1
    assert abs(after["pacman"] - before["pacman"]).sum() <= 1
    assert not (after["food"] & ~before["food"]).any()
    assert before["food"].sum() - after["food"].sum() <= 1
    assert len(before["pills"]) - len(after["pills"]) in (0, 1)
    assert after["power"] == (20 if len(after["pills"]) < len(before["pills"]) else max(before["power"] - 1, 0))
    assert len(before["ghosts"]) - len(after["ghosts"]) in (0, 1)
    if len(after["ghosts"]) == len(before["ghosts"]):
        assert (abs(after["ghosts"] - before["ghosts"]).sum(axis=1) <= 1).all()
    else:
        assert after["power"] > 0

"""The rules one by one, each from a position set up for it."""

from collections import Counter
from typing import Any

import numpy as np
import pytest

from .literal_rules import FREE, MODES
from .positions import DOWN, LEFT, RIGHT, STAY, UP, env_at, food_at, many_at, position

CROSSING = (3, 3)  # exits right, up, left and down
TEE = (5, 6)  # exits right, left and down: the wall is above
CORRIDOR = (3, 8)  # exits right and left
BEND = (1, 1)  # exits right and down
SURE = 6  # the level from which on a ghost without power always moves


def moved_ghosts(env: Any, action: int = STAY) -> list[tuple[tuple[int, int], int]]:
    """Positions and facings of the ghosts after one step."""
    env.step(action)
    state = env.get_state()
    return [
        (tuple(cell), facing) for cell, facing in zip(state["ghosts"].tolist(), state["facings"].tolist(), strict=True)
    ]


def one_ghost(cell: tuple[int, int], facing: int, pacman: tuple[int, int], **changes: Any) -> Any:
    return env_at(**{"ghosts": [cell], "facings": [facing], "pacman": pacman, "level": SURE} | changes)


# --- Pacman ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("action", "target"), [(STAY, (3, 3)), (RIGHT, (3, 4)), (UP, (2, 3)), (LEFT, (3, 2)), (DOWN, (4, 3))]
)
def test_actions_move_pacman(action: int, target: tuple[int, int]) -> None:
    env = env_at(pacman=CROSSING)
    env.step(action)
    assert tuple(env.get_state()["pacman"]) == target


def test_walls_stop_pacman() -> None:
    for action in (UP, LEFT):
        env = env_at(pacman=(1, 1))
        env.step(action)
        assert tuple(env.get_state()["pacman"]) == (1, 1)


def test_food_under_pacman_is_eaten_by_staying() -> None:
    """A level starts with food under Pacman, and a reset does not eat it."""
    env = env_at(food=food_at((1, 1), (13, 17)))
    _, reward, *_, info = env.step(STAY)
    assert (reward, info["food_left"]) == (1, 1)
    env.reset(seed=3)
    assert env.get_state()["food"].sum() == len(FREE)


def test_one_pill_is_taken_a_step() -> None:
    env = env_at(pills=[(1, 2), (1, 2)])
    assert [env.step(action)[1] for action in (RIGHT, STAY, STAY)] == [2, 2, 0]
    assert env.get_state()["power"] == 19


def test_power_falls_before_it_is_renewed_or_used() -> None:
    env = env_at(power=1)
    env.step(STAY)
    assert env.get_state()["power"] == 0
    env = env_at(power=5, pills=[(1, 2)])
    _, _, _, _, info = env.step(RIGHT)
    assert info["power"] == 20
    _, reward, terminated, _, _ = env_at(power=1, ghosts=[(1, 2)], facings=[0]).step(RIGHT)
    assert (reward, terminated) == (0, True)


@pytest.mark.parametrize("mode", MODES)
def test_rewards_of_the_mode(mode: str) -> None:
    rewards = MODES[mode]
    near = {"food": food_at((1, 2), (13, 17)), "pills": [(9, 9)], "level": 1}
    assert env_at(mode).step(STAY)[1] == rewards.step
    assert env_at(mode, **near).step(RIGHT)[1] == rewards.step + rewards.food
    assert env_at(mode, pills=[(1, 2), (9, 9)]).step(RIGHT)[1] == rewards.step + rewards.pill
    two = {"ghosts": [(1, 2), (9, 9)], "facings": [0, 0]}
    assert env_at(mode, **two, power=9).step(RIGHT)[1] == rewards.step + rewards.ghost
    _, reward, terminated, _, _ = env_at(mode, **two).step(RIGHT)
    # The ghost may come back to Pacman only if it stays; facing right, it leaves the corridor's cell or waits.
    assert (reward, terminated) == (rewards.step + rewards.death, True)


# --- Collisions ------------------------------------------------------------------------------------------------------


def test_a_ghost_that_lands_on_pacman_kills() -> None:
    env = one_ghost((3, 9), 2, (3, 8), mode="hunt")
    _, reward, terminated, truncated, _ = env.step(STAY)
    assert (reward, terminated, truncated) == (-20, True, False)


def test_two_ghosts_kill_twice() -> None:
    """A death does not stop the others, and each is paid."""
    env = env_at("hunt", ghosts=[(3, 7), (3, 9)], facings=[0, 2], pacman=(3, 8), level=SURE)
    assert env.step(STAY)[1] == -40


def test_the_ghost_that_has_killed_still_moves() -> None:
    env = one_ghost(CORRIDOR, 0, CORRIDOR, mode="hunt")
    _, reward, terminated, _, _ = env.step(STAY)
    assert (reward, terminated) == (-20, True)
    assert tuple(env.get_state()["ghosts"][0]) == (3, 9)


@pytest.mark.parametrize(("facing", "lands"), [(1, TEE), (5, TEE), (4, (6, 6)), (0, (5, 7)), (3, (6, 6))])
def test_a_ghost_that_shares_pacmans_junction_keeps_its_facing(facing: int, lands: tuple[int, int]) -> None:
    """Up is a wall there, the left-like facing leads down and the down-like nowhere: who stays collides once more."""
    env = one_ghost(TEE, facing, TEE, mode="hunt")
    assert env.step(STAY)[1] == (-40 if lands == TEE else -20)
    state = env.get_state()
    assert (tuple(state["ghosts"][0]), state["facings"][0]) == (lands, facing)


def test_one_ghost_is_eaten_a_step_and_the_others_wait() -> None:
    env = env_at("regular", ghosts=[(1, 2), (1, 2), (3, 8)], facings=[0, 0, 0], power=15, level=40)
    assert env.step(RIGHT)[1] == 5
    assert env.get_state()["ghosts"].tolist() == [[1, 2], [3, 8]]


def test_ghosts_before_the_eaten_one_have_moved() -> None:
    env = env_at("regular", ghosts=[(3, 8), (1, 2), (3, 8)], facings=[0, 0, 0], power=15, level=40)
    env.step(RIGHT)
    assert env.get_state()["ghosts"].tolist() == [[3, 9], [3, 8]]


def test_eaten_ghosts_do_not_come_back() -> None:
    env = env_at("regular", ghosts=[(1, 2)], facings=[0], power=15)
    env.step(RIGHT)
    for _ in range(30):
        env.step(STAY)
    assert len(env.get_state()["ghosts"]) == 0


# --- How ghosts move -------------------------------------------------------------------------------------------------


def test_in_a_corridor_the_facing_is_kept() -> None:
    for facing, target in ((0, (3, 9)), (2, (3, 7))):
        assert moved_ghosts(one_ghost(CORRIDOR, facing, (3, 1))) == [(target, facing)]


@pytest.mark.parametrize(
    ("facing", "turned"),
    # The bend opens right and down. Left and its like have the reverse right, up and its like's reverse is down.
    [(0, 0), (3, 3), (1, 0), (2, 3), (4, 3), (5, 0)],
)
def test_in_a_bend_the_first_way_is_taken_that_is_no_reverse(facing: int, turned: int) -> None:
    target = (1, 2) if turned == 0 else (2, 1)
    assert moved_ghosts(one_ghost(BEND, facing, (13, 1))) == [(target, turned)]


def ghost_cells(state: dict[str, Any], rows: int) -> Counter[tuple[int, int]]:
    """Where the one ghost is after one step of many games."""
    vector = many_at(state, "regular", rows)
    vector.step(np.zeros(rows, np.int64))
    return Counter(tuple(vector.get_state(row)["ghosts"][0].tolist()) for row in range(rows))


@pytest.mark.parametrize(
    ("pacman", "facing", "power", "target", "share"),
    [
        ((3, 8), 0, 0, (3, 4), 0.95 + 0.05 / 3),  # chases, but at random once in twenty times
        ((3, 8), 2, 0, (2, 3), 0.95 + 0.05 / 3),  # right would be the way back; up is the first of the ties
        ((5, 5), 1, 0, (3, 4), 0.95 + 0.05 / 3),  # right before down, which are as good, and down is the way back
        ((3, 8), 0, 9, (2, 3), 1),  # flees: left is the way back, up the first of the ties
        ((3, 1), 0, 9, (3, 4), 1),  # flees
    ],
)
def test_at_a_crossing_ghosts_chase_or_flee(
    pacman: tuple[int, int], facing: int, power: int, target: tuple[int, int], share: float
) -> None:
    state = position(ghosts=[CROSSING], facings=[facing], pacman=pacman, power=power and power + 1, level=40)
    cells = ghost_cells(state, 4000)
    assert cells.most_common(1)[0] == (target, pytest.approx(4000 * share, abs=60))


@pytest.mark.parametrize(
    ("level", "power", "speed"), [(1, 0, 0.5), (4, 0, 0.8), (6, 0, 1), (8, 0, 1), (1, 9, 0.25), (8, 9, 0.6)]
)
def test_ghost_speed(level: int, power: int, speed: float) -> None:
    """It is halved before it is cut: 1.2 becomes 0.6 at level 8."""
    state = position(ghosts=[CORRIDOR], facings=[0], level=level, power=power and power + 1)
    cells = ghost_cells(state, 6000)
    assert cells[CORRIDOR] == pytest.approx(6000 * (1 - speed), abs=150)


# --- Levels and ends -------------------------------------------------------------------------------------------------


def last_of(goal: str) -> tuple[dict[str, Any], int]:
    """A position and an action that reaches the goal."""
    return {
        "food": ({"food": food_at((1, 2))}, RIGHT),
        "pills": ({"pills": [(1, 2)], "food": food_at((13, 17))}, RIGHT),
        "ghosts": ({"ghosts": [(1, 2)], "facings": [0], "power": 9}, RIGHT),
    }[goal]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("goal", ["food", "pills", "ghosts"])
def test_a_level_ends_with_the_modes_goal_and_no_other(mode: str, goal: str) -> None:
    changes, action = last_of(goal)
    *_, info = env_at(mode, **changes).step(action)
    assert info["level"] == (2 if MODES[mode].goal == goal else 1)


@pytest.mark.parametrize("mode", MODES)
def test_only_avoid_has_a_time_limit(mode: str) -> None:
    env = env_at(mode, timer=126)
    assert [env.step(STAY)[4]["level"] for _ in range(2)] == ([1, 2] if mode == "avoid" else [1, 1])


def test_a_new_level_starts_over_but_for_the_score_and_the_frames() -> None:
    env = env_at("regular", food=food_at((1, 2)), level=6, frame=700, timer=90, score=55.0, power=12)
    env.step(RIGHT)
    state = env.get_state()
    assert (state["level"], state["frame"], state["timer"], state["score"]) == (
        7,
        701,
        0,
        56 + 2 * (state["power"] == 20),
    )
    assert len(state["ghosts"]) == 4
    assert state["food"].sum() == len(FREE)
    assert len(state["pills"]) == 2 - (state["power"] == 20)


@pytest.mark.parametrize(("level", "ghosts"), [(1, 2), (2, 2), (3, 3), (4, 3), (9, 6), (600, 256)])
def test_every_second_level_brings_one_more_ghost(level: int, ghosts: int) -> None:
    """The given number is that of the level after; 256 is as many as there is room for."""
    env = env_at("rush", pills=[(1, 2)], level=level + (level % 2))
    env.step(RIGHT)
    assert len(env.get_state()["ghosts"]) == ghosts


def test_the_frame_cap_truncates() -> None:
    env = env_at(frame_cap=3)
    assert [env.step(STAY)[2:4] for _ in range(3)] == [(False, False), (False, False), (False, True)]
    env = env_at(frame_cap=0, frame=10**6)
    assert env.step(STAY)[2:4] == (False, False)


def test_a_death_on_the_last_frame_is_a_termination_only() -> None:
    env = env_at(ghosts=[(1, 2)], facings=[0], frame=2999)
    assert env.step(RIGHT)[2:4] == (True, False)

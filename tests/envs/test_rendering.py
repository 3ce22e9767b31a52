"""Frames and text are functions of the game alone, and need no display."""

import subprocess
import sys
from typing import Any

import gymnasium
import numpy as np
import pytest

from envs import MiniPacmanEnv, MiniPacmanVectorEnv

from .positions import position


def frame_of(viewport: int | None = 5, **changes: Any) -> np.ndarray:
    env = MiniPacmanEnv(viewport=viewport, render_mode="rgb_array")
    env.set_state(position(**changes))
    frame = env.render()
    assert frame.shape == (528, 608, 3)
    assert frame.dtype == np.uint8
    return np.asarray(frame, np.int64)


def cell(frame: np.ndarray, row: int, column: int) -> np.ndarray:
    """The pixels of one maze cell."""
    return frame[48 + 32 * row : 80 + 32 * row, 32 * column : 32 * column + 32]


def test_a_frame_shows_who_is_where() -> None:
    everybody = frame_of(None, pacman=(3, 3), ghosts=[(3, 9)], facings=[0], pills=[(5, 5)])
    nobody = frame_of(None, pacman=(1, 1))
    changed = {
        (row, column)
        for row in range(15)
        for column in range(19)
        if (cell(everybody, row, column) != cell(nobody, row, column)).any()
    }
    assert changed == {(3, 3), (3, 9), (5, 5), (1, 1)}
    red, green, blue = cell(everybody, 3, 3).max(axis=(0, 1))
    assert min(red, green) > 200 > 60 > blue  # Pacman is yellow


def test_ghosts_turn_blue_and_flicker_as_power_ends() -> None:
    ghost = {"ghosts": [(3, 9)], "facings": [0]}
    looks = [cell(frame_of(None, power=power, **ghost), 3, 9).tobytes() for power in (0, 20, 7, 6, 5, 4)]
    dangerous, *edible = looks
    assert edible[0] == edible[1] == edible[2] == edible[4] != edible[3]
    assert dangerous not in edible


def test_what_the_viewport_hides_is_dimmed() -> None:
    whole, seen = frame_of(None, pacman=(7, 4)), frame_of(5, pacman=(7, 4))
    np.testing.assert_array_equal(cell(seen, 7, 4), cell(whole, 7, 4))
    outside = cell(seen, 7, 12)
    assert (outside <= cell(whole, 7, 12)).all()
    assert outside.sum() < 0.6 * cell(whole, 7, 12).sum()


def test_pacman_faces_the_way_of_the_last_move() -> None:
    env = MiniPacmanEnv(viewport=None, render_mode="rgb_array")
    faces = []
    for action in (1, 2, 3, 4):
        env.set_state(position(pacman=(3, 3)))
        env.step(action)
        row, column = env.get_state()["pacman"]
        faces.append(cell(env.render(), row, column).tobytes())
    assert len(set(faces)) == 4


def test_the_same_state_gives_the_same_frame() -> None:
    np.testing.assert_array_equal(frame_of(power=3, score=12.5), frame_of(power=3, score=12.5))
    assert (frame_of(score=12.5) != frame_of(score=13.5)).any()


def test_text() -> None:
    env = MiniPacmanEnv("hunt", render_mode="ansi")
    env.set_state(position(ghosts=[(1, 9)], facings=[0], pills=[(3, 3)], score=2.5, power=4))
    lines = env.render().splitlines()
    assert lines[0] == "hunt  level 1  score 2.5  power 4"
    assert lines[2] == "#C  #    w    #   #"
    assert lines[4][3] == "o"
    assert lines[14][17] == "."
    env.set_state(position(ghosts=[(1, 9)], facings=[0]))
    assert env.render().splitlines()[2] == "#C  #    M    #   #"


def test_many_games_as_text() -> None:
    vector = MiniPacmanVectorEnv(3, render_mode="ansi")
    vector.reset(seed=0)
    texts = vector.render()
    assert texts is not None
    assert len(set(texts)) == 3
    assert MiniPacmanVectorEnv(1).render_mode is None


def test_no_mode_renders_nothing() -> None:
    env, vector = MiniPacmanEnv(), MiniPacmanVectorEnv(2)
    env.reset(seed=0)
    vector.reset(seed=0)
    assert env.render() is None
    assert vector.render() is None


def test_a_window_shows_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    import pygame

    env = MiniPacmanEnv(render_mode="human", viewport=7)
    env.reset(seed=0)
    env.step(1)
    shown = pygame.surfarray.array3d(pygame.display.get_surface()).swapaxes(0, 1)
    plain = MiniPacmanEnv(render_mode="rgb_array", viewport=7)
    plain.reset(seed=0)
    plain.step(1)
    np.testing.assert_array_equal(shown, plain.render())
    assert env.render() is None
    env.close()
    env.close()
    assert not pygame.display.get_init()


def test_a_window_outlives_those_of_other_games(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    first, second = (MiniPacmanEnv(render_mode="human") for _ in range(2))
    for env in (first, second):
        env.reset(seed=0)
    first.close()
    second.step(0)
    second.close()


def test_without_a_display_the_error_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SDL_VIDEODRIVER", "nothing of the kind")
    env = MiniPacmanEnv(render_mode="human")
    with pytest.raises(gymnasium.error.Error, match=r"needs a display .*'rgb_array'"):
        env.reset(seed=0)
    env.close()


def test_only_drawing_loads_pygame_and_it_says_nothing() -> None:
    code = """
import sys, gymnasium
env = gymnasium.make("envs:MiniPacman-v0", render_mode="ansi")
env.reset(seed=0)
env.render()
assert "pygame" not in sys.modules
env = gymnasium.make("envs:MiniPacman-v0", render_mode="rgb_array")
env.reset(seed=0)
env.render()
assert "pygame" in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == ""

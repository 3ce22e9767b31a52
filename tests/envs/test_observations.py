"""What is seen, against a picture painted cell by cell from the state."""

from typing import Any

import numpy as np
import pytest

from envs import MiniPacmanEnv, MiniPacmanVectorEnv

from .literal_rules import MAZE
from .positions import position, random_position

VIEWPORTS: list[int | str | None] = [*range(5, 38, 2), None, "centred"]


def expected_rgb(state: dict[str, Any]) -> np.ndarray:
    """The whole maze, [15, 19, 3]: painted over in rising priority."""
    image = np.zeros((15, 19, 3))
    image[np.array([list(line) for line in MAZE]) == "#"] = (1, 1, 1)
    image[np.array(state["food"], bool)] = (0, 0, 1)
    for cell in state["pills"]:
        image[tuple(cell)] = (0, 1, 1)
    for cell in state["ghosts"]:
        image[tuple(cell)] = (1, state["power"] / 20, 0)
    image[tuple(state["pacman"])] = (0, 1, 0)
    return np.rint(255 * image).astype(np.uint8)


def expected_planes(state: dict[str, Any]) -> np.ndarray:
    """The whole maze, [15, 19, 6]."""
    planes = np.zeros((15, 19, 6), np.float32)
    planes[..., 0] = np.array([list(line) for line in MAZE]) == "#"
    planes[..., 1] = state["food"]
    planes[(*state["pacman"], 2)] = 1
    for cell in state["ghosts"]:
        planes[(*cell, 3)] = 1 - state["power"] / 20
        planes[(*cell, 4)] = state["power"] / 20
    for cell in state["pills"]:
        planes[(*cell, 5)] = 1
    return planes


def cropped(image: np.ndarray, pacman: Any, viewport: Any) -> np.ndarray:
    if viewport is None:
        return image
    if viewport == "centred":
        return np.roll(image, (7 - pacman[0], 9 - pacman[1]), axis=(0, 1))
    wall = np.zeros(image.shape[-1])
    wall[: 1 if image.shape[-1] == 6 else 3] = image.max()
    padded = np.tile(wall, (15 + 40, 19 + 40, 1)).astype(image.dtype)
    padded[20:35, 20:39] = image
    top, left = pacman[0] + 20 - viewport // 2, pacman[1] + 20 - viewport // 2
    return padded[top : top + viewport, left : left + viewport]


@pytest.mark.parametrize("viewport", VIEWPORTS)
def test_every_viewport_shows_what_is_there(viewport: Any) -> None:
    """From crowded positions everywhere in the maze, with any power; beyond the maze everything is wall."""
    rng = np.random.default_rng(VIEWPORTS.index(viewport))
    rgb, planes = MiniPacmanEnv(viewport=viewport), MiniPacmanEnv(viewport=viewport, observation="planes")
    for power in range(21):
        state = random_position(rng) | {"power": power}
        for env, expected in ((rgb, expected_rgb(state)), (planes, expected_planes(state))):
            env.set_state(state)
            np.testing.assert_array_equal(env.observe(), cropped(expected, state["pacman"], viewport))
            assert env.observe() in env.observation_space


def test_the_corners_of_the_maze() -> None:
    """The largest viewport shows the whole maze from every corner."""
    env = MiniPacmanEnv(viewport=37)
    for pacman in ((1, 1), (1, 17), (13, 1), (13, 17)):
        state = position(pacman=pacman)
        env.set_state(state)
        np.testing.assert_array_equal(env.observe(), cropped(expected_rgb(state), pacman, 37))
        assert (env.observe() == (0, 0, 255)).all(axis=-1).sum() == (pacman != (13, 17))


def test_an_episode_in_both_ways_of_seeing() -> None:
    """The observation that `step` returns is that of the state after it, also where a level has just ended."""
    options: dict[str, Any] = {"num_envs": 16, "mode": "avoid", "viewport": 9}
    rgb, planes = MiniPacmanVectorEnv(**options), MiniPacmanVectorEnv(**options, observation="planes")
    rgb.reset(seed=0)
    planes.reset(seed=0)
    rng = np.random.default_rng(0)
    for _ in range(200):
        actions = rng.integers(5, size=16)
        images, layers = rgb.step(actions)[0], planes.step(actions)[0]
        for row in range(16):
            state = rgb.get_state(row)
            np.testing.assert_array_equal(images[row], cropped(expected_rgb(state), state["pacman"], 9))
            np.testing.assert_array_equal(layers[row], cropped(expected_planes(state), state["pacman"], 9))

"""Positions to play from, and ways to play them."""

from typing import Any

import numpy as np

from envs import MiniPacmanEnv, MiniPacmanVectorEnv

from .literal_rules import FREE

STAY, RIGHT, UP, LEFT, DOWN = range(5)  # actions; facings are one less


def position(**changes: Any) -> dict[str, Any]:
    """A quiet state: Pacman in the upper left corner, one crumb of food far away, and nobody else."""
    state: dict[str, Any] = {
        "food": food_at((13, 17)),
        "pills": [],
        "pacman": (1, 1),
        "ghosts": [],
        "facings": [],
        "power": 0,
        "timer": 0,
        "frame": 0,
        "level": 1,
        "score": 0.0,
    }
    return state | changes


def food_at(*cells: tuple[int, int]) -> np.ndarray:
    food = np.zeros((15, 19), bool)
    for cell in cells:
        food[cell] = True
    return food


def env_at(mode: str = "regular", *, seed: int = 0, frame_cap: int = 3000, **changes: Any) -> MiniPacmanEnv:
    """An environment in a position."""
    env = MiniPacmanEnv(mode, frame_cap=frame_cap)
    env.reset(seed=seed)
    env.set_state(position(**changes))
    return env


def many_at(state: dict[str, Any], mode: str, num_envs: int, *, seed: int = 0) -> MiniPacmanVectorEnv:
    """Many games in the same position, with generators of their own."""
    vector = MiniPacmanVectorEnv(num_envs, mode, frame_cap=0)
    vector.reset(seed=seed)
    generators = vector._batch.games["generator"].copy()
    vector.set_state(0, state)
    vector._batch.games[:] = vector._batch.games[0]
    vector._batch.games["generator"] = generators
    return vector


def random_position(rng: np.random.Generator) -> dict[str, Any]:
    """A position with ghosts and pills close to Pacman, where things happen."""
    pacman = FREE[rng.integers(len(FREE))]
    near = [cell for cell in FREE if abs(cell[0] - pacman[0]) + abs(cell[1] - pacman[1]) <= 3]

    def some(most: int) -> list[tuple[int, int]]:
        return [near[index] for index in rng.integers(len(near), size=rng.integers(most + 1))]

    ghosts = some(3)
    return position(
        food=food_at(*(cell for cell in FREE if rng.random() < 0.5)),
        pills=some(3),
        pacman=pacman,
        ghosts=ghosts,
        facings=rng.integers(6, size=len(ghosts)).tolist(),
        power=int(rng.choice([0, 0, 1, 2, 12])),
        timer=int(rng.choice([0, 50, 126, 127])),
        level=int(rng.choice([1, 2, 5, 8])),
    )

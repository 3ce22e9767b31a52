"""Many games side by side: what the single and the vector environment share."""

import operator
from typing import Any, NamedTuple

import gymnasium
import numpy as np
import numpy.typing as npt

from . import rules
from .game import GAME, INFO
from .maze import COLUMNS, MAX_VIEWPORT, ROWS
from .modes import MODES

Array = npt.NDArray[Any]
CHANNELS = {"rgb": 3, "planes": 6}


class Outcome(NamedTuple):
    """What one step returns for N games, and for the E of them that ended and started anew (in order of their rows)."""

    observations: Array  # [N, height, width, channels]
    rewards: npt.NDArray[np.float64]  # [N]
    terminated: npt.NDArray[np.bool_]  # [N]
    truncated: npt.NDArray[np.bool_]  # [N]
    infos: Array  # [N] of INFO
    final_rows: npt.NDArray[np.int64]  # [E]
    final_observations: Array  # [E, height, width, channels]
    final_infos: Array  # [E] of INFO


class GameBatch:
    """N games of one mode, seen in one way. Each row has its own generator; `started` says which rows are in play."""

    def __init__(self, num_games: int, mode: str, viewport: int | None, observation: str, frame_cap: int) -> None:
        height, width = _window(viewport)
        if observation not in CHANNELS:
            raise ValueError(f"observation must be one of {', '.join(map(repr, CHANNELS))}, got {observation!r}")
        self._shape = (height, width, CHANNELS[observation])
        self._dtype = np.uint8 if observation == "rgb" else np.float32
        self.observation_space = gymnasium.spaces.Box(0, 255 if observation == "rgb" else 1, self._shape, self._dtype)
        self.games = np.zeros(num_games, GAME)
        self.games["mode"] = _mode_index(mode)
        self.games["frame_cap"] = _frame_cap(frame_cap)
        self.started = np.zeros(num_games, np.bool_)
        # Scratch for games that end; a step copies out what it needs.
        self._final_rows = np.empty(num_games, np.int64)
        self._final_observations = self._empty_observations()
        self._final_infos = np.empty(num_games, INFO)

    def seed(self, row: int, np_random: np.random.Generator) -> None:
        """Draw a row's generator from NumPy's."""
        self.games["generator"][row] = np_random.integers(2**64, size=4, dtype=np.uint64)

    def start(self, rows: Array) -> None:
        """Start a new episode in each of the given rows, int64 [any]."""
        rules.start(self.games, rows)
        self.started[rows] = True

    def observe(self) -> tuple[Array, Array]:
        """The present observations, [N, height, width, channels], and infos, [N] of INFO."""
        observations, infos = self._empty_observations(), np.empty(len(self.games), INFO)
        rules.observe_all(self.games, observations, infos)
        return observations, infos

    def step(self, actions: npt.NDArray[np.int64], *, autoreset: bool) -> Outcome:
        """Play one step of every game. Without `autoreset`, a game that ends is no longer in play, and E is 0."""
        count = len(self.games)
        observations, infos = self._empty_observations(), np.empty(count, INFO)
        rewards, terminated, truncated = np.empty(count), np.empty(count, np.bool_), np.empty(count, np.bool_)
        ended = rules.step(
            self.games,
            actions,
            autoreset,
            observations,
            rewards,
            terminated,
            truncated,
            infos,
            self._final_rows,
            self._final_observations,
            self._final_infos,
        )
        final = (self._final_rows[:ended], self._final_observations[:ended], self._final_infos[:ended])
        return Outcome(observations, rewards, terminated, truncated, infos, *final)

    def _empty_observations(self) -> Array:
        return np.empty((len(self.games), *self._shape), self._dtype)


def _mode_index(mode: str) -> int:
    if mode not in MODES:
        raise ValueError(f"mode must be one of {', '.join(map(repr, MODES))}, got {mode!r}")
    return MODES.index(mode)


def _window(viewport: int | None) -> tuple[int, int]:
    """Height and width of what is seen."""
    if viewport is None:
        return ROWS, COLUMNS
    size = integer("viewport", viewport, f"an odd integer from 5 to {MAX_VIEWPORT}, or None for the whole maze")
    if size % 2 == 0 or not 5 <= size <= MAX_VIEWPORT:
        raise ValueError(
            f"viewport must be an odd integer from 5 to {MAX_VIEWPORT}, or None for the whole maze, got {viewport!r}"
        )
    return size, size


def _frame_cap(frame_cap: int) -> int:
    cap = integer("frame_cap", frame_cap, "an integer of at least 0 (0: no cap)")
    if not 0 <= cap < 2**31:
        raise ValueError(f"frame_cap must be an integer from 0 (no cap) to {2**31 - 1}, got {frame_cap!r}")
    return cap


def integer(name: str, value: Any, legal: str) -> int:
    """`value` as a Python integer; raises ValueError, saying what is legal, where it is none."""
    try:
        return operator.index(value)
    except TypeError:
        raise ValueError(f"{name} must be {legal}, got {value!r}") from None

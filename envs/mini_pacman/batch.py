"""Many games side by side: what the single and the vector environment share."""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import gymnasium
import numpy as np
import numpy.typing as npt

from . import rules
from .checks import integer, one_of
from .game import GAME, INFO
from .maze import COLUMNS, MAX_VIEWPORT, ROWS
from .modes import MODES
from .observation import paint_planes, paint_rgb
from .state import read_state, write_state

Array = npt.NDArray[Any]
Rows = npt.NDArray[np.int64]

NUM_ACTIONS = 5
OBSERVATIONS = ("rgb", "planes")
Viewport = int | Literal["centred"] | None
"""What is seen: see `MiniPacmanEnv`."""


class Outcome(NamedTuple):
    """What one step of N games brings, and the rows of the E games that ended in it."""

    rewards: npt.NDArray[np.float64]  # [N]
    terminated: npt.NDArray[np.bool_]  # [N]
    truncated: npt.NDArray[np.bool_]  # [N]
    ended: Rows  # [E]


class GameBatch:
    """N games of one mode, seen in one way, each row with a generator of its own. Arguments as for `MiniPacmanEnv`."""

    def __init__(self, num_games: int, mode: str, viewport: Viewport, observation: str, frame_cap: int) -> None:
        self.viewport = _viewport(viewport)
        self.observation_space = _space(self.viewport, one_of("observation", observation, OBSERVATIONS))
        self._paint = paint_rgb if observation == "rgb" else paint_planes
        self.games = np.zeros(num_games, GAME)
        self.games["mode"] = MODES.index(one_of("mode", mode, MODES))
        self.games["frame_cap"] = integer("frame_cap", frame_cap, 0, 2**31 - 1)
        self.rows = np.arange(num_games)

    def seed(self, row: int, np_random: np.random.Generator) -> None:
        """Draw a row's generator from NumPy's."""
        self.games["generator"][row] = np_random.integers(2**64, size=4, dtype=np.uint64)

    def is_seeded(self, row: int) -> bool:
        return bool(self.games["generator"][row].any())

    def require_games(self, rows: int | slice = slice(None)) -> None:
        """Raises ResetNeeded where a row has never had a game (its level is 0)."""
        if not self.games["level"][rows].all():
            raise gymnasium.error.ResetNeeded("there is no game yet: call reset() or set_state() first")

    def start(self, rows: Rows) -> None:
        """Start a new episode in the given rows, [R]."""
        rules.start(self.games, rows)

    def step(self, actions: npt.NDArray[np.int64]) -> Outcome:
        """Play one step of every game, with actions [N] in 0..4. Games that end are left as they ended."""
        count = len(self.games)
        rewards, terminated, truncated = np.empty(count), np.empty(count, np.bool_), np.empty(count, np.bool_)
        ended = np.empty(count, np.int64)
        num_ended = rules.play(self.games, actions, rewards, terminated, truncated, ended)
        return Outcome(rewards, terminated, truncated, ended[:num_ended])

    def observe(self, rows: Rows) -> Array:
        """What is seen in the given rows, [R]: a new array [R, height, width, channels]."""
        space = self.observation_space
        observations = np.empty((len(rows), *space.shape), space.dtype)
        self._paint(self.games, rows, self.viewport == "centred", observations)
        return observations

    def report(self, rows: Rows) -> Array:
        """The infos of the given rows, [R]: a new array [N] of INFO, zero elsewhere."""
        infos = np.zeros(len(self.games), INFO)
        rules.report(self.games, rows, infos)
        return infos

    def get_state(self, row: int) -> dict[str, Any]:
        """One game as plain arrays and numbers; raises ResetNeeded as `require_games` does."""
        self.require_games(row)
        return read_state(self.games[row])

    def set_state(self, row: int, state: Mapping[str, Any]) -> None:
        """Put one game into a state; raises ValueError where it is impossible, and changes nothing then."""
        write_state(state, self.games[row])


def _viewport(viewport: Any) -> Viewport:
    legal: tuple[Viewport, ...] = (None, "centred", *range(5, MAX_VIEWPORT + 1, 2))
    if viewport not in legal:
        raise ValueError(
            f"viewport must be odd, from 5 to {MAX_VIEWPORT}, or, for the whole maze, None or 'centred', "
            f"got {viewport!r}"
        )
    return legal[legal.index(viewport)]


def _space(viewport: Viewport, observation: str) -> gymnasium.spaces.Box:
    height, width = (viewport, viewport) if isinstance(viewport, int) else (ROWS, COLUMNS)
    if observation == "rgb":
        return gymnasium.spaces.Box(0, 255, (height, width, 3), np.uint8)
    return gymnasium.spaces.Box(0, 1, (height, width, 6), np.float32)

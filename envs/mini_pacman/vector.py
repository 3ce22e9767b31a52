"""Many games of Mini-Pacman as a Gymnasium vector environment."""

from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space

from . import rendering
from .batch import NUM_ACTIONS, Array, GameBatch, Rows, Viewport
from .checks import integer, one_of
from .game import INFO_KEYS

METADATA: dict[str, Any] = {
    "render_modes": ["rgb_array", "ansi"],
    "render_fps": 8,
    "autoreset_mode": AutoresetMode.SAME_STEP,
}
Mask = npt.NDArray[np.bool_]


class MiniPacmanVectorEnv(gymnasium.vector.VectorEnv[Array, Array, Array]):
    """N games of Mini-Pacman, each as `MiniPacmanEnv` plays it; the other arguments are the same.

    A game that ends starts anew in the same step: the observation and info are then the new episode's, and
    `info["final_obs"]` and `info["final_info"]` hold those that the old one ended with, laid out as by Gymnasium's
    `SyncVectorEnv`. What happens in a row depends on its own seed and actions alone. All returned arrays are new.

    Raises:
        ValueError: An argument has none of its values, or `num_envs` is less than 1.
    """

    metadata = METADATA

    def __init__(
        self,
        num_envs: int = 1,
        mode: str = "regular",
        viewport: Viewport = 5,
        observation: str = "rgb",
        frame_cap: int = 3000,
        render_mode: str | None = None,
    ) -> None:
        self.num_envs = integer("num_envs", num_envs, 1, 2**31 - 1)
        self.render_mode = one_of("render_mode", render_mode, (None, *METADATA["render_modes"]))
        self._batch = GameBatch(self.num_envs, mode, viewport, observation, frame_cap)
        self.single_observation_space = self._batch.observation_space
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.single_action_space = gymnasium.spaces.Discrete(NUM_ACTIONS)
        self.action_space = batch_space(self.single_action_space, self.num_envs)

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Array, dict[str, Any]]:
        """Start an episode in every row.

        Args:
            seed: The seed of the first row, from which those of the others count up; or a list with a seed or None for
                each row. Without a seed, a row's random numbers go on from where they are.
            options: `reset_mask`, bool [N], says which rows to reset; the others stay as they are.

        Raises:
            ValueError: The list of seeds or the mask does not fit.
            gymnasium.error.ResetNeeded: The mask leaves out a row that has no game yet.
        """
        seeds = self._seeds(seed)
        mask = self._reset_mask(options)
        rows = np.flatnonzero(mask)
        to_seed = [row for row in rows.tolist() if seeds[row] is not None or not self._batch.is_seeded(row)]
        generators = [seeding.np_random(seeds[row])[0] for row in to_seed]  # all or, where a seed is illegal, none
        for row, generator in zip(to_seed, generators, strict=True):
            self._batch.seed(row, generator)
        self._batch.start(rows)
        return self.observe(), _info(self._batch.report(rows), mask)

    def step(self, actions: Array) -> tuple[Array, Array, Array, Array, dict[str, Any]]:
        """Play one step of every game, actions integers [N].

        Returns:
            Observations [N, height, width, channels], rewards (float64), terminated and truncated, each [N], and info.

        Raises:
            gymnasium.error.ResetNeeded: A row has no game yet.
            ValueError: The actions are not N integers from 0 to 4.
        """
        batch = self._batch
        batch.require_games()
        outcome = batch.step(self._actions(actions))
        info = {}
        if len(outcome.ended):
            info = self._final_info(outcome.ended)
            batch.start(outcome.ended)
        info.update(_info(batch.report(batch.rows), np.ones(self.num_envs, np.bool_)))
        return batch.observe(batch.rows), outcome.rewards, outcome.terminated, outcome.truncated, info

    def observe(self) -> Array:
        """The present observations, [N, height, width, channels]; raises ResetNeeded where a row has no game yet."""
        self._batch.require_games()
        return self._batch.observe(self._batch.rows)

    def get_state(self, row: int) -> dict[str, Any]:
        """The game of a row, as `MiniPacmanEnv.get_state` gives it."""
        return self._batch.get_state(self._row(row))

    def set_state(self, row: int, state: Mapping[str, Any]) -> None:
        """Put the game of a row into a state, as `MiniPacmanEnv.set_state` does."""
        self._batch.set_state(self._row(row), state)
        if not self._batch.is_seeded(row):
            self._batch.seed(row, seeding.np_random()[0])

    def render(self) -> tuple[Any, ...] | None:
        """What `MiniPacmanEnv.render` gives, for every row."""
        self._batch.require_games()
        if self.render_mode is None:
            return None
        return tuple(rendering.render(game, self._batch.viewport, self.render_mode) for game in self._batch.games)

    def _row(self, row: int) -> int:
        return integer("row", row, 0, self.num_envs - 1)

    def _actions(self, actions: Any) -> npt.NDArray[np.int64]:
        array = np.asarray(actions)
        if array.dtype.kind not in "iu" or array.shape != (self.num_envs,):
            raise ValueError(
                f"actions must be integers of shape ({self.num_envs},), got {array.dtype} of shape {array.shape}"
            )
        if array.min() < 0 or array.max() >= NUM_ACTIONS:
            wrong = array[(array < 0) | (array >= NUM_ACTIONS)][0]
            raise ValueError(f"actions must be integers from 0 to {NUM_ACTIONS - 1}, got {wrong}")
        return np.ascontiguousarray(array, np.int64)

    def _seeds(self, seed: int | list[int | None] | None) -> list[int | None]:
        if seed is None:
            return [None] * self.num_envs
        if isinstance(seed, int):
            return [seed + row for row in range(self.num_envs)]
        if not isinstance(seed, list | tuple | np.ndarray):
            raise ValueError(f"seed must be an integer, a list with one entry for each row, or None, got {seed!r}")
        if len(seed) != self.num_envs:
            raise ValueError(f"seed must have one entry for each of the {self.num_envs} rows, got {len(seed)}")
        return list(seed)

    def _reset_mask(self, options: dict[str, Any] | None) -> Mask:
        """Which rows to reset; all others have a game."""
        if options is None or "reset_mask" not in options:
            return np.ones(self.num_envs, np.bool_)
        mask = options["reset_mask"]
        if not (isinstance(mask, np.ndarray) and mask.dtype == np.bool_ and mask.shape == (self.num_envs,)):
            raise ValueError(f"options['reset_mask'] must be a bool array of shape ({self.num_envs},), got {mask!r}")
        if not mask.any():
            raise ValueError("options['reset_mask'] must name at least one row, got none")
        if not self._batch.games["level"][~mask].all():
            raise gymnasium.error.ResetNeeded("options['reset_mask'] leaves out a row that has no game yet")
        return mask

    def _final_info(self, ended: Rows) -> dict[str, Any]:
        mask = np.zeros(self.num_envs, np.bool_)
        mask[ended] = True
        final_obs = np.empty(self.num_envs, object)  # of None
        for row, observation in zip(ended.tolist(), self._batch.observe(ended), strict=True):
            final_obs[row] = observation
        return {
            "final_obs": final_obs,
            "_final_obs": mask,
            "final_info": _info(self._batch.report(ended), mask),
            "_final_info": mask,
        }


def _info(infos: Array, mask: Mask) -> dict[str, Any]:
    """Infos, [N] of INFO, in Gymnasium's layout: an array and a mask for every key."""
    info: dict[str, Any] = {}
    for name in INFO_KEYS:
        info[name], info[f"_{name}"] = infos[name], mask
    return info

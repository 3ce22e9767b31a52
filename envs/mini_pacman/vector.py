"""Many games of Mini-Pacman as a Gymnasium vector environment."""

from typing import Any, ClassVar

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space

from .batch import Array, GameBatch, Outcome, integer
from .env import NUM_ACTIONS


class MiniPacmanVectorEnv(gymnasium.vector.VectorEnv[Array, Array, Array]):
    metadata: ClassVar[dict[str, Any]] = {
        "render_modes": ["rgb_array", "ansi"],
        "render_fps": 8,
        "autoreset_mode": AutoresetMode.SAME_STEP,
    }

    def __init__(
        self,
        num_envs: int = 1,
        mode: str = "regular",
        viewport: int | None = 5,
        observation: str = "rgb",
        frame_cap: int = 3000,
        render_mode: str | None = None,
    ) -> None:
        self.num_envs = integer("num_envs", num_envs, "an integer of at least 1")
        if self.num_envs < 1:
            raise ValueError(f"num_envs must be an integer of at least 1, got {num_envs!r}")
        self._batch = GameBatch(self.num_envs, mode, viewport, observation, frame_cap)
        self.single_observation_space = self._batch.observation_space
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.single_action_space = gymnasium.spaces.Discrete(NUM_ACTIONS)
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        self.render_mode = render_mode
        self._seeded = np.zeros(self.num_envs, np.bool_)

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Array, dict[str, Any]]:
        mask = self._reset_mask(options)
        seeds = self._seeds(seed)
        if not (mask | self._batch.started).all():
            raise gymnasium.error.ResetNeeded("options['reset_mask'] leaves out games that have never been reset")
        for row in np.flatnonzero(mask).tolist():
            if seeds[row] is not None or not self._seeded[row]:
                np_random, _ = seeding.np_random(seeds[row])
                self._batch.seed(row, np_random)
        self._seeded[mask] = True
        self._batch.start(np.flatnonzero(mask))
        observations, infos = self._batch.observe()
        infos[~mask] = 0
        return observations, _vector_info(infos, mask)

    def step(self, actions: Array) -> tuple[Array, Array, Array, Array, dict[str, Any]]:
        if not self._batch.started.all():
            raise gymnasium.error.ResetNeeded("call reset() before step()")
        outcome = self._batch.step(self._legal(actions), autoreset=True)
        info = self._final_info(outcome) if len(outcome.final_rows) else {}
        info.update(_vector_info(outcome.infos, np.ones(self.num_envs, np.bool_)))
        return outcome.observations, outcome.rewards, outcome.terminated, outcome.truncated, info

    def _legal(self, actions: Array) -> npt.NDArray[np.int64]:
        array = np.asarray(actions)
        if array.dtype.kind not in "iu" or array.shape != (self.num_envs,):
            raise ValueError(
                f"actions must be integers of shape ({self.num_envs},), got {array.dtype} of shape {array.shape}"
            )
        array = np.ascontiguousarray(array, np.int64)
        if array.min() < 0 or array.max() >= NUM_ACTIONS:
            raise ValueError("actions must be integers from 0 to 4")
        return array

    def _seeds(self, seed: int | list[int | None] | None) -> list[int | None]:
        if seed is None:
            return [None] * self.num_envs
        if isinstance(seed, int):
            return [seed + row for row in range(self.num_envs)]
        if len(seed) != self.num_envs:
            raise ValueError(f"seed must have one entry for each of num_envs={self.num_envs}, got {len(seed)}")
        return list(seed)

    def _reset_mask(self, options: dict[str, Any] | None) -> npt.NDArray[np.bool_]:
        if options is None or "reset_mask" not in options:
            return np.ones(self.num_envs, np.bool_)
        mask = options["reset_mask"]
        if not (isinstance(mask, np.ndarray) and mask.dtype == np.bool_ and mask.shape == (self.num_envs,)):
            raise ValueError(f"options['reset_mask'] must be a bool array of shape ({self.num_envs},), got {mask!r}")
        if not mask.any():
            raise ValueError("options['reset_mask'] must name at least one game, got none")
        return mask

    def _final_info(self, outcome: Outcome) -> dict[str, Any]:
        rows = outcome.final_rows
        mask = np.zeros(self.num_envs, np.bool_)
        mask[rows] = True
        final_obs = np.full(self.num_envs, None, object)
        for row, observation in zip(rows.tolist(), outcome.final_observations.copy(), strict=True):
            final_obs[row] = observation
        final_infos = np.zeros(self.num_envs, outcome.final_infos.dtype)
        final_infos[rows] = outcome.final_infos
        final_info = _vector_info(final_infos, mask)
        return {"final_obs": final_obs, "_final_obs": mask, "final_info": final_info, "_final_info": mask.copy()}


def _vector_info(infos: Array, mask: npt.NDArray[np.bool_]) -> dict[str, Any]:
    info: dict[str, Any] = {}
    for name in infos.dtype.names or ():
        info[name] = infos[name]
        info["_" + name] = mask
    return info

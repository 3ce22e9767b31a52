"""One game of Mini-Pacman as a Gymnasium environment."""

from typing import Any, ClassVar

import gymnasium
import numpy as np
import numpy.typing as npt

from .batch import GameBatch, integer

Observation = npt.NDArray[Any]
NUM_ACTIONS = 5


class MiniPacmanEnv(gymnasium.Env[Observation, int]):
    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["human", "rgb_array", "ansi"], "render_fps": 8}

    def __init__(
        self,
        mode: str = "regular",
        viewport: int | None = 5,
        observation: str = "rgb",
        frame_cap: int = 3000,
        render_mode: str | None = None,
    ) -> None:
        self._batch = GameBatch(1, mode, viewport, observation, frame_cap)
        self.observation_space = self._batch.observation_space
        self.action_space = gymnasium.spaces.Discrete(NUM_ACTIONS)
        self.render_mode = render_mode

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        fresh = self._np_random is None
        super().reset(seed=seed)
        if seed is not None or fresh:
            self._batch.seed(0, self.np_random)
        self._batch.start(np.zeros(1, np.int64))
        observations, infos = self._batch.observe()
        return observations[0], _info(infos)

    def step(self, action: int) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        if not self._batch.started[0]:
            raise gymnasium.error.ResetNeeded("call reset() before step()")
        action = integer("action", action, "an integer from 0 to 4")
        if not 0 <= action < NUM_ACTIONS:
            raise ValueError(f"action must be an integer from 0 to 4, got {action}")
        outcome = self._batch.step(np.array([action]), autoreset=False)
        terminated, truncated = bool(outcome.terminated[0]), bool(outcome.truncated[0])
        self._batch.started[0] = not (terminated or truncated)
        return outcome.observations[0], float(outcome.rewards[0]), terminated, truncated, _info(outcome.infos)


def _info(infos: npt.NDArray[Any]) -> dict[str, Any]:
    return dict(zip(infos.dtype.names or (), infos[0].item(), strict=True))

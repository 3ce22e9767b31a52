"""Environments that misbehave, for tests: `tests.faulty_envs:Faulty-v0`."""

import multiprocessing
import os
import signal
import threading
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

EPISODE_LENGTH = 7


class FaultyEnv(gym.Env[NDArray[np.float32], np.int64]):
    """Draws nothing, and after `good_steps` steps, whatever their episodes, gives `fault` as NaN.

    With the fault "birth", it cannot be made in a process that another one has started. With "hang", it asks that other
    process to stop, and never comes back.
    """

    observation_space = spaces.Box(-1.0, 1.0, (3,))
    action_space = spaces.Discrete(2)

    def __init__(self, good_steps: int, fault: str, render_mode: str | None = None) -> None:
        if fault == "birth" and multiprocessing.parent_process() is not None:
            raise OSError("no licence\nfor this game")
        self.good_steps, self.fault = good_steps, fault
        self.steps = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        super().reset(seed=seed)
        self.episode_steps = 0
        return self._observation(), {}

    def step(self, action: np.int64) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        self.steps += 1
        self.episode_steps += 1
        observation, reward = self._observation(), 1.0
        if self.steps > self.good_steps:
            if self.fault == "reward":
                reward = float("nan")
            elif self.fault == "observation":
                observation[1] = np.nan
            elif self.fault == "hang":
                threading.Event().wait(1.5)  # until the learner waits, too
                os.kill(os.getppid(), signal.SIGTERM)
                threading.Event().wait()
        return observation, reward, self.episode_steps == EPISODE_LENGTH, False, {}

    def _observation(self) -> NDArray[np.float32]:
        return self.np_random.uniform(-1, 1, 3).astype(np.float32)


class FaultyMaskEnv(FaultyEnv):
    """Nothing that it gives is NaN; after `good_steps` steps it allows no action."""

    def __init__(self, good_steps: int, render_mode: str | None = None) -> None:
        super().__init__(good_steps, "none", render_mode)

    def action_masks(self) -> NDArray[np.bool_]:
        return np.array([False, self.steps <= self.good_steps])


gym.register("Faulty-v0", FaultyEnv, disable_env_checker=True)
gym.register("FaultyMask-v0", FaultyMaskEnv, disable_env_checker=True)
gym.register("NoDependency-v0", "no_such_module:Env")

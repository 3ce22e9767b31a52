"""A small task that cannot be done without memory, and for which little is needed to do it with one."""

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

CUES = 3


class Recall(gym.Env[NDArray[np.float32], Any]):
    """A cue is shown in the first observation; after `delay` steps, the action that names it is rewarded.

    The observations between, and the last one, on which the rewarded action is taken, are the same in every episode:
    they say nothing about the cue. Without memory the expected return is 1 / CUES, whatever the policy.
    """

    observation_space = spaces.Box(0.0, 1.0, (CUES + 1,), np.float32)
    action_space = spaces.Discrete(CUES)

    def __init__(self, delay: int = 3) -> None:
        self.delay = delay

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        super().reset(seed=seed)
        self.clock = 0
        self.cue = int(self.np_random.integers(CUES))
        return self._one_hot(self.cue), {}

    def step(self, action: int) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        self.clock += 1
        ended = self.clock > self.delay
        reward = float(ended and action == self.cue)
        return self._one_hot(CUES), reward, ended, False, {}

    def _one_hot(self, place: int) -> NDArray[np.float32]:
        one_hot = np.zeros(CUES + 1, np.float32)
        one_hot[place] = 1
        return one_hot

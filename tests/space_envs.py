"""Environments with every kind of observation and of action, and with masks."""

import copy
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from rmc_rl.masks import choices

OBSERVATIONS: dict[str, spaces.Space[Any]] = {
    "vector": spaces.Box(-1.0, 1.0, (4,)),
    "matrix": spaces.Box(-1.0, 1.0, (2, 5), np.float64),
    "number": spaces.Box(0, 9, (), np.int16),
    "tiny image": spaces.Box(0, 255, (2, 5, 1), np.uint8),
    "small image": spaces.Box(0, 255, (5, 6, 3), np.uint8),
    "image": spaces.Box(0, 255, (3, 36, 41), np.uint8),
    "flat image": spaces.Box(0.0, 1.0, (7, 42, 2)),
    "Discrete": spaces.Discrete(6, start=2),
    "MultiDiscrete": spaces.MultiDiscrete([2, 5], start=[-4, 3]),
    "MultiBinary": spaces.MultiBinary([2, 3]),
    "Dict": spaces.Dict(
        {
            "clock": spaces.Discrete(3, start=1),
            "flags": spaces.MultiBinary(4),
            "gears": spaces.MultiDiscrete([3, 2]),
            "speed": spaces.Box(-np.inf, np.inf, (2,)),
            "view": spaces.Box(0, 255, (4, 3, 5), np.uint8),
        }
    ),
}
ACTIONS: dict[str, spaces.Space[Any]] = {
    "Discrete": spaces.Discrete(5, start=-2),
    "MultiDiscrete": spaces.MultiDiscrete([2, 4], start=[3, 0]),
    "MultiBinary": spaces.MultiBinary(3),
    "Box": spaces.Box(np.array([-0.1, 0.2]), np.array([0.1, 0.3]), dtype=np.float64),
}


class Anything(gym.Env[Any, Any]):
    """Observations drawn from their space; takes no action that is not of its own; 3 steps, ended in either way."""

    def __init__(self, observations: str, actions: str) -> None:
        self.observation_space = copy.deepcopy(OBSERVATIONS[observations])  # with random numbers of its own
        self.action_space = ACTIONS[actions]

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        if seed is not None:
            self.observation_space.seed(seed)
        self.clock, self.truncates = 0, bool(self.np_random.integers(2))
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action), action
        self.clock += 1
        ended = self.clock == 3
        return self.observation_space.sample(), 1.0, ended and not self.truncates, ended and self.truncates, {}


class Informed(Anything):
    """The same with a mask in its info, drawn anew at every step, against which no action may go."""

    key = "action_masks"

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        observation, _ = super().reset(**kwargs)
        self._draw()
        return observation, {self.key: self.mask}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        values = np.atleast_1d(action) - getattr(self.action_space, "start", 0)
        allowed = [part[value] for part, value in zip(self._parts(), values.astype(int), strict=True)]
        assert all(allowed), (action, self.mask)
        observation, reward, terminated, truncated, _ = super().step(action)
        self._draw()
        return observation, reward, terminated, truncated, {self.key: self.mask}

    def legal_action(self) -> Any:
        """The first one."""
        values = np.array([np.flatnonzero(part)[0] for part in self._parts()]) + getattr(self.action_space, "start", 0)
        return values.reshape(self.action_space.shape).astype(self.action_space.dtype)[()]

    def _draw(self) -> None:
        """Half of each component's values are allowed, and one at least."""
        parts = [self.np_random.permutation(size) < (size + 1) // 2 for size in choices(self.action_space)]
        self.mask = np.concatenate(parts)

    def _parts(self) -> list[NDArray[np.bool_]]:
        return np.split(self.mask, np.cumsum(choices(self.action_space))[:-1])


class Masked(Informed):
    """The same with a method instead."""

    key = "nothing"

    def action_masks(self) -> NDArray[np.bool_]:
        return self.mask

"""One unroll of a batch of environments, time-major."""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from rmc_rl.cores import State
from rmc_rl.network import Observation


@dataclass
class Trajectory:
    """T steps of B environments: what an actor writes and a learner reads."""

    observations: Observation
    """Each part [T + 1, B, ...]; the last one follows step T - 1."""
    starts: Tensor
    """bool [T + 1, B]: the observation is an episode's first."""
    actions: Tensor
    """[T, B, ...]."""
    rewards: Tensor
    """[T, B], scaled; where an episode was truncated, with the discounted value of its final observation added."""
    behaviour_log_probs: Tensor
    """[T, B]: log probability of the action under the policy that took it."""
    terminated: Tensor
    """bool [T, B]: the step ended the episode, and nothing follows."""
    truncated: Tensor
    """bool [T, B]: the step cut the episode off."""
    initial_state: State = ()
    """The core's state before step 0, leaves [B, ...]."""

    @classmethod
    def allocate(
        cls,
        unroll_length: int,
        batch_size: int,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        device: torch.device,
    ) -> Self:
        """Memory for unrolls of these sizes; observations keep the space's dtype (pixels stay uint8)."""

        def empty(num_steps: int, dtype: torch.dtype, *shape: int) -> Tensor:
            return torch.empty(num_steps, batch_size, *shape, dtype=dtype, device=device)

        def observation(space: spaces.Space[Any]) -> Tensor:
            return empty(unroll_length + 1, _torch_dtype(space.dtype), *space.shape or ())

        # A MultiBinary's are floats as well: its distribution takes no others.
        floats = isinstance(action_space, spaces.Box | spaces.MultiBinary)
        return cls(
            observations={key: observation(space) for key, space in observation_space.items()}
            if isinstance(observation_space, spaces.Dict)
            else observation(observation_space),
            starts=empty(unroll_length + 1, torch.bool),
            actions=empty(unroll_length, torch.float32 if floats else torch.int64, *action_space.shape or ()),
            rewards=empty(unroll_length, torch.float32),
            behaviour_log_probs=empty(unroll_length, torch.float32),
            terminated=empty(unroll_length, torch.bool),
            truncated=empty(unroll_length, torch.bool),
        )

    def observation(self, t: int) -> Observation:
        """The observations of step t, each part [B, ...]."""
        if isinstance(self.observations, dict):
            return {key: part[t] for key, part in self.observations.items()}
        return self.observations[t]


def _torch_dtype(dtype: Any) -> torch.dtype:
    return torch.from_numpy(np.empty(0, dtype)).dtype

"""One unroll of a batch of environments, time-major."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, Self

import torch
from gymnasium import spaces
from torch import Tensor

from rmc_rl.cores import State
from rmc_rl.network import Observation, RecurrentActorCritic
from rmc_rl.spaces import torch_dtype


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
    initial_state: State
    """The core's state before step 0, leaves [B, ...]."""

    @classmethod
    def allocate(
        cls, unroll_length: int, batch_size: int, network: RecurrentActorCritic, device: torch.device | str
    ) -> Self:
        """Memory for unrolls of these sizes; observations keep the space's dtype (pixels stay uint8)."""
        observation_space, action_space = network.observation_space, network.action_space
        initial_state = network.initial_state(batch_size)

        def empty(num_steps: int, dtype: torch.dtype, *shape: int) -> Tensor:
            return torch.empty(num_steps, batch_size, *shape, dtype=dtype, device=device)

        def observation(space: spaces.Space[Any]) -> Tensor:
            return empty(unroll_length + 1, torch_dtype(space), *space.shape or ())

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
            initial_state=tuple(torch.empty(leaf.shape, dtype=leaf.dtype, device=device) for leaf in initial_state),
        )

    @property
    def batch_size(self) -> int:
        """B."""
        return self.starts.shape[1]

    def split(self, width: int) -> list[Self]:
        """Parts of `width` rows each, in order, that share this one's memory."""
        return [
            self._map(lambda tensor, axis, start=start: tensor.narrow(axis, start, width))  # type: ignore[misc]
            for start in range(0, self.batch_size, width)
        ]

    def share_memory(self) -> Self:
        """The same in memory that other processes can write."""
        return self._map(lambda tensor, _: tensor.share_memory_())  # type: ignore[no-untyped-call]

    def copy_(self, other: "Trajectory") -> None:
        """Take over what another of the same sizes holds."""
        for target, source in zip(self.tensors(), other.tensors(), strict=True):
            target.copy_(source)

    def tensors(self) -> list[Tensor]:
        """All that it holds, always in the same order."""
        tensors: list[Tensor] = []
        self._map(lambda tensor, _: tensors.append(tensor) or tensor)  # type: ignore[func-returns-value]
        return tensors

    def of_tensors(self, tensors: list[Tensor]) -> Self:
        """The trajectory like this one that gives these `tensors()`, which may have another batch size."""
        following = iter(tensors)
        return self._map(lambda *_: next(following))

    def _map(self, function: Callable[[Tensor, int], Tensor]) -> Self:
        """The trajectory of function(tensor, its batch axis)."""
        parts: dict[str, Any] = {}
        for field in fields(self):
            value, axis = getattr(self, field.name), 0 if field.name == "initial_state" else 1
            if isinstance(value, dict):
                parts[field.name] = {key: function(part, axis) for key, part in value.items()}
            elif isinstance(value, tuple):
                parts[field.name] = tuple(function(leaf, axis) for leaf in value)
            else:
                parts[field.name] = function(value, axis)
        return type(self)(**parts)

    def observation(self, t: int) -> Observation:
        """The observations of step t, each part [B, ...]."""
        if isinstance(self.observations, dict):
            return {key: part[t] for key, part in self.observations.items()}
        return self.observations[t]

"""The actor: steps a batch of environments with the current policy and hands over unrolls."""

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, cast

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor

from rmc_rl.cores import State, unchanged_weights
from rmc_rl.masks import ACTION_MASK, check_mask
from rmc_rl.network import NetworkOutput, NetworkRecording, Observation, RecurrentActorCritic
from rmc_rl.policies import to_env_actions

from .hyperparameters import Hyperparameters
from .trajectory import Trajectory

VecObservation = NDArray[Any] | dict[str, NDArray[Any]]
OnStep = Callable[[NDArray[Any], NDArray[np.bool_], list[dict[str, Any]]], bool]
"""Called after each vector step with (rewards [B], dones [B], infos); False stops the actor."""


class Actor:
    """Collects unrolls of `unroll_length` steps from all rows of a VecEnv at once.

    The actor never resets a core's state: it records where episodes start, and the core resets by that, here and in
    the learner alike. Two rollouts of the same starts can so never differ.
    """

    def __init__(self, env: VecEnv, network: RecurrentActorCritic, settings: Hyperparameters) -> None:
        self.env, self.network, self.settings = env, network, settings
        self.device = next(network.parameters()).device
        self.observation: VecObservation | None = None
        self.starts = np.ones(env.num_envs, dtype=bool)
        self.state: State = network.initial_state(env.num_envs)

    @cached_property
    def trajectory(self) -> Trajectory:
        """Where unrolls go that are given no other place."""
        return Trajectory.allocate(self.settings.unroll_length, self.env.num_envs, self.network, self.device)

    def start(self, observation: VecObservation) -> None:
        """Go on from the first observation of fresh episodes in all rows.

        Raises:
            ValueError: it is of floats where the space is of integers, as which it would be kept.
        """
        _check_kind(observation, self.network.observation_space)
        self.observation = observation
        self.starts = np.ones(self.env.num_envs, dtype=bool)

    def position(self) -> dict[str, Any]:
        """Where it stands between two steps: a nest for `rmc_rl.snapshot.pack`."""
        state = tuple(leaf.cpu().numpy() for leaf in self.state)
        return {"observation": self.observation, "starts": self.starts, "state": state}

    def move_to(self, position: dict[str, Any]) -> None:
        """Stand where an actor stood that gave this `position`. The environments are reset, and not restored.

        Raises:
            ValueError: it is that of an actor with another number of environments, other observations or another core.
        """
        legal = _form(self.position() | {"observation": self.env.reset()})
        if (form := _form(position)) != legal:
            raise ValueError(f"the actor's position must be {legal}, got {form}")
        self.observation, self.starts = position["observation"], position["starts"]
        self.state = tuple(torch.from_numpy(leaf).to(self.device) for leaf in position["state"])

    @torch.no_grad()
    def unroll(
        self, on_step: OnStep, trajectory: Trajectory | None = None, recording: NetworkRecording | None = None
    ) -> Trajectory | None:
        """The next unroll; None if `on_step` said stop.

        Args:
            on_step: called after each vector step.
            trajectory: where to write it; None for the actor's own, which the next call writes over.
            recording: of `network.record`, where to keep what is computed, of the T + 1 observations.

        Raises:
            FloatingPointError: the environment gave an observation or a reward that is not finite.
            ActionMaskError: it allows no action.
        """
        trajectory = trajectory or self.trajectory
        for target, leaf in zip(trajectory.initial_state, self.state, strict=True):
            target.copy_(leaf)
        with unchanged_weights():
            for t in range(self.settings.unroll_length):
                if not self._step(trajectory, t, on_step, recording):
                    return None
            self._write_observation(trajectory, self.settings.unroll_length)
            if recording is not None:
                self._run(trajectory, self.settings.unroll_length, recording)
        return trajectory

    def _run(
        self, trajectory: Trajectory, t: int, recording: NetworkRecording | None = None
    ) -> tuple[NetworkOutput, State]:
        """The network at step t, and the core's state after it."""
        return self.network.step(trajectory.observation(t), self.state, trajectory.starts[t], recording)

    def _step(self, trajectory: Trajectory, t: int, on_step: OnStep, recording: NetworkRecording | None) -> bool:
        self._write_observation(trajectory, t)
        output, self.state = self._run(trajectory, t, recording)
        distribution = self.network.distribution(output.policy)
        actions = distribution.sample()  # [B, ...]
        trajectory.actions[t] = actions
        trajectory.behaviour_log_probs[t] = distribution.log_prob(actions)

        observation, rewards, dones, infos = self.env.step(to_env_actions(actions, self.network.action_space))
        self.observation, self.starts = cast(VecObservation, observation), dones
        truncated = np.zeros_like(dones)
        for row in np.flatnonzero(dones):
            truncated[row] = infos[row].get("TimeLimit.truncated", False)
        _check_finite("reward", rewards)
        trajectory.rewards[t] = torch.from_numpy(rewards * np.float32(self.settings.reward_scale))
        trajectory.terminated[t] = torch.from_numpy(dones & ~truncated)
        trajectory.truncated[t] = torch.from_numpy(truncated)
        if truncated.any():
            rows = np.flatnonzero(truncated)
            trajectory.rewards[t, rows] += self.settings.discount * self._final_values(rows, infos)
        return on_step(rewards, dones, infos)

    def _final_values(self, rows: NDArray[np.intp], infos: Sequence[dict[str, Any]]) -> Tensor:
        """V of the final observations of these rows [k], from the core's state after the step, without a reset."""
        finals = [infos[row]["terminal_observation"] for row in rows]
        observations: Observation
        if isinstance(finals[0], dict):
            parts = {key: np.stack([final[key] for final in finals]) for key in finals[0]}
            for key, part in parts.items():
                _check_finite(f"final observation[{key!r}]", part, rows)
            observations = {key: self._to_tensor(part) for key, part in parts.items()}
        else:
            _check_finite("final observation", np.stack(finals), rows)
            observations = self._to_tensor(np.stack(finals))
        state = tuple(leaf[rows] for leaf in self.state)
        starts = torch.zeros(len(rows), dtype=torch.bool, device=self.device)
        output, _ = self.network.step(observations, state, starts)
        return output.value

    def _write_observation(self, trajectory: Trajectory, t: int) -> None:
        target, observation = trajectory.observations, self.observation
        if isinstance(observation, dict):
            for key, part in observation.items():
                _check_finite(f"observation[{key!r}]", part)
                cast(dict[str, Tensor], target)[key][t] = torch.from_numpy(part)
            if self.network.is_masked:
                check_mask(observation[ACTION_MASK], self.network.action_space)
        else:
            assert observation is not None, "start() comes first"
            _check_finite("observation", observation)
            cast(Tensor, target)[t] = torch.from_numpy(observation)
        trajectory.starts[t] = torch.from_numpy(self.starts)

    def _to_tensor(self, array: NDArray[Any]) -> Tensor:
        return torch.from_numpy(array).to(self.device)


def _form(nest: Any) -> Any:
    """A nest with the dtype and shape of each array in its place."""
    if isinstance(nest, dict):
        return {key: _form(item) for key, item in nest.items()}
    if isinstance(nest, tuple):
        return [_form(item) for item in nest]
    return f"{nest.dtype} {nest.shape}" if isinstance(nest, np.ndarray) else repr(nest)


def _check_kind(observation: VecObservation, space: spaces.Space[Any]) -> None:
    """Raise a ValueError for floats in a space of integers."""
    named = {"observation": (observation, space)}
    if isinstance(space, spaces.Dict):
        parts = cast(dict[str, NDArray[Any]], observation)
        named = {f"observation[{key!r}]": (parts[key], part) for key, part in space.items()}
    for name, (values, part) in named.items():
        found, legal = cast(NDArray[Any], values).dtype, np.dtype(part.dtype)
        if found.kind == "f" != legal.kind:
            raise ValueError(
                f"{name} must be {legal}, as its space says, got {found}: if VecNormalize makes it so, name the parts "
                "that it shall normalise in norm_obs_keys, or give the environment a space of floats"
            )


def _check_finite(name: str, values: NDArray[Any], rows: NDArray[np.intp] | None = None) -> None:
    """Raise a FloatingPointError that names the first environment whose values are not finite; `rows` are theirs."""
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        first = int(np.argwhere(~np.isfinite(values))[0, 0])
        row = first if rows is None else rows[first]
        raise FloatingPointError(f"environment {row}: {name} is not finite (NaN or infinite)")

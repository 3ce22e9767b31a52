"""The previous action and reward as observations, for one environment and for many."""

from typing import Any, SupportsFloat, overload

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs
from gymnasium.vector import AutoresetMode, VectorEnv, VectorWrapper
from gymnasium.vector.utils import batch_space
from numpy.typing import ArrayLike, NDArray

Observation = dict[str, Any]


@overload
def PreviousActionReward(env: VectorEnv[Any, Any, Any]) -> "VectorPreviousActionReward": ...


@overload
def PreviousActionReward(env: gym.Env[Any, Any]) -> "EnvPreviousActionReward": ...


def PreviousActionReward(  # noqa: N802 - it stands for the class of its result
    env: gym.Env[Any, Any] | VectorEnv[Any, Any, Any],
) -> "EnvPreviousActionReward | VectorPreviousActionReward":
    """Wrap one environment, or many in a vector environment, to observe the previous action and reward.

    Observations become dicts, and a Dict observation keeps its own keys beside the two new ones:

    - `"observation"`: the environment's own;
    - `"previous_action"`: float32 [A], one-hot for a Discrete action, concatenated one-hots for MultiDiscrete, the
      flattened values for MultiBinary and Box;
    - `"previous_reward"`: float32 [1].

    The new ones are all zero after a reset, so that "none" differs from action 0. A vector environment must reset ended
    rows in the same step (`AutoresetMode.SAME_STEP`); its `final_obs` then hold the action and reward that ended them.

    Raises:
        TypeError: `env` is no Gymnasium environment.
        ValueError: an action space of another kind, a Dict observation that has one of the new keys already, or a
            vector environment with another autoreset mode.
    """
    return VectorPreviousActionReward(env) if isinstance(env, VectorEnv) else EnvPreviousActionReward(env)


class EnvPreviousActionReward(gym.Wrapper[Observation, Any, Any, Any], RecordConstructorArgs):
    """What `PreviousActionReward` makes of one environment."""

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        RecordConstructorArgs.__init__(self)  # lets `gymnasium.make(env.spec)` build the wrapper too
        super().__init__(env)
        self._encode = _ActionEncoder(env.action_space)
        self.observation_space = _extended_space(env.observation_space, self._encode)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        observation, info = self.env.reset(seed=seed, options=options)
        return _extended(observation, _zeros(self._encode.width), _zeros(1)), info

    def step(self, action: Any) -> tuple[Observation, SupportsFloat, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        previous_action = self._encode(np.asarray(action)[None])[0]  # [A]
        previous_reward = np.array([reward], np.float32)
        return _extended(observation, previous_action, previous_reward), reward, terminated, truncated, info


# Unlike `gymnasium.Wrapper`, `VectorWrapper` takes no type arguments in the older releases of Gymnasium.
class VectorPreviousActionReward(VectorWrapper):
    """What `PreviousActionReward` makes of a vector environment."""

    def __init__(self, env: VectorEnv[Any, Any, Any]) -> None:
        super().__init__(env)
        check_same_step_autoreset(env)
        self._encode = _ActionEncoder(env.single_action_space)
        self.single_observation_space = _extended_space(env.single_observation_space, self._encode)
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Observation, dict[str, Any]]:
        if options is not None and "reset_mask" in options:
            raise ValueError("options['reset_mask'] is not supported: ended rows reset by themselves")
        observations, infos = self.env.reset(seed=seed, options=options)
        return _extended(observations, _zeros(self.num_envs, self._encode.width), _zeros(self.num_envs, 1)), infos

    def step(
        self, actions: ArrayLike
    ) -> tuple[Observation, NDArray[Any], NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]:
        observations, rewards, terminations, truncations, infos = self.env.step(actions)
        previous_actions = self._encode(np.asarray(actions))  # [N, A]
        previous_rewards = np.array(rewards, np.float32)[:, None]  # [N, 1]
        ended = np.logical_or(terminations, truncations)  # [N]
        if ended.any():
            final_obs = np.full(self.num_envs, None, dtype=object)
            for i in np.flatnonzero(ended).tolist():
                final_obs[i] = _extended(infos["final_obs"][i], previous_actions[i].copy(), previous_rewards[i].copy())
            infos = {**infos, "final_obs": final_obs}
            previous_actions[ended] = 0.0
            previous_rewards[ended] = 0.0
        return _extended(observations, previous_actions, previous_rewards), rewards, terminations, truncations, infos


def check_same_step_autoreset(env: VectorEnv[Any, Any, Any]) -> None:
    """Raise a ValueError that says what to do, unless `env` resets an ended row within the step that ends it."""
    mode = env.metadata.get("autoreset_mode")
    if mode != AutoresetMode.SAME_STEP:
        raise ValueError(
            f"env must have autoreset mode SAME_STEP, got {getattr(mode, 'name', mode)}: build it with "
            "gymnasium.make_vec(..., vector_kwargs=dict(autoreset_mode=AutoresetMode.SAME_STEP)), or pass the id or a "
            "callable instead"
        )


class _ActionEncoder:
    """Actions [N, ...] -> float32 [N, width]: one-hots for whole numbers, flattened values for the rest."""

    def __init__(self, space: spaces.Space[Any]) -> None:
        self.sizes: NDArray[np.int64] | None = None
        if isinstance(space, spaces.Discrete):
            self.sizes, self.starts = np.array([space.n]), np.array([space.start])
        elif isinstance(space, spaces.MultiDiscrete):
            self.sizes, self.starts = space.nvec.ravel().astype(np.int64), space.start.ravel()
        elif not isinstance(space, spaces.MultiBinary | spaces.Box):
            raise ValueError(f"action_space must be Discrete, MultiDiscrete, MultiBinary or Box, got {space}")
        self.width = int(spaces.flatdim(space))

    def __call__(self, actions: NDArray[Any]) -> NDArray[np.float32]:
        actions = actions.reshape(len(actions), -1)  # [N, K]
        if self.sizes is None:
            return actions.astype(np.float32)  # [N, width], a copy
        columns = actions - self.starts + np.cumsum(self.sizes) - self.sizes  # [N, K]
        one_hot = _zeros(len(actions), self.width)
        np.put_along_axis(one_hot, columns, 1.0, axis=1)
        return one_hot

    @property
    def space(self) -> spaces.Box:
        """Where encoded actions lie."""
        low, high = (-np.inf, np.inf) if self.sizes is None else (0.0, 1.0)
        return spaces.Box(low, high, (self.width,), np.float32)


def _extended_space(space: spaces.Space[Any], encoder: _ActionEncoder) -> spaces.Dict:
    """The observation space of one environment with the previous action and reward."""
    own = dict(space.spaces) if isinstance(space, spaces.Dict) else {"observation": space}
    reward_space = spaces.Box(-np.inf, np.inf, (1,), np.float32)
    new = {"previous_action": encoder.space, "previous_reward": reward_space}
    if clash := own.keys() & new.keys():
        raise ValueError(f"observation_space must not have the keys of PreviousActionReward, got {sorted(clash)}")
    return spaces.Dict({**own, **new})


def _extended(observation: Any, previous_action: Any, previous_reward: Any) -> Observation:
    """An observation, or a batch, with its previous action and reward."""
    own = observation if isinstance(observation, dict) else {"observation": observation}
    return {**own, "previous_action": previous_action, "previous_reward": previous_reward}


def _zeros(*shape: int) -> NDArray[np.float32]:
    return np.zeros(shape, np.float32)

"""The previous action and reward, and the actions that are legal, as observations; for one environment and for many."""

from collections.abc import Callable, Mapping
from typing import Any, SupportsFloat, overload

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs
from gymnasium.vector import AutoresetMode, VectorEnv, VectorWrapper
from gymnasium.vector.utils import batch_space
from numpy.typing import ArrayLike, NDArray

from .checkpoint import one_line
from .masks import ACTION_MASK, ActionMaskError, choices, has_mask

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
        self.observation_space = _extended_space(env.observation_space, self._encode.spaces, "PreviousActionReward")

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        observation, info = self.env.reset(seed=seed, options=options)
        return _extended(observation, previous_action=_zeros(self._encode.width), previous_reward=_zeros(1)), info

    def step(self, action: Any) -> tuple[Observation, SupportsFloat, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        new = {
            "previous_action": self._encode(np.asarray(action)[None])[0],  # [A]
            "previous_reward": np.array([reward], np.float32),
        }
        return _extended(observation, **new), reward, terminated, truncated, info


# Unlike `gymnasium.Wrapper`, `VectorWrapper` takes no type arguments in the older releases of Gymnasium.
class VectorPreviousActionReward(VectorWrapper):
    """What `PreviousActionReward` makes of a vector environment."""

    def __init__(self, env: VectorEnv[Any, Any, Any]) -> None:
        super().__init__(env)
        check_same_step_autoreset(env)
        self._encode = _ActionEncoder(env.single_action_space)
        self.single_observation_space = _extended_space(
            env.single_observation_space, self._encode.spaces, "PreviousActionReward"
        )
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Observation, dict[str, Any]]:
        if options is not None and "reset_mask" in options:
            raise ValueError("options['reset_mask'] is not supported: ended rows reset by themselves")
        observations, infos = self.env.reset(seed=seed, options=options)
        new = {
            "previous_action": _zeros(self.num_envs, self._encode.width),
            "previous_reward": _zeros(self.num_envs, 1),
        }
        return _extended(observations, **new), infos

    def step(
        self, actions: ArrayLike
    ) -> tuple[Observation, NDArray[Any], NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]:
        observations, rewards, terminations, truncations, infos = self.env.step(actions)
        new = {
            "previous_action": self._encode(np.asarray(actions)),  # [N, A]
            "previous_reward": np.array(rewards, np.float32)[:, None],  # [N, 1]
        }
        ended = np.logical_or(terminations, truncations)  # [N]
        if ended.any():
            infos = _extended_finals(infos, ended, lambda i: {key: part[i].copy() for key, part in new.items()})
            for part in new.values():
                part[ended] = 0.0
        return _extended(observations, **new), rewards, terminations, truncations, infos


@overload
def ActionMasks(env: VectorEnv[Any, Any, Any]) -> "VectorActionMasks": ...


@overload
def ActionMasks(env: gym.Env[Any, Any]) -> "EnvActionMasks": ...


def ActionMasks(  # noqa: N802 - it stands for the class of its result
    env: gym.Env[Any, Any] | VectorEnv[Any, Any, Any],
) -> "EnvActionMasks | VectorActionMasks":
    """Wrap one environment, or many in a vector environment, to observe which actions are legal.

    Observations become dicts, and a Dict observation keeps its own keys beside the new one:

    - `"observation"`: the environment's own;
    - `"action_mask"`: int8 [M], 1 for what is allowed and 0 for what is not. M and the order are those of
      `rmc_rl.masks.choices`, which are sb3-contrib's.

    Masks come from the environment's method `action_masks()`. Where there is none, they come from its info, which must
    have `"action_masks"` or `"action_mask"` after every reset and step. The mask of an episode's final observation
    allows everything, whatever the environment says: no action follows. A vector environment must reset ended rows in
    the same step (`AutoresetMode.SAME_STEP`).

    Raises:
        TypeError: `env` is no Gymnasium environment.
        ValueError: actions that cannot be masked (Box), a Dict observation that has a mask already, or a vector
            environment with another autoreset mode.
        ActionMaskError: by `reset` and `step`, a mask that is missing or has another length.
    """
    return VectorActionMasks(env) if isinstance(env, VectorEnv) else EnvActionMasks(env)


class EnvActionMasks(gym.Wrapper[Observation, Any, Any, Any], RecordConstructorArgs):
    """What `ActionMasks` makes of one environment."""

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        RecordConstructorArgs.__init__(self)
        super().__init__(env)
        self._size = sum(choices(env.action_space))
        space = {ACTION_MASK: spaces.MultiBinary(self._size)}
        self.observation_space = _extended_space(env.observation_space, space, "ActionMasks")
        self._has_method = has_mask_method(env)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        observation, info = self.env.reset(seed=seed, options=options)
        return _extended(observation, action_mask=self._read(info)), info

    def step(self, action: Any) -> tuple[Observation, SupportsFloat, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        mask = np.ones(self._size, np.int8) if terminated or truncated else self._read(info)
        return _extended(observation, action_mask=mask), reward, terminated, truncated, info

    def _read(self, info: dict[str, Any]) -> NDArray[np.int8]:
        mask = self.env.get_wrapper_attr("action_masks")() if self._has_method else _mask_in(info)
        return _as_mask(mask, (self._size,))


class VectorActionMasks(VectorWrapper):
    """What `ActionMasks` makes of a vector environment."""

    def __init__(self, env: VectorEnv[Any, Any, Any]) -> None:
        super().__init__(env)
        check_same_step_autoreset(env)
        self._size = sum(choices(env.single_action_space))
        space = {ACTION_MASK: spaces.MultiBinary(self._size)}
        self.single_observation_space = _extended_space(env.single_observation_space, space, "ActionMasks")
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self._has_method = has_mask_method(env)

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Observation, dict[str, Any]]:
        observations, infos = self.env.reset(seed=seed, options=options)
        return _extended(observations, action_mask=self._read(infos)), infos

    def step(
        self, actions: ArrayLike
    ) -> tuple[Observation, NDArray[Any], NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]:
        observations, rewards, terminations, truncations, infos = self.env.step(actions)
        ended = np.logical_or(terminations, truncations)  # [N]
        if ended.any():
            infos = _extended_finals(infos, ended, lambda i: {ACTION_MASK: np.ones(self._size, np.int8)})
        return _extended(observations, action_mask=self._read(infos)), rewards, terminations, truncations, infos

    def _read(self, infos: dict[str, Any]) -> NDArray[np.int8]:
        """[N, M]: of rows that have just ended, the mask of the new episode."""
        base: Any = self.env.unwrapped
        if not self._has_method:
            masks = _mask_in(infos)
        else:
            masks = base.call("action_masks") if hasattr(base, "call") else base.action_masks()
        return _as_mask(masks, (self.num_envs, self._size))


def has_mask_method(env: gym.Env[Any, Any] | VectorEnv[Any, Any, Any]) -> bool:
    """Whether an environment, or each of a vector environment's, has a method `action_masks()`."""
    if isinstance(env, gym.Env):
        return env.has_wrapper_attr("action_masks")
    base: Any = env.unwrapped
    if hasattr(base, "call"):  # asks each environment, wherever it runs
        return all(base.call("has_wrapper_attr", "action_masks"))
    return hasattr(base, "action_masks")


def gives_masks(env: gym.Env[Any, Any] | VectorEnv[Any, Any, Any]) -> bool:
    """Whether there is a method `action_masks()` whose masks are not observed yet."""
    space = env.observation_space if isinstance(env, gym.Env) else env.single_observation_space
    return not has_mask(space) and has_mask_method(env)


def _mask_in(info: Mapping[str, Any]) -> Any:
    """The mask in the info of one environment, or the masks in that of many."""
    for key in ("action_masks", "action_mask"):
        if key in info and np.all(info.get(f"_{key}", True)):  # a vector environment's `_key` says which rows have it
            return info[key]
    raise ActionMaskError(
        "env must have a method action_masks(), or 'action_masks' in its info after every reset and step, "
        f"got info with the keys {sorted(info)}"
    )


def _as_mask(mask: Any, shape: tuple[int, ...]) -> NDArray[np.int8]:
    try:
        array = np.asarray(mask, dtype=bool)
    except (TypeError, ValueError):  # such as parts of several lengths
        array = np.empty(0, dtype=bool)
    if array.shape != shape:
        raise ActionMaskError(
            f"action_masks must be one array of shape {shape}, the values of each component one after the other, "
            f"got {one_line(mask)}"
        )
    return array.astype(np.int8)  # a copy: the environment may write into its own


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
    def spaces(self) -> dict[str, spaces.Box]:
        """Where encoded actions and rewards lie."""
        low, high = (-np.inf, np.inf) if self.sizes is None else (0.0, 1.0)
        return {
            "previous_action": spaces.Box(low, high, (self.width,), np.float32),
            "previous_reward": spaces.Box(-np.inf, np.inf, (1,), np.float32),
        }


def _extended_space(space: spaces.Space[Any], new: Mapping[str, spaces.Space[Any]], wrapper: str) -> spaces.Dict:
    """The observation space of one environment with new parts."""
    own = dict(space.spaces) if isinstance(space, spaces.Dict) else {"observation": space}
    if clash := own.keys() & new.keys():
        raise ValueError(f"observation_space must not have the keys of {wrapper}, got {sorted(clash)}")
    return spaces.Dict({**own, **new})


def _extended(observation: Any, **new: Any) -> Observation:
    """An observation, or a batch, with new parts."""
    own = observation if isinstance(observation, dict) else {"observation": observation}
    return {**own, **new}


def _extended_finals(
    infos: dict[str, Any], ended: NDArray[np.bool_], new: Callable[[int], dict[str, Any]]
) -> dict[str, Any]:
    """Infos of a vector environment with the new parts of each row in the final observations of those that ended."""
    final_obs = np.full(len(ended), None, dtype=object)
    for i in np.flatnonzero(ended).tolist():
        final_obs[i] = _extended(infos["final_obs"][i], **new(i))
    return {**infos, "final_obs": final_obs}


def _zeros(*shape: int) -> NDArray[np.float32]:
    return np.zeros(shape, np.float32)

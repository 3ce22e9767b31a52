"""Any Gymnasium environment, one or many, as a Stable-Baselines3 VecEnv."""

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import EnvSpec, load_env_creator
from gymnasium.vector import AutoresetMode, VectorEnv, VectorWrapper
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.preprocessing import check_for_nested_spaces
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecMonitor, is_vecenv_wrapped
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvObs, VecEnvStepReturn

from .cores.core import check_positive
from .masks import has_mask
from .spaces import check_observation_space
from .wrappers import ActionMasks, PreviousActionReward, check_same_step_autoreset, gives_masks

Environment = str | Callable[..., gym.Env[Any, Any]] | gym.Env[Any, Any] | VectorEnv[Any, Any, Any] | VecEnv
"""What an algorithm trains on: an id, a callable that makes one environment, or environments made already."""


def make_vec_env(
    env: Environment,
    n_envs: int = 1,
    env_kwargs: Mapping[str, Any] | None = None,
    previous_action_reward: bool = False,
) -> VecEnv:
    """Environments of any kind as a VecEnv that reports each episode's return and length in `infos[i]["episode"]`.

    An id whose vector class resets ended rows in the same step runs as that class, all rows at once; other ids, a
    callable and a single environment run one by one in SB3's DummyVecEnv. Environments with a method `action_masks()`
    are wrapped in `ActionMasks`.

    Args:
        env: a Gymnasium id (`"module:Name-v0"` imports the module first), a callable that makes one environment, one
            environment, a Gymnasium vector environment, or a VecEnv. A VecEnv without a monitor gets one outside of its
            wrappers, so that returns are counted as they come: put a VecMonitor below a VecNormalize.
        n_envs: how many environments to make of an id or a callable; environments made already have their number.
        env_kwargs: arguments for the id or the callable.
        previous_action_reward: observe these too, see `PreviousActionReward`.

    Raises:
        ValueError: an argument has another type or value, or contradicts `env`; or observations of a kind that neither
            Stable-Baselines3's policies nor ours can take.
    """
    envs = _build(env, n_envs, env_kwargs or {})
    if isinstance(envs, VectorEnv):
        vec_env: VecEnv = VectorToVecEnv(_with_observed(envs, previous_action_reward))
    elif isinstance(envs, VecEnv):
        if previous_action_reward:
            raise ValueError("previous_action_reward must be False for a VecEnv: wrap its environments before")
        if not has_mask(envs.observation_space) and envs.has_attr("action_masks"):
            raise ValueError("env has action_masks that a VecEnv does not show: wrap its environments in ActionMasks")
        vec_env = envs
    else:
        wrapped = [_with_observed(one, previous_action_reward) for one in envs]
        vec_env = DummyVecEnv([lambda one=one: one for one in wrapped])  # type: ignore[misc]
    monitored = is_vecenv_wrapped(vec_env, VecMonitor) or vec_env.env_is_wrapped(Monitor)[0]
    return vec_env if monitored else VecMonitor(vec_env)


class VectorToVecEnv(VecEnv):
    """A Gymnasium vector environment as a VecEnv: the rows are touched one by one only where an episode ends.

    There, `infos[i]` holds the episode's last info, `"terminal_observation"` and `"TimeLimit.truncated"` (truncated and
    not terminated); rows that go on have an empty dict, whatever info the environment gives. As everywhere in SB3,
    `seed(s)` makes row i start from `s + i` at the next reset, and only there.

    Raises:
        ValueError: `env` does not reset ended rows in the same step (`AutoresetMode.SAME_STEP`).
        NotImplementedError: nested observation spaces.
    """

    def __init__(self, env: VectorEnv[Any, Any, Any]) -> None:
        check_same_step_autoreset(env)
        check_for_nested_spaces(env.single_observation_space)
        self.env = env
        super().__init__(env.num_envs, env.single_observation_space, env.single_action_space)

    def reset(self) -> VecEnvObs:
        if any(options != self._options[0] for options in self._options):
            raise ValueError(f"options must be the same for all rows, got {self._options}")
        seed = self._seeds[0]  # a vector environment gives row i seed + i by itself
        observations, infos = self.env.reset(seed=None if seed is None else int(seed), options=self._options[0] or None)
        self.reset_infos = [_row(infos, i) for i in range(self.num_envs)]
        self._reset_seeds()
        self._reset_options()
        return observations  # type: ignore[no-any-return]

    def step_async(self, actions: np.ndarray) -> None:
        self._actions = actions

    def step_wait(self) -> VecEnvStepReturn:
        observations, rewards, terminations, truncations, infos = self.env.step(self._actions)
        dones = np.logical_or(terminations, truncations)  # [N]
        row_infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        for i in np.flatnonzero(dones).tolist():
            reset_info = _row(infos, i)
            row_infos[i] = reset_info.pop("final_info", {}) | {
                "terminal_observation": reset_info.pop("final_obs"),
                "TimeLimit.truncated": bool(truncations[i] and not terminations[i]),
            }
            self.reset_infos[i] = reset_info
        return observations, rewards.astype(np.float32), dones, row_infos

    def close(self) -> None:
        self.env.close()

    def get_images(self) -> Sequence[np.ndarray | None]:
        """Each row's frame [height, width, 3]; None without `render_mode="rgb_array"`."""
        frames = self.env.render() if self.render_mode == "rgb_array" else None
        return [None] * self.num_envs if frames is None else frames  # type: ignore[return-value]

    def has_attr(self, attr_name: str) -> bool:
        """Whether all rows have the attribute; asked without a call, which a method may not be ready for."""
        base = self.env.unwrapped
        if hasattr(base, "call"):
            return all(base.call("has_wrapper_attr", attr_name))
        return hasattr(base, attr_name)

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """Each row's attribute; a vector environment without environments of its own has one value for all rows."""
        base = self.env.unwrapped
        values = base.get_attr(attr_name) if hasattr(base, "get_attr") else [getattr(base, attr_name)] * self.num_envs
        return [values[i] for i in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Set an attribute in all rows.

        Raises:
            ValueError: `indices` leave rows out.
        """
        self._check_all_rows(indices)
        base = self.env.unwrapped
        if hasattr(base, "set_attr"):
            base.set_attr(attr_name, [value] * self.num_envs)
        else:
            setattr(base, attr_name, value)

    def env_method(self, method_name: str, *args: Any, indices: VecEnvIndices = None, **kwargs: Any) -> list[Any]:
        """Call a method in all rows; a vector environment without environments of its own is called once for all.

        Raises:
            ValueError: `indices` leave rows out.
        """
        self._check_all_rows(indices)
        base = self.env.unwrapped
        if hasattr(base, "call"):
            return list(base.call(method_name, *args, **kwargs))
        return [getattr(base, method_name)(*args, **kwargs)] * self.num_envs

    def env_is_wrapped(self, wrapper_class: type, indices: VecEnvIndices = None) -> list[bool]:
        """Whether a vector wrapper of that class is around the rows; wrappers of single environments are not seen."""
        env: Any = self.env
        while isinstance(env, VectorWrapper) and not isinstance(env, wrapper_class):
            env = env.env
        return [isinstance(env, wrapper_class) for _ in self._get_indices(indices)]

    def _check_all_rows(self, indices: VecEnvIndices) -> None:
        if sorted(self._get_indices(indices)) != list(range(self.num_envs)):
            raise ValueError(f"indices must be None or name all {self.num_envs} rows, got {indices}")


def _with_observed(env: Any, previous_action_reward: bool) -> Any:
    """One environment, or a vector environment, with all that the agent is to observe."""
    check_observation_space(env.observation_space if isinstance(env, gym.Env) else env.single_observation_space)
    if gives_masks(env):
        env = ActionMasks(env)
    return PreviousActionReward(env) if previous_action_reward else env


def _row(infos: Mapping[str, Any], i: int) -> dict[str, Any]:
    """Row i's own info. A vector environment batches each key's values; `"_key"` masks the rows that have it."""
    row = {}
    for key, values in infos.items():
        is_mask = key.startswith("_") and key[1:] in infos
        mask = infos.get(f"_{key}")  # bool [N], or no mask where all rows have the key
        if is_mask or (mask is not None and not mask[i]):
            continue
        if isinstance(values, Mapping):
            row[key] = _row(values, i)
        else:
            row[key] = values[i] if isinstance(values, np.ndarray | list | tuple) else values
    return row


def _build(
    env: Environment, n_envs: int, env_kwargs: Mapping[str, Any]
) -> VecEnv | VectorEnv[Any, Any, Any] | list[gym.Env[Any, Any]]:
    """The environments that the arguments of `make_vec_env` ask for."""
    check_positive(n_envs=n_envs)
    if isinstance(env, VecEnv | VectorEnv | gym.Env):
        num_envs = 1 if isinstance(env, gym.Env) else env.num_envs
        if n_envs not in (1, num_envs):
            raise ValueError(f"n_envs must be left out or {num_envs}, as many as env has, got {n_envs}")
        if env_kwargs:
            raise ValueError(f"env_kwargs must be empty for an environment made already, got {dict(env_kwargs)}")
        return [env] if isinstance(env, gym.Env) else env
    if isinstance(env, str):
        spec = _find_spec(env)
        if _is_vectorized(spec):
            return gym.make_vec(spec, n_envs, "vector_entry_point", **env_kwargs)
        return [gym.make(spec, **env_kwargs) for _ in range(n_envs)]
    if callable(env):
        envs = [env(**env_kwargs) for _ in range(n_envs)]
        if not isinstance(envs[0], gym.Env):
            raise ValueError(f"env must make one gymnasium.Env a call, got {envs[0]!r}")
        return envs
    raise ValueError(f"env must be an id, a callable, a Gymnasium environment or a VecEnv, got {env!r}")


def _find_spec(env_id: str) -> EnvSpec:
    """The registered spec of `"Name-v0"` or `"module:Name-v0"`."""
    module, _, name = env_id.rpartition(":")
    try:
        if module:
            importlib.import_module(module)
        return gym.spec(name)
    except (gym.error.Error, ModuleNotFoundError) as error:
        raise ValueError(f"env must be a registered id, got {env_id!r}: {error}") from error


def _is_vectorized(spec: EnvSpec) -> bool:
    """Whether the id has a vector class of its own that resets ended rows in the same step."""
    entry_point = spec.vector_entry_point
    if entry_point is None or spec.additional_wrappers:
        return False
    creator = load_env_creator(entry_point) if isinstance(entry_point, str) else entry_point
    return getattr(creator, "metadata", {}).get("autoreset_mode") == AutoresetMode.SAME_STEP

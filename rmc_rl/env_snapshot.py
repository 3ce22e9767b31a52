"""Snapshots of environments, through all that `make_vec_env` puts around them, so that episodes go on exactly."""

import time
from collections.abc import Iterator
from typing import Any

import numpy as np
from gymnasium import Env, Space, Wrapper
from gymnasium.utils import seeding
from gymnasium.vector import SyncVectorEnv, VectorEnv, VectorWrapper
from gymnasium.wrappers import FlattenObservation, OrderEnforcing, PassiveEnvChecker, TimeLimit
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack, VecMonitor, VecNormalize
from stable_baselines3.common.vec_env.base_vec_env import VecEnv, VecEnvWrapper
from stable_baselines3.common.vec_env.stacked_observations import StackedObservations

from .checkpoint import one_line
from .normalizer import read_statistics, write_statistics
from .snapshot import Snapshot, pack, unpack
from .vec_env import VectorToVecEnv
from .wrappers import EnvActionMasks, EnvPreviousActionReward, VectorActionMasks, VectorPreviousActionReward

CLOCK = "t_start"  # a time of day: what is kept is how long ago it was
FIELDS: dict[type, dict[str, Any]] = {
    EnvActionMasks: {},
    EnvPreviousActionReward: {},
    FlattenObservation: {},
    OrderEnforcing: {"_has_reset": bool},
    PassiveEnvChecker: {},
    TimeLimit: {"_elapsed_steps": int | None},
    Monitor: {CLOCK: float, "rewards": list, "needs_reset": bool, "total_steps": int, "current_reset_info": dict},
    VectorActionMasks: {},
    VectorPreviousActionReward: {},
    VectorToVecEnv: {},
    VecMonitor: {CLOCK: float, "episode_count": int, "episode_returns": np.ndarray, "episode_lengths": np.ndarray},
    VecNormalize: {"returns": np.ndarray},
    VecFrameStack: {},
}
"""What changes in each wrapper from step to step, and of what type it is. Around any other, there is no snapshot."""


class _NoSnapshotError(Exception):
    """Environments that have none; says why."""


def snapshot_envs(vec_env: VecEnv) -> Snapshot | None:
    """All that the future of the environments depends on, their wrappers' state and random generators included.

    The environments have been reset, and are between two steps. One that can snapshot has `get_state()` and
    `set_state(state)`, a vector environment `get_state(row)` and `set_state(row, state)`; the state is a nest for
    `rmc_rl.snapshot.pack`. Neither `np_random` nor the generators of the spaces need to be in it. The last observation
    is not in the snapshot: whoever steps the environments has it.

    Returns:
        the snapshot; None if there can be none, for which `why_no_snapshot` gives the reason.
    """
    try:
        return _capture(vec_env)
    except _NoSnapshotError:
        return None


def why_no_snapshot(vec_env: VecEnv) -> str | None:
    """Why `snapshot_envs` gives None for these environments, in one line; None if it gives a snapshot."""
    try:
        _capture(vec_env)
    except _NoSnapshotError as reason:
        return str(reason)
    return None


def restore_envs(vec_env: VecEnv, snapshot: Snapshot) -> None:
    """Have environments that were built alike go on from where those of the snapshot were.

    They are reset first, so that `set_state` finds them as in any episode.

    Raises:
        ValueError: the snapshot is of other environments, or not a snapshot; these then need a reset.
    """
    vec_env.reset()
    try:
        _write(vec_env, unpack(snapshot))
    except Exception as error:  # `set_state` is foreign code, and a snapshot may come from a file
        raise ValueError(f"the snapshot does not fit the environments: {one_line(error)}") from error


def _capture(vec_env: VecEnv) -> Snapshot:
    try:
        return pack(_read(vec_env))
    except ValueError as error:  # a value that is not for a snapshot
        raise _NoSnapshotError(one_line(error)) from error


def _read(env: Any) -> list[dict[str, Any]]:
    """The state of each layer, from outside in."""
    return [{"type": type(layer).__name__, **_read_layer(layer)} for layer in _layers(env)]


def _write(env: Any, states: list[dict[str, Any]]) -> None:
    layers = list(_layers(env))
    names, saved = [type(layer).__name__ for layer in layers], [state["type"] for state in states]
    if saved != names:
        raise ValueError(f"it is of {' around '.join(saved)}, and these are {' around '.join(names)}")
    for layer, state in zip(layers, states, strict=True):
        _write_layer(layer, state)


def _layers(env: Any) -> Iterator[Any]:
    """Wrappers from outside in, and last what they are around."""
    while isinstance(env, VecEnvWrapper | VectorToVecEnv | Wrapper | VectorWrapper):
        yield env
        env = env.venv if isinstance(env, VecEnvWrapper) else env.env
    yield env


def _read_layer(layer: Any) -> dict[str, Any]:
    if type(layer) in FIELDS:
        state = {name: _read_field(layer, name) for name in FIELDS[type(layer)]}
        if isinstance(layer, VecNormalize):
            state["statistics"] = read_statistics(layer)
        if isinstance(layer, VecFrameStack):
            state["stacks"] = [part.stacked_obs for part in _stacks(layer.stacked_obs)]
        return state
    if type(layer) in (DummyVecEnv, SyncVectorEnv):
        return {"envs": [_read(env) for env in layer.envs]}
    return _read_base(layer)


def _write_layer(layer: Any, state: dict[str, Any]) -> None:
    if type(layer) in FIELDS:
        for name, kind in FIELDS[type(layer)].items():
            _write_field(layer, name, kind, state[name])
        if isinstance(layer, VecNormalize):
            write_statistics(layer, state["statistics"])
        if isinstance(layer, VecFrameStack):
            for part, stack in zip(_stacks(layer.stacked_obs), state["stacks"], strict=True):
                _write_field(part, "stacked_obs", np.ndarray, stack)
    elif type(layer) in (DummyVecEnv, SyncVectorEnv):
        for env, states in zip(layer.envs, state["envs"], strict=True):
            _write(env, states)
    else:
        _write_base(layer, state)


def _read_field(layer: Any, name: str) -> Any:
    value = getattr(layer, name)
    return time.time() - value if name == CLOCK else value


def _write_field(layer: Any, name: str, kind: Any, value: Any) -> None:
    if not isinstance(value, kind):
        raise ValueError(f"{name} of {type(layer).__name__} must be {kind}, got {value!r}")
    if isinstance(value, np.ndarray):
        present = getattr(layer, name)
        if (value.shape, value.dtype) != (present.shape, present.dtype):
            wanted = f"{present.dtype} {present.shape}"
            raise ValueError(f"{name} of {type(layer).__name__} must be {wanted}, got {value.dtype} {value.shape}")
    setattr(layer, name, time.time() - value if name == CLOCK else value)


def _stacks(stacked: StackedObservations[Any]) -> list[StackedObservations[Any]]:
    """The stack of a Box; those of the parts of a Dict."""
    parts = getattr(stacked, "sub_stacked_observations", None)
    return [stacked] if parts is None else list(parts.values())


def _read_base(env: Any) -> dict[str, Any]:
    """The state of what all wrappers are around: one environment, or many in a vector environment."""
    name = type(env).__name__
    if not isinstance(env, Env | VectorEnv) or isinstance(env, Wrapper | VectorWrapper):
        raise _NoSnapshotError(f"{name} is no wrapper, and no kind of many environments, whose state is known")
    get_state = getattr(env, "get_state", None)
    if get_state is None or not hasattr(env, "set_state"):
        raise _NoSnapshotError(f"{name} has no get_state and set_state")
    try:
        states = [get_state(*row) for row in _rows(env)]
    except Exception as error:  # foreign code
        raise _NoSnapshotError(f"get_state of {name} failed: {one_line(error)}") from error
    generators = [owner._np_random for owner in _owners(env)]
    return {
        "states": states,
        "seed": env._np_random_seed,
        "generators": [None if generator is None else generator.bit_generator.state for generator in generators],
    }


def _write_base(env: Any, state: dict[str, Any]) -> None:
    for row, row_state in zip(_rows(env), state["states"], strict=True):
        env.set_state(*row, row_state)
    for owner, generator in zip(_owners(env), state["generators"], strict=True):
        if generator is not None:
            if owner._np_random is None:
                owner._np_random, _ = seeding.np_random()
            owner._np_random.bit_generator.state = generator
    env._np_random_seed = state["seed"]  # without it, a look at `np_random_seed` would draw a new generator


def _rows(env: Any) -> list[tuple[int, ...]]:
    """What `get_state` is to be called with: once with each row, or once with nothing."""
    return [(row,) for row in range(env.num_envs)] if isinstance(env, VectorEnv) else [()]


def _owners(env: Any) -> list[Any]:
    """What may have drawn from a generator of its own: the environment, and its spaces with their parts."""
    names = ("action_space", "observation_space", "single_action_space", "single_observation_space")
    return [env, *(part for name in names if hasattr(env, name) for part in _parts(getattr(env, name)))]


def _parts(space: Space[Any]) -> Iterator[Space[Any]]:
    yield space
    parts = getattr(space, "spaces", ())
    for part in parts.values() if isinstance(parts, dict) else parts:
        yield from _parts(part)

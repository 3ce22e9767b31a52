"""The running statistics of a VecNormalize as JSON and tensors, in a file of their own or in another's."""

from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from .checkpoint import CheckpointError, PickledFileError, load_checkpoint, one_line, save_checkpoint
from .snapshot import Snapshot, pack, unpack

KIND = "normalizer"
FLAGS = ("training", "norm_obs", "norm_reward")
NUMBERS = ("clip_obs", "clip_reward", "gamma", "epsilon")


def save_normalizer(path: str | Path, normalizer: VecNormalize) -> Path:
    """Write settings and statistics to `path`: safetensors and JSON in one file, `.zip` added if there is no suffix.

    Raises:
        CheckpointError: the file cannot be written.
    """
    settings: dict[str, Any] = {name: bool(getattr(normalizer, name)) for name in FLAGS}
    settings |= {name: float(getattr(normalizer, name)) for name in NUMBERS}
    settings["norm_obs_keys"] = normalizer.norm_obs_keys
    snapshot = pack({"settings": settings, "statistics": read_statistics(normalizer)})
    return save_checkpoint(path, KIND, {"normalizer": snapshot.data}, snapshot.tensors)


def load_normalizer(path: str | Path, venv: VecEnv, *, trust: bool = False) -> VecNormalize:
    """A VecNormalize around `venv` with the settings and statistics saved at `path`.

    Args:
        path: the file.
        venv: environments with the observation space that was normalised.
        trust: also take what `VecNormalize.save` has pickled. That runs whatever code is in the file.

    Raises:
        CheckpointError: no such file, or it is damaged, holds something else, or does not fit `venv`.
    """
    try:
        data, tensors = load_checkpoint(path, KIND)
    except PickledFileError:
        if not trust:
            raise
        return VecNormalize.load(str(path), venv)
    try:
        state = unpack(Snapshot(data["normalizer"], tensors))
        normalizer = VecNormalize(venv, **_checked(state["settings"]))
        write_statistics(normalizer, state["statistics"])
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"cannot load {path}: it does not fit: {one_line(error)}") from error
    return normalizer


def read_statistics(normalizer: VecNormalize) -> dict[str, Any]:
    """Mean, variance and count of observations and returns, a nest for `rmc_rl.snapshot.pack`."""
    return {
        name: {"mean": np.array(running.mean), "var": np.array(running.var), "count": float(running.count)}
        for name, running in _running(normalizer).items()
    }


def write_statistics(normalizer: VecNormalize, statistics: dict[str, Any]) -> None:
    """Put what `read_statistics` gave into a VecNormalize for the same observations.

    Raises:
        ValueError: other parts, shapes or dtypes, or numbers that are no statistics; nothing is changed then.
    """
    parts = _running(normalizer)
    if statistics.keys() != parts.keys():
        raise ValueError(f"statistics must be of {sorted(parts)}, got {sorted(statistics)}")
    for name, running in parts.items():
        _check(name, statistics[name], np.shape(running.mean))
    for name, running in parts.items():
        running.mean, running.var = statistics[name]["mean"], statistics[name]["var"]
        running.count = statistics[name]["count"]


def _running(normalizer: VecNormalize) -> dict[str, RunningMeanStd]:
    observations = vars(normalizer).get("obs_rms", {})  # only there if observations are normalised
    parts = observations if isinstance(observations, dict) else {"": observations}
    return {"returns": normalizer.ret_rms} | {f"observations/{key}": part for key, part in parts.items()}


def _check(name: str, statistics: dict[str, Any], shape: tuple[int, ...]) -> None:
    for key in ("mean", "var"):
        array = statistics[key]
        if not isinstance(array, np.ndarray) or array.shape != shape or array.dtype != np.float64:
            got = f"{array.dtype} {array.shape}" if isinstance(array, np.ndarray) else repr(array)
            raise ValueError(f"{key} of {name} must be float64 {shape}, got {got}")
        if not np.isfinite(array).all() or (key == "var" and (array < 0).any()):
            raise ValueError(f"{key} of {name} must be finite{' and at least 0' if key == 'var' else ''}")
    count = statistics["count"]
    if not isinstance(count, float) or not 0 < count < np.inf:
        raise ValueError(f"count of {name} must be a finite number above 0, got {count!r}")


def _checked(settings: dict[str, Any]) -> dict[str, Any]:
    for name in FLAGS:
        if not isinstance(settings[name], bool):
            raise ValueError(f"{name} must be True or False, got {settings[name]!r}")
    for name in NUMBERS:
        if not isinstance(settings[name], int | float) or not settings[name] >= 0:
            raise ValueError(f"{name} must be a number of at least 0, got {settings[name]!r}")
    return settings

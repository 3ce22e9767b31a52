"""The statistics of a VecNormalize in files that hold no code."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.utils.env_checker import data_equivalence
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from rmc_rl.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from rmc_rl.normalizer import load_normalizer, read_statistics, save_normalizer, write_statistics
from rmc_rl.snapshot import Snapshot, pack, unpack
from tests.faulty_envs import FaultyEnv

BOX = spaces.Box(-1.0, 1.0, (3,))
SETTINGS: dict[str, Any] = {"clip_obs": 1.25, "clip_reward": np.inf, "gamma": 0.75, "epsilon": 1e-3}


class WithClock(FaultyEnv):
    """The same, with its clock beside it."""

    observation_space = spaces.Dict({"place": BOX, "clock": spaces.Box(0, 9, (1,))})

    def _observation(self) -> Any:
        return {"place": super()._observation(), "clock": np.array([self.episode_steps], np.float32)}


def envs(num_envs: int = 2, kind: type[FaultyEnv] = FaultyEnv) -> DummyVecEnv:
    return DummyVecEnv([lambda: kind(999, "reward")] * num_envs)


def played(kind: type[FaultyEnv] = FaultyEnv, **settings: Any) -> VecNormalize:
    env = VecNormalize(envs(kind=kind), **settings)
    env.seed(6)
    env.reset()
    for _ in range(11):
        env.step(np.zeros(2, np.int64))
    return env


def assert_same(env: VecNormalize, other: VecNormalize) -> None:
    for name in ("training", "norm_obs", "norm_reward", "norm_obs_keys", *SETTINGS):
        assert getattr(env, name) == getattr(other, name)
    assert data_equivalence(read_statistics(env), read_statistics(other), exact=True)


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        (FaultyEnv, {}),
        (FaultyEnv, SETTINGS | {"training": False}),
        (FaultyEnv, {"norm_obs": False}),
        (WithClock, {"norm_reward": False}),
        (WithClock, {"norm_obs_keys": ["place"]}),
    ],
)
def test_what_is_loaded_normalises_as_what_was_saved(
    kind: type[FaultyEnv], settings: dict[str, Any], tmp_path: Path
) -> None:
    """Observations and rewards, for another number of environments, too."""
    env = played(kind, **settings)
    loaded = load_normalizer(save_normalizer(tmp_path / "normalizer", env), envs(5, kind))
    assert_same(env, loaded)
    assert loaded.num_envs == 5
    observation: Any = np.array([0.3, -0.2, 0.9], np.float32)
    if kind is WithClock:
        observation = {"place": observation, "clock": np.array([4.0], np.float32)}
    assert data_equivalence(loaded.normalize_obs(observation), env.normalize_obs(observation), exact=True)
    np.testing.assert_array_equal(loaded.normalize_reward(np.arange(3.0)), env.normalize_reward(np.arange(3.0)))


def test_statistics_are_copies() -> None:
    """What is counted later changes neither those that were read nor those that were read from."""
    env, other = played(), VecNormalize(envs())
    statistics, expected = read_statistics(env), read_statistics(env)
    write_statistics(other, statistics)
    other.reset()
    other.step(np.zeros(2, np.int64))
    assert data_equivalence(statistics, expected, exact=True)
    assert data_equivalence(read_statistics(env), expected, exact=True)


def tampered(path: Path, change: Any) -> Path:
    data, tensors = load_checkpoint(path, "normalizer")
    state = unpack(Snapshot(data["normalizer"], tensors))
    change(state["settings"], state["statistics"])
    snapshot = pack(state)
    return save_checkpoint(path, "normalizer", {"normalizer": snapshot.data}, snapshot.tensors)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda settings, statistics: statistics["observations/"].update(mean=np.zeros(2)),
            r"mean of observations/ must be float64 \(3,\), got float64 \(2,\)",
        ),
        (
            lambda settings, statistics: statistics["observations/"].update(var=np.zeros(3, np.float32)),
            r"var of observations/ must be float64 \(3,\), got float32 \(3,\)",
        ),
        (lambda settings, statistics: statistics["returns"].update(mean=0.5), "mean of returns must be .*, got 0.5"),
        (
            lambda settings, statistics: statistics["observations/"]["var"].fill(-1),
            "var of observations/ must be finite and at least 0",
        ),
        (lambda settings, statistics: statistics["observations/"]["mean"].fill(np.nan), "must be finite"),
        (lambda settings, statistics: statistics["returns"].update(count=0.0), "count of returns must be .*, got 0.0"),
        (lambda settings, statistics: statistics.pop("returns"), "statistics must be of"),
        (lambda settings, statistics: statistics["returns"].pop("var"), "'var'"),
        (lambda settings, statistics: settings.update(training=1), "training must be True or False, got 1"),
        (lambda settings, statistics: settings.update(clip_obs="10"), "clip_obs must be a number .*, got '10'"),
        (lambda settings, statistics: settings.update(gamma=np.float64("nan")), "gamma must be a number of at least 0"),
        (lambda settings, statistics: settings.update(no_such=1), "no_such"),
        (lambda settings, statistics: settings.pop("epsilon"), "epsilon"),
    ],
)
def test_what_does_not_fit_is_refused(change: Any, message: str, tmp_path: Path) -> None:
    path = tampered(save_normalizer(tmp_path / "normalizer", played()), change)
    with pytest.raises(CheckpointError, match=rf"^cannot load .*normalizer\.zip: it does not fit: .*{message}"):
        load_normalizer(path, envs())


def test_statistics_that_do_not_fit_change_nothing() -> None:
    env, other = played(), played()
    statistics = read_statistics(env)
    statistics["returns"]["count"] = -1.0
    for part in statistics.values():
        part["mean"] += 1
    with pytest.raises(ValueError, match="count of returns"):
        write_statistics(env, statistics)
    assert_same(env, other)


def test_other_observations_are_refused(tmp_path: Path) -> None:
    path = save_normalizer(tmp_path / "normalizer", played())
    with pytest.raises(CheckpointError, match="it does not fit: statistics must be of"):
        load_normalizer(path, envs(kind=WithClock))


class Malice:
    """Its pickle makes a file when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_pickled_statistics_are_refused_unless_they_are_trusted(tmp_path: Path) -> None:
    path, evidence, env = tmp_path / "normalizer.pkl", tmp_path / "evidence", played()
    env.save(str(path))
    with pytest.raises(CheckpointError, match=r"normalizer\.pkl: it holds pickled data"):
        load_normalizer(path, envs())
    assert_same(env, load_normalizer(path, envs(), trust=True))
    path.write_bytes(pickle.dumps(Malice(evidence)))
    with pytest.raises(CheckpointError, match=r"normalizer\.pkl: it holds pickled data"):
        load_normalizer(path, envs())
    assert not evidence.exists()

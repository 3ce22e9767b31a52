"""The one rollout path for evaluation, video and play."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv

from rmc_rl.policies import NumpyState, RecurrentPolicy

from .actor import VecObservation


class Step(NamedTuple):
    """What happened in one step of B environments."""

    actions: NDArray[Any]
    """[B, ...]."""
    rewards: NDArray[Any]
    """[B]."""
    dones: NDArray[np.bool_]
    """[B]: the episode ended; the environment has begun the next one."""
    infos: list[dict[str, Any]]
    """Of each environment; of an ended episode, its last info."""


@dataclass(frozen=True)
class Evaluation:
    """Episodes that a policy has played, in the order of the environments."""

    returns: NDArray[np.float64]
    """[N]: sums of unscaled rewards."""
    lengths: NDArray[np.int64]
    """[N], in steps."""
    infos: list[dict[str, Any]]
    """Each episode's last info."""

    def summary(self) -> dict[str, float]:
        """Mean return with its standard error, mean length and, in Mini-Pacman, the mean level reached."""
        count = len(self.returns)
        summary = {
            "episodes": count,
            "mean_return": float(self.returns.mean()),
            "standard_error": float(self.returns.std(ddof=1) / np.sqrt(count)) if count > 1 else float("nan"),
            "mean_length": float(self.lengths.mean()),
        }
        if all("level" in info for info in self.infos):
            summary["mean_level"] = float(np.mean([info["level"] for info in self.infos]))
        return summary


def rollout(policy: RecurrentPolicy, env: VecEnv, seed: int, deterministic: bool = False) -> Iterator[Step]:
    """Play on for ever, from fresh episodes; row i of the environments starts from `seed + i`.

    Actions are sampled from torch's global generator.
    """
    env.seed(seed)
    observation = cast(VecObservation, env.reset())
    state: NumpyState | None = None
    starts = np.ones(env.num_envs, dtype=bool)
    while True:
        actions, state = policy.predict(observation, state, starts, deterministic)
        next_observation, rewards, starts, infos = env.step(actions)
        observation = cast(VecObservation, next_observation)
        yield Step(actions, rewards, starts, infos)


def evaluate(policy: RecurrentPolicy, env: VecEnv, episodes: int, seed: int, deterministic: bool = False) -> Evaluation:
    """Play `episodes` episodes, without touching the random numbers that anything else will draw.

    Every environment plays its equal share and stops there: taking whichever episodes end first would favour the short.

    Raises:
        ValueError: fewer than one episode.
    """
    if episodes < 1:
        raise ValueError(f"episodes must be at least 1, got {episodes}")
    shares = (episodes + np.arange(env.num_envs)) // env.num_envs  # [B], adds up to `episodes`
    returns, lengths = np.zeros(env.num_envs), np.zeros(env.num_envs, dtype=np.int64)
    finished: list[list[tuple[float, int, dict[str, Any]]]] = [[] for _ in shares]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for step in rollout(policy, env, seed, deterministic):
            returns += step.rewards
            lengths += 1
            for row in np.flatnonzero(step.dones):
                if len(finished[row]) < shares[row]:
                    finished[row].append((returns[row], lengths[row], step.infos[row]))
                returns[row] = lengths[row] = 0
            if sum(map(len, finished)) == episodes:
                break
    all_returns, all_lengths, infos = zip(*(episode for row in finished for episode in row), strict=True)
    return Evaluation(np.array(all_returns), np.array(all_lengths), list(infos))

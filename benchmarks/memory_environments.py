"""Agents on environments that need memory and that others wrote: `python -m benchmarks.memory_environments`.

Every row of an environment's table is a core in A2C, or in sb3-contrib's RecurrentPPO; all rows have the same processor
time, settings and room for a state, 256 numbers. A run ends before its time when the mean return of its last 100
episodes is halfway from what solves the environment to the best there is. What counts is the last model, on 200 fresh
episodes, its actions sampled.

Runs that have ended are not made again, and one that was stopped begins anew: after a Ctrl-C, the same command goes on.
After every run the table is written anew (table.md), with all its runs (runs.csv), their learning curves (curves.csv)
and a figure of these (curves.png). `--rows RMC` in one terminal and `--rows LSTM` in another train side by side.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.utils import safe_mean
from stable_baselines3.common.vec_env import VecNormalize

from agents import A2C
from agents.evaluate import evaluate
from agents.training import FINAL_SEED
from rmc_rl.run_folder import to_json, write_text
from rmc_rl.vec_env import make_vec_env

from .memory_tables import write_tables
from .tables import slug

RUNS = Path("runs", "memory_environments")
NO_OTHER_LIMIT = 10**9
"""Environment steps: it is the time that ends a run, or its success."""
NUM_ENVS = 32
UNROLL_LENGTH = 32
LEARNING_RATE = 2e-3
PPO_SETTINGS: dict[str, Any] = {"batch_size": 512, "n_epochs": 5}
EPISODES = 200
"""Of the evaluation at a run's end."""
POINTS = 100
"""Of a learning curve, at most."""
SEEN = [0, 2]
"""CartPole's position and angle; what is left out are their velocities."""

Make = Callable[[], gym.Env[Any, Any]]


def cart_pole() -> gym.Env[Any, Any]:
    """CartPole without velocities, as in the tests of sb3-contrib."""
    env = gym.make("CartPole-v1", disable_env_checker=True)
    full = env.observation_space
    assert isinstance(full, gym.spaces.Box)
    seen = gym.spaces.Box(full.low[SEEN], full.high[SEEN])
    return gym.wrappers.TransformObservation(env, lambda observation: observation[SEEN], seen)


def popgym(name: str, cards: int | None = None) -> gym.Env[Any, Any]:
    """An environment of POPGym, its observations one-hot, with its whole deck or its first cards only."""
    import popgym  # noqa: F401, it registers them

    env = gym.make(f"popgym-{name}-v0", disable_env_checker=True)
    if cards is not None:
        deck: Any = env.unwrapped.deck  # type: ignore[attr-defined]
        deck.num_cards = cards  # as many as are shuffled and dealt
    return gym.wrappers.FlattenObservation(env)


def minigrid(name: str) -> gym.Env[Any, Any]:
    """An environment of MiniGrid; the agent sees the 7 x 7 cells before it, each as one-hots."""
    from minigrid.wrappers import ImgObsWrapper, OneHotPartialObsWrapper

    one_hot: Any = OneHotPartialObsWrapper  # an untyped call else
    image: Any = ImgObsWrapper
    env = image(one_hot(gym.make(f"MiniGrid-{name}-v0", disable_env_checker=True)))
    return gym.wrappers.DtypeObservation(gym.wrappers.FlattenObservation(env), np.float32)


A2C_ROWS = {"RMC": "RMCPolicy", "LSTM": "LSTMPolicy", "minGRU": "MinGRUPolicy", "feed-forward": "FeedForwardPolicy"}
PPO_ROWS = {"RMC, RecurrentPPO": "RMCPolicy", "LSTM, RecurrentPPO": "LSTMPolicy"}
CORE_KWARGS: dict[str, dict[str, int]] = {
    "RMCPolicy": {"mem_slots": 4, "head_size": 16, "num_heads": 4},
    "LSTMPolicy": {"hidden_size": 128},
    "MinGRUPolicy": {"hidden_size": 256},
    "FeedForwardPolicy": {},
}


@dataclass(frozen=True)
class Environment:
    """What is played, and when it counts as solved."""

    make: Make
    best: float
    """The highest return there is; where luck has a part in it, the mean of a player who forgets nothing."""
    solved: float
    """A mean return from which on it is solved."""
    discount: float = 0.99
    rows: dict[str, str] = field(default_factory=lambda: A2C_ROWS)
    """Policies by the name of the row."""

    @property
    def enough(self) -> float:
        """A mean return at which training ends: more than solves it, so that fresh episodes find it solved too."""
        return (self.solved + self.best) / 2


AT_ONCE = 0.5
"""Discount where an action is rewarded in its own step and changes nothing: a longer horizon would only add noise."""
ENVIRONMENTS = {
    "CartPole": Environment(cart_pole, best=500, solved=450, rows=A2C_ROWS | PPO_ROWS),
    "RepeatPreviousEasy": Environment(partial(popgym, "RepeatPreviousEasy"), best=1, solved=0.9, discount=AT_ONCE),
    "Autoencode8": Environment(partial(popgym, "AutoencodeEasy", cards=8), best=1, solved=0.9, discount=AT_ONCE),
    "AutoencodeEasy": Environment(partial(popgym, "AutoencodeEasy"), best=1, solved=0.9, discount=AT_ONCE),
    "ConcentrationEasy": Environment(partial(popgym, "ConcentrationEasy"), best=0.82, solved=0.7),
    "MemoryS11": Environment(partial(minigrid, "MemoryS11"), best=0.98, solved=0.9),
}
DEFAULT = ("CartPole", "RepeatPreviousEasy", "Autoencode8")


@dataclass(frozen=True)
class Run:
    """One row of a table with one seed."""

    environment: str
    row: str
    seed: int
    minutes: float

    @property
    def path(self) -> Path:
        """What there is of it once it has ended."""
        return RUNS / f"{self.environment.lower()}-{slug(self.row)}-{self.minutes:g}min-seed{self.seed}.json"

    def agent(self) -> BaseAlgorithm:
        """A new one."""
        environment = ENVIRONMENTS[self.environment]
        policy, discount = environment.rows[self.row], environment.discount
        env = VecNormalize(make_vec_env(environment.make, NUM_ENVS), norm_obs=False, gamma=discount)
        arguments: dict[str, Any] = {
            "policy_kwargs": {"core_kwargs": CORE_KWARGS[policy], "embedding_size": 64},
            "seed": self.seed,
            "device": "cpu",
            "learning_rate": LEARNING_RATE,
        }
        agent: BaseAlgorithm
        if self.row in PPO_ROWS:
            agent = recurrent_ppo()(policy, env, gamma=discount, n_steps=UNROLL_LENGTH, **PPO_SETTINGS, **arguments)
        else:
            agent = A2C(policy, env, discount=discount, unroll_length=UNROLL_LENGTH, **arguments)
        agent.set_logger(Logger(None, []))
        return agent

    def make(self) -> dict[str, Any]:
        """Train until time is over or the environment is solved, evaluate, and write down what came of it."""
        torch.set_num_threads(1)
        self.agent().learn(1)  # what that compiles shall not count as training
        environment, agent = ENVIRONMENTS[self.environment], self.agent()
        limit = Limit(self.minutes, environment.enough)
        agent.learn(NO_OTHER_LIMIT, limit)
        games = make_vec_env(environment.make, min(EPISODES, 100))
        evaluation = evaluate(agent.policy, games, EPISODES, FINAL_SEED)  # type: ignore[arg-type]
        network: Any = agent.policy.network
        result = {
            "environment": self.environment,
            "row": self.row,
            "seed": self.seed,
            "mean_return": float(evaluation.returns.mean()),
            "solved": bool(evaluation.returns.mean() >= environment.solved),
            "solved_from": environment.solved,
            "best": environment.best,
            "steps": agent.num_timesteps,
            "cpu_seconds": round(limit.seconds, 1),
            "parameters": sum(parameter.numel() for parameter in network.parameters()),
            "state_size": sum(leaf.numel() for leaf in network.initial_state(1)),
        }
        RUNS.mkdir(parents=True, exist_ok=True)
        write_text(self.path, to_json({"result": result, "curve": limit.curve}))
        return result


def recurrent_ppo() -> type[Any]:
    """That of sb3-contrib."""
    from sb3_contrib import RecurrentPPO

    return RecurrentPPO


class Limit(BaseCallback):
    """Ends training after so many minutes of processor time, or when the last episodes' mean return is enough."""

    def __init__(self, minutes: float, enough: float) -> None:
        super().__init__()
        self.limit, self.enough = 60 * minutes, enough
        self.seconds = 0.0
        self.curve: list[tuple[int, float, float]] = []
        """Steps, processor seconds and mean return of the last episodes."""

    def _on_training_start(self) -> None:
        self.begin = time.process_time()
        self.go_on = True

    def _on_rollout_start(self) -> None:
        self.seconds = time.process_time() - self.begin
        episodes = self.model.ep_info_buffer
        assert episodes is not None
        mean_return = safe_mean([episode["r"] for episode in episodes])  # NaN where there is none
        is_enough = len(episodes) == episodes.maxlen and mean_return >= self.enough
        self.go_on = self.seconds < self.limit and not is_enough
        if episodes and (not self.go_on or self.seconds >= len(self.curve) * self.limit / POINTS):
            self.curve.append((self.num_timesteps, round(self.seconds, 2), round(float(mean_return), 4)))

    def _on_step(self) -> bool:
        return self.go_on


def main(arguments: list[str]) -> int:
    """Make what is missing of the table. Returns the exit code: 0, 2 for bad input, or 130 if stopped."""
    parser = argparse.ArgumentParser("python -m benchmarks.memory_environments", description=__doc__)
    names = ", ".join(ENVIRONMENTS)
    parser.add_argument("environments", nargs="*", metavar="ENVIRONMENT", help=f"of {names}; default: the first three")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="default: 0 1 2")
    parser.add_argument("--minutes", type=float, default=2.0, help="processor time of a run, at most; default: 2")
    parser.add_argument("--rows", nargs="+", help=f"of {', '.join(A2C_ROWS | PPO_ROWS)}; default: all")
    parser.add_argument("--output", type=Path, default=RUNS, help=f"folder of the table; default: {RUNS}")
    options = parser.parse_args(arguments)
    for option, values, legal in (
        ("ENVIRONMENT", options.environments, ENVIRONMENTS),
        ("--rows", options.rows or [], A2C_ROWS | PPO_ROWS),
    ):
        if unknown := set(values) - legal.keys():
            parser.error(f"{option} must be among {', '.join(legal)}, got {', '.join(sorted(unknown))}")
    for option, value, is_legal, legal_values in (
        ("--minutes", options.minutes, 0 < options.minutes < float("inf"), "above 0"),
        ("--seeds", options.seeds, all(0 <= seed < 1_000_000 for seed in options.seeds), "from 0 to 999999"),
    ):
        if not is_legal:
            parser.error(f"{option} must be {legal_values}, got {value}")
    runs = [
        Run(name, row, seed, options.minutes)
        for seed, name in product(options.seeds, options.environments or DEFAULT)  # first all with one seed
        for row in ENVIRONMENTS[name].rows
    ]
    try:
        for run in runs:
            if run.row in (options.rows or A2C_ROWS | PPO_ROWS) and not run.path.is_file():
                print(json.dumps(run.make()), flush=True)
                write_tables([run.path for run in runs], options.output)
    except KeyboardInterrupt:
        print("stopped; the same command goes on")
        return 130
    except ModuleNotFoundError as error:
        parser.error(f"ENVIRONMENT needs {error.name}: pip install 'rmc-rl[bench]'")
    write_tables([run.path for run in runs], options.output)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""IMPALA's trained steps per second on Mini-Pacman, wherever its actors run: `python -m benchmarks.impala`.

Prints one JSON object a line: each placement of actors, with each core, against lock step. The configurations take
turns; a figure is the median of their rounds, with the slowest and the fastest, and a ratio the median of the rounds'
own. Every unroll is learned from once; the clock starts after the first batches.

With `--rival`, RLlib's IMPALA (an LSTM of 256, 64 environments in each of one or two runners) takes turns with them. It
needs `pip install "ray[rllib]"`, which wants an older Gymnasium: best done in a virtual environment of its own.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple, Protocol, get_args

import torch
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.type_aliases import MaybeCallback

from agents import IMPALA
from agents.placement import Placement
from agents.processes import settled
from agents.replicas import replicated

from .train import CORES, ENVIRONMENT

UNROLL_LENGTH = 40
WARM_UP_BATCHES = 4
Kind = Literal["sync", "local", "ray"]
Precision = Literal["bf16"] | None  # None: that of the learner, float32


class Candidate(Protocol):
    """Something that trains; a round lasts about so many seconds, and gives trained steps per second."""

    def measure(self, seconds: float) -> float: ...


class Clock:
    """A callback that starts when so many steps are learned from, and stops training so many seconds later."""

    def __init__(self, warm_up_steps: int, seconds: float) -> None:
        self.warm_up_steps, self.seconds = warm_up_steps, seconds
        self.begin: tuple[float, int] | None = None
        self.end = (0.0, 0)

    def __call__(self, variables: dict[str, Any], _: dict[str, Any]) -> bool:
        now = time.perf_counter(), variables["self"].num_timesteps
        if self.begin is None:
            if now[1] >= self.warm_up_steps:
                self.begin = now
            return True
        self.end = now
        return now[0] - self.begin[0] < self.seconds

    def steps_per_second(self) -> float:
        assert self.begin is not None
        return (self.end[1] - self.begin[1]) / (self.end[0] - self.begin[0])


class Ours(NamedTuple):
    """IMPALA with one of the cores, learners in replicas."""

    core: str
    kind: Kind
    learners: int
    actors: int
    num_envs: int
    actors_precision: Precision = None

    def measure(self, seconds: float) -> float:
        with replicated(self.learners, partial(other_learner, self)):
            clock = Clock(WARM_UP_BATCHES * self.num_envs * UNROLL_LENGTH, seconds)
            self.learn(0, clock)
            return clock.steps_per_second()

    def learn(self, rank: int, callback: MaybeCallback = None) -> None:
        agent = self.make_agent(rank)
        with settled():
            agent.learn(10**12, callback)

    def make_agent(self, rank: int) -> IMPALA:
        policy, core_kwargs = CORES[self.core]
        placement = Placement(kind=self.kind, actors=self.actors, precision=self.actors_precision)
        agent = IMPALA(
            policy,
            "envs:MiniPacman-v0",
            self.num_envs // self.learners,
            env_kwargs=ENVIRONMENT,
            previous_action_reward=True,
            policy_kwargs={"core_kwargs": core_kwargs},
            placement=placement,
            seed=rank * self.num_envs,
            device="cpu",
            unroll_length=UNROLL_LENGTH,
            batch_size=self.num_envs,
        )
        agent.set_logger(Logger(None, []))
        return agent


def other_learner(candidate: Ours, rank: int) -> Callable[[], object]:
    torch.set_num_threads(1)
    return partial(candidate.learn, rank)  # until the first one stops


class RLlib(NamedTuple):
    """RLlib's IMPALA with an LSTM of 256, on single environments with flat observations."""

    runners: int

    def measure(self, seconds: float) -> float:
        from ray.rllib.algorithms.impala import IMPALAConfig
        from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig
        from ray.tune.registry import register_env

        register_env("MiniPacman", make_flat_env)
        make_config: Any = IMPALAConfig
        config = (
            make_config()
            .environment("MiniPacman")
            .env_runners(
                num_env_runners=self.runners, num_envs_per_env_runner=64, rollout_fragment_length=UNROLL_LENGTH
            )
            .learners(num_learners=0)
            .rl_module(
                model_config=DefaultModelConfig(
                    fcnet_hiddens=[256], use_lstm=True, lstm_cell_size=256, max_seq_len=UNROLL_LENGTH
                )
            )
            .training(train_batch_size_per_learner=64 * UNROLL_LENGTH)
            .reporting(min_time_s_per_iteration=1)
        )
        algorithm = config.build_algo()
        try:
            while trained_steps(algorithm.train()) < 10 * 64 * UNROLL_LENGTH:
                pass
            begin, before = time.perf_counter(), trained_steps(algorithm.train())
            after = before
            begin = time.perf_counter()
            while time.perf_counter() - begin < seconds:
                after = trained_steps(algorithm.train())
            return (after - before) / (time.perf_counter() - begin)
        finally:
            algorithm.stop()


def make_flat_env(_: dict[str, Any]) -> Any:
    import gymnasium
    import numpy as np

    env = gymnasium.make("envs:MiniPacman-v0", **ENVIRONMENT)
    flat = gymnasium.wrappers.FlattenObservation(env)
    space = gymnasium.spaces.Box(0.0, 1.0, flat.observation_space.shape, np.float32)
    return gymnasium.wrappers.TransformObservation(flat, lambda planes: planes.astype(np.float32), space)


def trained_steps(result: dict[str, Any]) -> float:
    return float(result.get("learners", {}).get("__all_modules__", {}).get("num_env_steps_trained_lifetime") or 0)


def make_candidates(num_envs: int, kinds: list[Kind], cores: list[str]) -> dict[str, Candidate]:
    """Lock step in two processes; and actors apart, one learner with one or two, and two with one each."""
    settings: dict[Kind, list[tuple[int, int, Precision]]] = {
        "sync": [(2, 1, None)],
        "local": [(1, 1, None), (1, 2, None), (2, 1, None), (2, 1, "bf16")],
        "ray": [(1, 1, None), (1, 2, None)],
    }
    return {
        f"{core}, {kind}, {learners} x {actors}{', bf16 actors' if precision else ''}": Ours(
            core, kind, learners, actors, num_envs, precision
        )
        for core in cores
        for kind in kinds
        for learners, actors, precision in settings[kind]
    }


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser("python -m benchmarks.impala", description=__doc__)
    parser.add_argument(
        "--kinds", nargs="+", default=["sync", "local"], choices=get_args(Kind), help="placements of actors"
    )
    parser.add_argument("--cores", nargs="+", default=["LSTM 256", "RMC 4 x 256"], choices=CORES)
    parser.add_argument("--num-envs", type=int, default=256, help="of all actors together")
    parser.add_argument("--seconds", type=float, default=6.0, help="of one round of one configuration, about")
    parser.add_argument("--rounds", type=int, default=3, help="of each configuration")
    parser.add_argument("--rival", action="store_true", help="run RLlib's IMPALA as well")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    candidates = make_candidates(options.num_envs, options.kinds, options.cores)
    if options.rival:
        candidates |= {f"RLlib, {runners} runners": RLlib(runners) for runners in (1, 2)}
    rates: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(options.rounds):
        for name, candidate in candidates.items():
            rates[name].append(candidate.measure(options.seconds))
    rivals = [rates[name] for name in rates if name.startswith("RLlib")]
    for name, found in rates.items():
        figures = {
            "steps_per_second": round(statistics.median(found)),
            "slowest": round(min(found)),
            "fastest": round(max(found)),
        }
        lock_step = rates.get(f"{name.partition(',')[0]}, sync, 2 x 1")
        ratios = {}
        if lock_step and lock_step is not found:
            ratios["to_sync"] = round(statistics.median(a / b for a, b in zip(found, lock_step, strict=True)), 3)
        if rivals and not name.startswith("RLlib"):
            best = [max(each) for each in zip(*rivals, strict=True)]
            ratios["to_rllib"] = round(statistics.median(a / b for a, b in zip(found, best, strict=True)), 2)
        print(json.dumps({"name": name, "num_envs": options.num_envs, **figures, **ratios}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])

"""Trained steps per second of A2C on Mini-Pacman through a 5 x 5 viewport: `python -m benchmarks.train`.

Prints one JSON object a line. Every step is acted and learned from once, and all that `learn` does counts, in as many
replicas as `train.py` would use. The configurations take turns, so that a machine that slows down does so for all of
them; a figure is the median of a configuration's rounds, with the slowest and the fastest. What the first replica's
environments and learner take is measured from outside; acting and waiting for the others is what remains.

With `--rival`, sb3-contrib's RecurrentPPO takes turns with them: an LSTM of 256, shared by actor and critic, one epoch
over full batches, the same unrolls; and `ratio` compares the medians. It needs the extra `bench`.
"""

import argparse
import json
import math
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, Protocol

import torch
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

from agents import A2C
from agents.config import AgentRun, EnvironmentConfig
from agents.processes import settled
from agents.replicas import replicated
from agents.training import resolve_replicas
from rmc_rl.cores import native
from rmc_rl.vec_env import make_vec_env

CORES: dict[str, tuple[str, dict[str, Any]]] = {
    "LSTM 256": ("LSTMPolicy", {"hidden_size": 256}),
    "RMC 4 x 64": ("RMCPolicy", {"mem_slots": 4, "num_heads": 4, "head_size": 16, "gate_style": "memory"}),
    "RMC 4 x 256": ("RMCPolicy", {"mem_slots": 4, "num_heads": 4, "head_size": 64, "gate_style": "memory"}),
}
ENVIRONMENT: dict[str, Any] = {"viewport": 5, "observation": "planes"}


class Round(NamedTuple):
    """Of one round: trained steps per second, and which share of the time went where."""

    steps_per_second: float
    environment: float = 0.0
    learning: float = 0.0


class Candidate(Protocol):
    """Something that trains; a round lasts about so many seconds."""

    def measure(self, seconds: float) -> Round: ...


class Stopwatch:
    """Takes a method's place, passes its calls on, and counts the seconds that they take."""

    def __init__(self, owner: object, name: str) -> None:
        self.function: Callable[..., Any] = getattr(owner, name)
        self.seconds = 0.0
        setattr(owner, name, self)

    def __call__(self, *args: Any) -> Any:
        begin = time.perf_counter()
        try:
            return self.function(*args)
        finally:
            self.seconds += time.perf_counter() - begin


class Ours(NamedTuple):
    """A2C with one of the cores, in replicas."""

    core: str
    num_envs: int
    unroll_length: int
    number: int
    precision: str = "fp32"

    def measure(self, seconds: float) -> Round:
        with replicated(self.number, partial(other_replica, self)):
            return self.train(seconds)

    def train(self, seconds: float) -> Round:
        """Warm up, then train for about so long, as long as the first replica says."""
        agent = self.make_agent()
        agent.learn(3 * self.num_envs * self.unroll_length, reset_num_timesteps=False)
        environment, learning = Stopwatch(agent.env, "step"), Stopwatch(agent.learner, "update")
        with settled():
            before, updates, begin = agent.num_timesteps, agent._n_updates, time.perf_counter()

            def go_on(*_: Any) -> bool:
                return time.perf_counter() - begin < seconds or agent._n_updates == updates  # there is one update

            agent.learn(10**12, go_on, reset_num_timesteps=False)
            elapsed = time.perf_counter() - begin
        return Round(
            (agent.num_timesteps - before) / elapsed, environment.seconds / elapsed, learning.seconds / elapsed
        )

    def make_agent(self) -> A2C:
        policy, core_kwargs = CORES[self.core]
        agent = A2C(
            policy,
            "envs:MiniPacman-v0",
            self.num_envs // self.number,
            env_kwargs=ENVIRONMENT,
            previous_action_reward=True,
            policy_kwargs={"core_kwargs": core_kwargs, "precision": self.precision},
            seed=0,
            device="cpu",
            unroll_length=self.unroll_length,
        )
        agent.set_logger(Logger(None, []))
        return agent


def other_replica(candidate: Ours, rank: int) -> Callable[[], object]:
    torch.set_num_threads(1)
    return partial(candidate.train, math.inf)  # until the first replica stops


class Rival:
    """RecurrentPPO of sb3-contrib, as fast as its settings make it."""

    def __init__(self, make_env: Callable[[], VecEnv], unroll_length: int, threads: int) -> None:
        from sb3_contrib import RecurrentPPO

        env = make_env()
        self.threads, self.steps = threads, env.num_envs * unroll_length
        self.agent = RecurrentPPO(
            "MlpLstmPolicy",
            env,
            n_steps=unroll_length,
            batch_size=self.steps,
            n_epochs=1,
            policy_kwargs={"lstm_hidden_size": 256, "shared_lstm": True, "enable_critic_lstm": False},
            seed=0,
            device="cpu",
        )
        self.agent.set_logger(Logger(None, []))

    def measure(self, seconds: float) -> Round:
        before_threads = torch.get_num_threads()
        torch.set_num_threads(self.threads)
        try:
            self.agent.learn(self.steps, reset_num_timesteps=False)
            begin, before = time.perf_counter(), self.agent.num_timesteps
            while time.perf_counter() - begin < seconds:
                self.agent.learn(self.steps, reset_num_timesteps=False)
            return Round((self.agent.num_timesteps - before) / (time.perf_counter() - begin))
        finally:
            torch.set_num_threads(before_threads)


def make_rivals(unroll_length: int, threads: int) -> dict[str, Candidate]:
    """RecurrentPPO on single environments, of two numbers, and on our vector environment."""
    import gymnasium

    def single() -> Any:
        return gymnasium.make("envs:MiniPacman-v0", **ENVIRONMENT)

    def dummy(num_envs: int) -> VecEnv:
        return DummyVecEnv([single] * num_envs)

    def vector(num_envs: int) -> VecEnv:
        return make_vec_env("envs:MiniPacman-v0", num_envs, ENVIRONMENT)

    rivals: dict[str, Candidate] = {}
    for num_envs in (64, 256):
        rivals[f"RecurrentPPO, {num_envs} single"] = Rival(partial(dummy, num_envs), unroll_length, threads)
        rivals[f"RecurrentPPO, {num_envs} vectorised"] = Rival(partial(vector, num_envs), unroll_length, threads)
    return rivals


def figures(rounds: list[Round]) -> dict[str, float]:
    """What a candidate's rounds amount to."""
    rates = [each.steps_per_second for each in rounds]
    found: dict[str, float] = {
        "steps_per_second": round(statistics.median(rates)),
        "slowest": round(min(rates)),
        "fastest": round(max(rates)),
        "repeats": len(rates),
    }
    environment = statistics.median(each.environment for each in rounds)
    learning = statistics.median(each.learning for each in rounds)
    if learning:
        shares = {"environment": environment, "acting": 1 - environment - learning, "learning": learning}
        found |= {f"{name}_share": round(share, 3) for name, share in shares.items()}
    return found


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser("python -m benchmarks.train", description=__doc__)
    parser.add_argument("--num-envs", type=int, default=128, help="environments that are stepped together")
    parser.add_argument("--unroll-length", type=int, default=40, help="steps of each between two updates")
    parser.add_argument("--replicas", type=int, help="processes; as many as train.py would use if not given")
    parser.add_argument("--seconds", type=float, default=5.0, help="of one round of one configuration, about")
    parser.add_argument("--rounds", type=int, default=5, help="of each configuration")
    parser.add_argument("--rival", action="store_true", help="run RecurrentPPO as well")
    options = parser.parse_args(arguments)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    config = AgentRun(replicas=options.replicas, environment=EnvironmentConfig(num_envs=options.num_envs))
    number = resolve_replicas(config).replicas or 1
    ours: dict[str, Candidate] = {}
    for precision in ("fp32", "bf16") if native.BF16_IS_FAST else ("fp32",):
        for core in CORES:
            name = core if precision == "fp32" else f"{core}, bf16"
            ours[name] = Ours(core, options.num_envs, options.unroll_length, number, precision)
    candidates = ours | (make_rivals(options.unroll_length, threads) if options.rival else {})
    rounds: dict[str, list[Round]] = {name: [] for name in candidates}
    for _ in range(options.rounds):
        for name, candidate in candidates.items():
            rounds[name].append(candidate.measure(options.seconds))
    found = {name: figures(each) for name, each in rounds.items()}
    best_rival = max((f["steps_per_second"] for name, f in found.items() if name.endswith("single")), default=None)
    settings = {"num_envs": options.num_envs, "unroll_length": options.unroll_length, "replicas": number}
    for name, each in found.items():
        ratio = {"ratio": round(each["steps_per_second"] / best_rival, 2)} if name in ours and best_rival else {}
        print(json.dumps({"name": name, **(settings if name in ours else {}), **each, **ratio}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])

"""Trained steps per second of A2C on Mini-Pacman through a 5 x 5 viewport: `python -m benchmarks.train`.

Prints one JSON object a line. Every step is acted and learned from once, and all that `learn` does counts. The
configurations take turns, so that a machine that slows down does so for all of them; a figure is the median of a
configuration's rounds, with the slowest and the fastest. What the environments and the learner take is measured from
outside; acting is what remains.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from agents import A2C

CORES: dict[str, tuple[str, dict[str, Any]]] = {
    "LSTM 256": ("LSTMPolicy", {"hidden_size": 256}),
    "RMC 4 x 64": ("RMCPolicy", {"mem_slots": 4, "num_heads": 4, "head_size": 16, "gate_style": "memory"}),
    "RMC 4 x 256": ("RMCPolicy", {"mem_slots": 4, "num_heads": 4, "head_size": 64, "gate_style": "memory"}),
}


class Round(NamedTuple):
    """Of one round: trained steps per second, and which share of the time went where."""

    steps_per_second: float
    environment: float
    learning: float


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


class Candidate:
    """One configuration and its figures. Everything is compiled and warm when the constructor returns."""

    def __init__(self, core: str, num_envs: int, unroll_length: int, seconds: float) -> None:
        policy, core_kwargs = CORES[core]
        self.agent = A2C(
            policy,
            "envs:MiniPacman-v0",
            num_envs,
            env_kwargs={"viewport": 5, "observation": "planes"},
            previous_action_reward=True,
            policy_kwargs={"core_kwargs": core_kwargs},
            seed=0,
            device="cpu",
            unroll_length=unroll_length,
        )
        self.environment = Stopwatch(self.agent.env, "step")
        self.learning = Stopwatch(self.agent.learner, "update")
        self.rounds: list[Round] = []
        self.steps = num_envs * unroll_length
        self.agent.learn(2 * self.steps)
        self.steps *= max(1, round(seconds * self.measure().steps_per_second / self.steps))

    def measure(self) -> Round:
        """Train for one round."""
        self.environment.seconds = self.learning.seconds = 0.0
        begin = time.perf_counter()
        self.agent.learn(self.steps, reset_num_timesteps=False)
        elapsed = time.perf_counter() - begin
        return Round(self.steps / elapsed, self.environment.seconds / elapsed, self.learning.seconds / elapsed)

    def figures(self) -> dict[str, float]:
        """What the rounds amount to."""
        rates = [each.steps_per_second for each in self.rounds]
        environment = statistics.median(each.environment for each in self.rounds)
        learning = statistics.median(each.learning for each in self.rounds)
        return {
            "steps_per_second": round(statistics.median(rates)),
            "slowest": round(min(rates)),
            "fastest": round(max(rates)),
            "repeats": len(rates),
            "environment_share": round(environment, 3),
            "acting_share": round(1 - environment - learning, 3),
            "learning_share": round(learning, 3),
        }


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser("python -m benchmarks.train", description=__doc__)
    parser.add_argument("--num-envs", type=int, default=128, help="environments that are stepped together")
    parser.add_argument("--unroll-length", type=int, default=40, help="steps of each between two updates")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of torch")
    parser.add_argument("--seconds", type=float, default=5.0, help="of one round of one configuration, about")
    parser.add_argument("--rounds", type=int, default=7, help="of each configuration")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    candidates = {core: Candidate(core, options.num_envs, options.unroll_length, options.seconds) for core in CORES}
    for _ in range(options.rounds):
        for candidate in candidates.values():
            candidate.rounds.append(candidate.measure())
    for core, candidate in candidates.items():
        settings = {name: getattr(options, name) for name in ("num_envs", "unroll_length", "threads")}
        print(json.dumps({"name": core, **settings, **candidate.figures()}))


if __name__ == "__main__":
    main(sys.argv[1:])

"""IMPALA on an environment that takes 5 ms a step, one actor against eight: `python -m benchmarks.slow_environment`.

Prints one JSON object: trained steps per second of both, and the median ratio of rounds in which they take turns, with
the lowest and the highest. Each actor has one environment, which sleeps.
"""

import argparse
import json
import statistics
import sys
import time
from typing import Any

import torch
from stable_baselines3.common.logger import Logger

from agents import IMPALA
from agents.placement import Placement

from .cores import spread
from .impala import Clock
from .recall import Recall

STEP_SECONDS = 0.005
UNROLL_LENGTH = 20
ACTORS = (1, 8)


class SlowRecall(Recall):
    """Recall, as slow as a simulator."""

    def step(self, action: int) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        time.sleep(STEP_SECONDS)
        return super().step(action)


def measure(actors: int, seconds: float) -> float:
    """Trained steps per second."""
    agent = IMPALA(
        "LSTMPolicy",
        SlowRecall,
        actors,
        placement=Placement(kind="local", actors=actors),
        policy_kwargs={"core_kwargs": {"hidden_size": 32}, "embedding_size": 32},
        seed=0,
        device="cpu",
        unroll_length=UNROLL_LENGTH,
        batch_size=actors,
    )
    agent.set_logger(Logger(None, []))
    clock = Clock(4 * actors * UNROLL_LENGTH, seconds)
    agent.learn(10**12, clock)
    return clock.steps_per_second()


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser("python -m benchmarks.slow_environment", description=__doc__)
    parser.add_argument("--seconds", type=float, default=6.0, help="of one round of each, about")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    rounds = [[measure(actors, options.seconds) for actors in ACTORS] for _ in range(options.rounds)]
    rates = {
        f"steps_per_second_{actors}": round(statistics.median(each))
        for actors, each in zip(ACTORS, zip(*rounds, strict=True), strict=True)
    }
    print(json.dumps({"step_seconds": STEP_SECONDS, **rates, "ratio": spread([many / one for one, many in rounds])}))


if __name__ == "__main__":
    main(sys.argv[1:])

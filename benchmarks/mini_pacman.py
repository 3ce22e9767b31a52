"""Steps per second of Mini-Pacman on one core: `python -m benchmarks.mini_pacman`.

Prints one JSON object a line. A figure is the median of some repeats of about a quarter of a second each, with the
slowest and the fastest; players are random, and episodes that end start anew inside the time.
"""

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np

from envs import MiniPacmanEnv, MiniPacmanVectorEnv

REPEATS = 9
SECONDS = 0.25
NUM_ENVS = (1, 4, 16, 64, 256, 1024, 4096)
VIEWS: tuple[dict[str, Any], ...] = (
    {"observation": "rgb", "viewport": 5},
    {"observation": "planes", "viewport": None},
)


def pin_to_one_core() -> None:
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


def measure(step: Callable[[int], None], steps_per_call: int) -> dict[str, int]:
    """Steps per second of `step`, which is called with 0, 1, 2, ..."""
    calls = 1
    while (seconds := timed(step, calls)) < SECONDS / 4:
        calls *= 2
    calls = max(1, round(calls * SECONDS / seconds))
    rates = sorted(steps_per_call * calls / timed(step, calls) for _ in range(REPEATS))
    return {
        "steps_per_second": round(statistics.median(rates)),
        "slowest": round(rates[0]),
        "fastest": round(rates[-1]),
        "repeats": REPEATS,
    }


def timed(step: Callable[[int], None], calls: int) -> float:
    start = time.perf_counter()
    for call in range(calls):
        step(call)
    return time.perf_counter() - start


def single(env: Any) -> dict[str, int]:
    actions = np.random.default_rng(0).integers(5, size=1000).tolist()
    env.reset(seed=0)

    def step(call: int) -> None:
        _, _, terminated, truncated, _ = env.step(actions[call % 1000])
        if terminated or truncated:
            env.reset()

    return measure(step, 1)


def vector(env: MiniPacmanVectorEnv) -> dict[str, int]:
    actions = np.random.default_rng(0).integers(5, size=(100, env.num_envs))
    env.reset(seed=0)

    def step(call: int) -> None:
        env.step(actions[call % 100])

    return measure(step, env.num_envs)


def main(arguments: list[str]) -> None:
    argparse.ArgumentParser("python -m benchmarks.mini_pacman", description=__doc__).parse_args(arguments)
    pin_to_one_core()
    for view in VIEWS:
        for name, make in (("single, gymnasium.make", _make), ("single, class", MiniPacmanEnv)):
            print(json.dumps({"name": name, "num_envs": 1, **view, **single(make(**view))}), flush=True)
        for num_envs in NUM_ENVS:
            figures = vector(MiniPacmanVectorEnv(num_envs, **view))
            print(json.dumps({"name": "vector", "num_envs": num_envs, **view, **figures}), flush=True)


def _make(**view: Any) -> Any:
    return gymnasium.make("envs:MiniPacman-v0", **view)


if __name__ == "__main__":
    main(sys.argv[1:])

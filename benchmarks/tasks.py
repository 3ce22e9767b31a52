"""Sequences and programs per second that the tasks' generators draw on one core: `python -m benchmarks.tasks`.

Prints one JSON object a line. A figure is the median of some repeats of about a quarter of a second each, with the
slowest and the fastest. What is drawn are whole batches, ready for a model.
"""

import argparse
import json
import statistics
import sys
import time
from typing import get_args

import numpy as np

from rmc_rl.tasks import NthFarthest, ProgramEvaluation
from rmc_rl.tasks.program_evaluation import ProgramTask

from .mini_pacman import pin_to_one_core

REPEATS = 9
SECONDS = 0.25
BATCH_SIZES = (128, 1600)


def measure(task: NthFarthest | ProgramEvaluation, batch_size: int) -> dict[str, int]:
    """Rows per second."""
    rng = np.random.default_rng(0)
    task.sample(rng, batch_size)
    rates = []
    for _ in range(REPEATS):
        drawn, begin = 0, time.perf_counter()
        while time.perf_counter() - begin < SECONDS:
            task.sample(rng, batch_size)
            drawn += batch_size
        rates.append(drawn / (time.perf_counter() - begin))
    return {
        "per_second": round(statistics.median(rates)),
        "slowest": round(min(rates)),
        "fastest": round(max(rates)),
        "repeats": REPEATS,
    }


def main(arguments: list[str]) -> None:
    argparse.ArgumentParser("python -m benchmarks.tasks", description=__doc__).parse_args(arguments)
    pin_to_one_core()
    tasks: dict[str, NthFarthest | ProgramEvaluation] = {"nth farthest 8 x 16": NthFarthest()}
    tasks |= {f"program evaluation, {name}": ProgramEvaluation(name) for name in get_args(ProgramTask)}
    for name, task in tasks.items():
        for batch_size in BATCH_SIZES:
            print(json.dumps({"name": name, "batch_size": batch_size, **measure(task, batch_size)}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])

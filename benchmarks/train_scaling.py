"""How trained steps per second grow with environments and processes: `python -m benchmarks.train_scaling`.

A2C on Mini-Pacman as in `benchmarks.train`, with unrolls of 40 steps, in one and in two replicas of one thread each.
Prints one JSON object a line, and with `--output` draws the curves. The configurations take turns; a figure is the
median of their rounds, with the slowest and the fastest.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch

from .train import CORES, Ours, figures

NUM_ENVS = (1, 4, 16, 64, 256, 1024)
REPLICAS = (1, 2)
UNROLL_LENGTH = 40


def measure(seconds: float, rounds: int) -> list[dict[str, Any]]:
    """The figures of every core, number of environments and number of replicas."""
    candidates = [
        Ours(core, num_envs, UNROLL_LENGTH, number)
        for core in CORES
        for number in REPLICAS
        for num_envs in NUM_ENVS
        if num_envs % number == 0
    ]
    found = [[candidate.measure(seconds) for candidate in candidates] for _ in range(rounds)]
    return [
        {"core": candidate.core, "replicas": candidate.number, "num_envs": candidate.num_envs, **figures(list(each))}
        for candidate, each in zip(candidates, zip(*found, strict=True), strict=True)
    ]


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """One panel for each core, one curve for each number of replicas."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 3.4), layout="constrained")
    panels = figure.subplots(1, len(CORES), sharex=True, sharey=True)
    for axes, core in zip(panels, CORES, strict=True):
        for number in REPLICAS:
            curve = [row for row in rows if (row["core"], row["replicas"]) == (core, number)]
            num_envs, rates = [row["num_envs"] for row in curve], [row["steps_per_second"] for row in curve]
            axes.plot(num_envs, rates, marker="o", label=f"{number} process{'es' if number > 1 else ''}")
        axes.set(xscale="log", yscale="log", xlabel="environments", title=core)
        axes.set_xticks(NUM_ENVS, [str(num_envs) for num_envs in NUM_ENVS], minor=False)
        axes.minorticks_off()
        axes.grid(alpha=0.4)
    panels[0].set_ylabel("trained steps/s")
    panels[0].legend()
    figure.savefig(path, dpi=120)


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser("python -m benchmarks.train_scaling", description=__doc__)
    parser.add_argument("--seconds", type=float, default=3.0, help="of one round of one configuration, about")
    parser.add_argument("--rounds", type=int, default=3, help="of each configuration")
    parser.add_argument("--output", type=Path, metavar="PNG", help="also draw a picture")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    rows = measure(options.seconds, options.rounds)
    for row in rows:
        print(json.dumps(row), flush=True)
    if options.output:
        draw(rows, options.output)


if __name__ == "__main__":
    main(sys.argv[1:])

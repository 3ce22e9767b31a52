"""How the RMC's cost grows: `python -m benchmarks.scaling --output scaling.png`.

Forward and backward in float32 with one thread, from 4 slots of 4 heads x 16, a batch of 64 and unrolls of 40 steps,
one of these varied at a time. Prints one JSON object a line, and draws frames/s against what was varied. The variants
take turns; a figure is the median of their rounds, with the slowest and the fastest.
"""

import argparse
import json
import statistics
import sys
from pathlib import Path
from typing import Any

import torch

from rmc_rl.cores import RelationalMemory

from .cores import INPUT_SIZE, Work, seconds, train

BASE = {"slots": 4, "slot_size": 64, "batch": 64, "steps": 40}
VARIED = {
    "slots": (1, 2, 4, 8, 16, 32),
    "slot_size": (16, 32, 64, 128, 256, 512),
    "batch": (1, 4, 16, 64, 256),
    "steps": (5, 10, 20, 40, 80),
}
HEADS = 4


def make_work(slots: int, slot_size: int, batch: int, steps: int) -> Work:
    core = RelationalMemory(INPUT_SIZE, slots, slot_size // HEADS, HEADS, gate_style="memory")
    x = torch.randn(steps, batch, INPUT_SIZE, requires_grad=True)
    starts = torch.zeros(steps, batch, dtype=torch.bool)
    state = core.initial_state(batch)
    return lambda: train(core, core.unroll(x, state, starts))


def measure(name: str, rounds: int) -> list[dict[str, Any]]:
    """Frames/s of every value of one setting."""
    settings = [BASE | {name: value} for value in VARIED[name]]
    works = [make_work(**setting) for setting in settings]
    for work in works:
        work()
    times = [[seconds(work) for work in works] for _ in range(rounds)]
    figures = []
    for setting, taken in zip(settings, zip(*times, strict=True), strict=True):
        rates = [setting["batch"] * setting["steps"] / each for each in taken]
        figures.append(
            {
                "varied": name,
                **setting,
                "frames_per_second": round(statistics.median(rates)),
                "slowest": round(min(rates)),
                "fastest": round(max(rates)),
            }
        )
    return figures


def draw(figures: dict[str, list[dict[str, Any]]], path: Path) -> None:
    """One panel for each setting that was varied."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 3.2), layout="constrained")
    for axes, (name, rows) in zip(figure.subplots(1, len(figures), sharey=True), figures.items(), strict=True):
        axes.plot([row[name] for row in rows], [row["frames_per_second"] for row in rows], marker="o")
        axes.set(xscale="log", yscale="log", xlabel=name.replace("_", " "))
        axes.set_xticks([row[name] for row in rows], [str(row[name]) for row in rows], minor=False)
        axes.minorticks_off()
        axes.grid(alpha=0.4)
    figure.axes[0].set_ylabel("frames/s, forward and backward")
    figure.savefig(path, dpi=120)


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser("python -m benchmarks.scaling", description=__doc__)
    parser.add_argument("--rounds", type=int, default=7, help="of every variant")
    parser.add_argument("--output", type=Path, metavar="PNG", help="also draw a picture")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    figures = {name: measure(name, options.rounds) for name in VARIED}
    for rows in figures.values():
        for row in rows:
            print(json.dumps(row), flush=True)
    if options.output:
        draw(figures, options.output)


if __name__ == "__main__":
    main(sys.argv[1:])

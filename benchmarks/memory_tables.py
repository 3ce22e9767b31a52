"""What `benchmarks.memory_environments` writes of its runs: a table, CSV files, and a figure of the learning curves."""

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rmc_rl.figures import COLORS, bootstrap_interval, save, style
from rmc_rl.run_folder import write_text

from .tables import comma_separated, markdown

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CURVE = ("steps", "cpu_seconds", "mean_return")


def write_tables(runs: Iterable[Path], output: Path) -> None:
    """What is known of the runs that have ended, whose files are there: each a result and a curve."""
    ended = [json.loads(run.read_text(encoding="utf-8")) for run in runs if run.is_file()]
    if not ended:
        return
    output.mkdir(parents=True, exist_ok=True)
    results = [run["result"] for run in ended]
    write_text(output / "table.md", markdown(list(table(results))))
    write_text(output / "runs.csv", comma_separated(results))
    points = [
        {key: run["result"][key] for key in ("environment", "row", "seed")} | dict(zip(CURVE, point, strict=True))
        for run in ended
        for point in run["curve"]
    ]
    if points:  # there are none while no episode has ended
        write_text(output / "curves.csv", comma_separated(points))
    save(figure(ended), output / "curves.png")


def table(results: Sequence[dict[str, Any]]) -> Iterator[dict[str, str]]:
    """A line for each row of each environment, over its seeds."""
    for environment, row in dict.fromkeys((result["environment"], result["row"]) for result in results):
        group = [result for result in results if (result["environment"], result["row"]) == (environment, row)]
        returns = np.array([[result["mean_return"]] for result in group])  # [S, 1]
        (low,), (high,) = bootstrap_interval(returns)
        yield {
            "environment": environment,
            "core": row,
            "mean return": f"{returns.mean():.3g}",
            "95% interval": f"{low:.3g} to {high:.3g}" if len(group) > 1 else "none from one seed",
            "solved from": f"{group[0]['solved_from']:g} of {group[0]['best']:g}",
            "seeds that solve": f"{sum(result['solved'] for result in group)} of {len(group)}",
            "million steps": f"{np.mean([result['steps'] for result in group]) / 1e6:.2f}",
            "processor seconds": f"{np.mean([result['cpu_seconds'] for result in group]):.0f}",
            "parameters": f"{group[0]['parameters']:,}",
            "state": f"{group[0]['state_size']:,}",
        }


def figure(ended: Sequence[dict[str, Any]]) -> "Figure":
    """Learning curves against processor time: a panel for each environment, a line for each run."""
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(run["result"]["environment"] for run in ended))
    rows = dict.fromkeys(run["result"]["row"] for run in ended)
    colors = dict(zip(rows, COLORS, strict=False))
    drawing = Figure(figsize=(4.8 * len(names), 4.4), layout="constrained")
    for axes, name in zip(drawing.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        runs = [run for run in ended if run["result"]["environment"] == name]
        labels = set()
        for run in runs:
            row = run["result"]["row"]
            _, seconds, returns = np.array(run["curve"]).reshape(-1, len(CURVE)).T
            axes.plot(seconds, returns, color=colors[row], linewidth=1.3, label=None if row in labels else row)
            labels.add(row)
        axes.axhline(runs[0]["result"]["solved_from"], color="#999999", linewidth=0.8, linestyle="--")
        axes.set(title=name, xlabel="processor seconds", ylabel="return (mean of the last 100 episodes)")
        style(axes)
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=3, edgecolor="none", fontsize="small")
    return drawing

"""What is known of a grid's runs: CSV files, and a table and curves that are made of these alone."""

import csv
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from agents.saved_model import SavedModel
from rmc_rl.figures import (
    COLORS,
    GRID_POINTS,
    INTERVAL_NOTE,
    Array,
    Curve,
    bootstrap_interval,
    difference_interval,
    learning_curve,
    mean_curve,
    plot_curve,
    save,
    style,
)
from rmc_rl.run_folder import write_text

from .grid import Grid, Run
from .tables import comma_separated

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TABLE, FIGURE = "table.md", "curves.png"
RUNS_CSV, CURVES_CSV = "runs.csv", "curves.csv"
PIECES = 20
"""A run's speed is the median of so many pieces of its time, so that a pause does not count."""
RANGE = 500
"""The axes of steps and hours begin at this part of their ends."""
Key = tuple[str, int]


@dataclass(frozen=True)
class Results:
    """Of all runs that are there, by row and seed."""

    runs: dict[Key, dict[str, Any]]
    """A line of `runs.csv`."""
    curves: dict[Key, list[dict[str, Any]]]
    """Lines of `curves.csv`."""

    @classmethod
    def read(cls, folder: Path) -> "Results":
        """What `write` has written, if anything."""
        curves: dict[Key, list[dict[str, Any]]] = {}
        for line in _read_csv(folder / CURVES_CSV):
            curves.setdefault((line["row"], int(line["seed"])), []).append(line)
        return cls({(line["row"], int(line["seed"])): line for line in _read_csv(folder / RUNS_CSV)}, curves)

    def write(self, folder: Path) -> None:
        write_text(folder / RUNS_CSV, comma_separated(list(self.runs.values())))
        write_text(folder / CURVES_CSV, comma_separated([line for curve in self.curves.values() for line in curve]))

    def values(self, row: str, column: str) -> Array:
        """A column of `runs.csv`, one value for each seed of a row, [S]."""
        return np.array([float(line[column]) for (name, _), line in self.runs.items() if name == row])

    def mean_curve(self, row: str) -> Curve:
        """A row's mean return against steps, with its interval."""
        return mean_curve([self._curve(line, "return") for line in self._curves(row)])

    def mean_hours(self, row: str, steps: Array) -> Array:
        """The mean time that a row's runs took to come to some steps, [N]."""
        curves = [self._curve(line, "hours") for line in self._curves(row)]
        hours = np.stack([np.interp(steps, curve.steps, curve.returns) for curve in curves])  # [S, N]
        return np.asarray(hours.mean(axis=0))

    def _curves(self, row: str) -> list[list[dict[str, Any]]]:
        return [curve for (name, _), curve in self.curves.items() if name == row]

    @staticmethod
    def _curve(lines: list[dict[str, Any]], column: str) -> Curve:
        steps, values = (np.array([float(line[name]) for line in lines]) for name in ("steps", column))
        return Curve(steps, values)


def write_results(grid: Grid, runs: Sequence[Run], folder: Path) -> None:
    """Bring the CSV files up to date with the run folders that there are, and make table and figure of them.

    Raises:
        ValueError: no run has been evaluated yet, here or in the CSV files.
        OSError: a file cannot be written.
    """
    known, results = Results.read(folder), Results({}, {})
    for run in sorted(runs, key=lambda run: list(grid.rows).index(run.row)):
        key = (run.row, run.seed)
        if run.folder.evaluation.is_file():
            row = grid.rows[run.row]
            results.runs[key] = {"row": run.row, "core": row.core, "view": row.view, **figures_of(run)}
            results.curves[key] = list(curve_of(run))
        elif key in known.runs:
            results.runs[key], results.curves[key] = known.runs[key], known.curves[key]
    if not results.runs:
        raise ValueError(f"no run has been evaluated yet, neither in {runs[0].folder.path.parent} nor in {folder}")
    folder.mkdir(parents=True, exist_ok=True)
    results.write(folder)
    written = Results.read(folder)  # all that follows can be made again of these files
    write_text(folder / TABLE, markdown(grid, written))
    save(draw(grid, written), folder / FIGURE)


def figures_of(run: Run) -> dict[str, Any]:
    """A run's score, sizes and speed."""
    evaluation, network = run.evaluation(), SavedModel.read(run.folder.model).policy.network
    hours = hours_of(run)
    return {
        "seed": run.seed,
        "steps": evaluation["steps"],
        "games": evaluation["episodes"],
        "return": evaluation["mean_return"],
        "standard_error": evaluation["standard_error"],
        "level": evaluation.get("mean_level"),
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "state": sum(leaf.numel() for leaf in network.initial_state(1)),
        "steps_per_second": round(median_speed(hours)),
        "hours": round(float(hours.returns[-1]), 3),
    }


def hours_of(run: Run) -> Curve:
    """The hours that a run had trained at every step that is logged; each part of a resumed run counts from 0."""
    steps, seconds, *_ = learning_curve(run.folder.path, "time/time_elapsed")
    begins = np.flatnonzero(np.diff(seconds) < 0) + 1
    for begin in begins:
        seconds[begin:] += seconds[begin - 1]
    return Curve(steps, seconds / 3600)


def median_speed(hours: Curve) -> float:
    """Steps per second in the middle piece of a run, by speed."""
    times = np.linspace(hours.returns[0], hours.returns[-1], PIECES + 1)
    seconds = np.diff(times) * 3600
    with np.errstate(divide="ignore", invalid="ignore"):  # a run of less than a second
        return float(np.nan_to_num(np.median(np.diff(np.interp(times, hours.returns, hours.steps)) / seconds)))


def curve_of(run: Run) -> Iterator[dict[str, Any]]:
    """Its learning curve, thinned out."""
    curve, hours = learning_curve(run.folder.path), hours_of(run)
    steps = np.linspace(curve.steps[0], curve.steps[-1], min(GRID_POINTS, len(curve.steps)))
    times, returns = np.interp(steps, *hours[:2]), np.interp(steps, *curve[:2])
    for line in zip(steps, times, returns, strict=True):
        yield {
            "row": run.row,
            "seed": run.seed,
            **{
                name: round(float(value), digits)
                for name, value, digits in zip(("steps", "hours", "return"), line, (0, 4, 2), strict=True)
            },
        }


def markdown(grid: Grid, results: Results) -> str:
    """The table of all rows, and that of the differences."""
    lines = [
        "| row | core | view | return | games | level | seeds | steps | parameters | state | steps/s | hours |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    there = [name for name in grid.rows if len(results.values(name, "seed"))]
    for name in there:
        row = grid.rows[name]
        returns = results.values(name, "return")
        games = f"± {np.sqrt((results.values(name, 'standard_error') ** 2).mean()):.0f}"
        means = {
            column: results.values(name, column).mean() for column in ("level", "steps", "steps_per_second", "hours")
        }
        sizes = [f"{int(results.values(name, column)[0]):,}" for column in ("parameters", "state")]
        cells = [name, row.core, row.view, _with_interval(returns), games, f"{means['level']:.1f}", len(returns)]
        cells += [f"{means['steps']:,.0f}", *sizes, f"{means['steps_per_second']:,.0f}", f"{means['hours']:.1f}"]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    lines += ["", *_differences(grid, results, there)]
    return "\n".join([*lines, ""])


def _with_interval(returns: Array) -> str:
    mean = f"{returns.mean():.0f}"
    if len(returns) == 1:
        return mean
    low, high = bootstrap_interval(returns[:, None])
    return f"{mean} [{low[0]:.0f}, {high[0]:.0f}]"


def _differences(grid: Grid, results: Results, there: Sequence[str]) -> Iterator[str]:
    yield from ("| difference in return | mean | interval | seeds |", "|---|---|---|---|")
    for pair in grid.differences:
        if set(pair) <= set(there):
            one, other = (results.values(name, "return") for name in pair)
            low, high = difference_interval(one[:, None], other[:, None])
            is_known = min(len(one), len(other)) > 1
            interval = f"[{low[0]:+.0f}, {high[0]:+.0f}]" if is_known else "none from one seed"
            seeds = f"{len(one)} and {len(other)}"
            yield f"| {pair[0]} - {pair[1]} | {one.mean() - other.mean():+.0f} | {interval} | {seeds} |"


def draw(grid: Grid, results: Results) -> "Figure":
    """Return against steps and against time, a line of panels for each view."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter

    views = [view for view in grid.views if any(line["view"] == view for line in results.runs.values())]
    figure = Figure(figsize=(12, 4.2 * len(views)), layout="constrained")
    panels = figure.subplots(len(views), 2, sharey="row", squeeze=False)
    for view, (by_steps, by_hours) in zip(views, panels, strict=True):
        rows = [name for name in grid.rows if grid.rows[name].view == view and len(results.values(name, "seed"))]
        colors = dict(zip(grid.cores, itertools.cycle(COLORS), strict=False))
        styles = {core: itertools.cycle(("-", "--", ":", "-.")) for core in grid.cores}
        for name in rows:
            curve, core = results.mean_curve(name), grid.rows[name].core
            look = (colors[core], name, next(styles[core]))
            plot_curve(by_steps, curve, *look)
            plot_curve(by_hours, curve._replace(steps=results.mean_hours(name, curve.steps)), *look)
        for axes in (by_steps, by_hours):
            _draw_published(axes, grid.views[view].published)
            style(axes)
            _stretch(axes)
        by_steps.set(xlabel="environment steps", ylabel="return (mean of the last episodes)", title=view)
        by_hours.set(xlabel="hours on one core")
        by_hours.set_title(INTERVAL_NOTE, loc="right", fontsize="small", color="#666666")
        by_steps.xaxis.set_major_formatter(EngFormatter(sep=""))
        by_hours.xaxis.set_major_formatter("{x:g}")
        by_hours.legend(edgecolor="none", loc="best")
    return figure


def _stretch(axes: "Axes") -> None:
    """Have a logarithmic axis, since a run may have many times the steps of another."""
    most = axes.dataLim.x1
    if most > 0:  # hours are rounded, to 0 for a run of less than a second
        axes.set_xscale("log")
        axes.set_xlim(most / RANGE, most)


def _draw_published(axes: "Axes", published: dict[str, float]) -> None:
    for name, value in published.items():
        axes.axhline(value, color="#888888", linestyle="--", linewidth=1)
        axes.annotate(
            f"{name}, published: {value:g}",
            (0.01, value),
            xycoords=("axes fraction", "data"),
            xytext=(0, 2),
            textcoords="offset points",
            fontsize="small",
            color="#666666",
        )


def _read_csv(path: Path) -> list[dict[str, str]]:
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))

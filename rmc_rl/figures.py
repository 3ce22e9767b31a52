"""Learning curves from run folders: `python -m rmc_rl.figures runs/A runs/B --output curves.png`.

Runs that differ in nothing but their seed become one curve: their mean with a 95% interval.
"""

import argparse
import csv
import itertools
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import yaml
from numpy.typing import NDArray

from .files import replacing
from .run_folder import RunFolder

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

STEPS = "time/total_timesteps"
TRAINING, EVALUATION = "rollout/ep_rew_mean", "eval/mean_return"
LABELS = {TRAINING: "return (mean of the last episodes)", EVALUATION: "return in evaluation (mean)"}
NOT_COMPARED = ("name", "seed", "device", "checkpoint_minutes")
"""Settings by which runs may differ and still be runs of one configuration."""
GRID_POINTS = 200
CONFIDENCE = 0.95
RESAMPLES = 2000
INTERVAL_NOTE = f"mean over runs with {CONFIDENCE:.0%} bootstrap interval"
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#444444", "#f0e442")
"""Okabe and Ito's, which colour-blind readers can tell apart."""

FORMATS = (".png", ".pdf", ".svg")

Array = NDArray[np.float64]


class FigureError(ValueError):
    """A figure that cannot be drawn or written; one line that says why."""


class Curve(NamedTuple):
    """A return as a function of environment steps, with an interval where it is a mean over several runs."""

    steps: Array
    """[N], increasing."""
    returns: Array
    """[N]."""
    low: Array | None = None
    """[N]."""
    high: Array | None = None
    """[N]."""


def learning_curve(folder: str | Path, column: str = TRAINING) -> Curve:
    """The returns that a run has logged in `progress.csv`, `progress_2.csv`, ...

    A resumed run goes on from its last checkpoint: what was logged of the steps that it takes again is left out.

    Args:
        folder: of the run.
        column: of the log: `TRAINING`, the mean return of the last episodes, or `EVALUATION`.

    Raises:
        RunFolderError: the folder is not a run's.
        FigureError: nothing is logged in that column, or the log cannot be read.
    """
    run = RunFolder.open(folder)
    rows: list[tuple[float, float]] = []
    for log in run.logs():
        part = list(_read(log, column))
        if part:
            rows = [row for row in rows if row[0] < part[0][0]] + part
    if not rows:
        raise FigureError(f"{folder} has logged no {column} yet")
    steps, returns = np.array(rows).T
    return Curve(steps, returns)


def mean_curve(curves: Sequence[Curve]) -> Curve:
    """The mean of several runs' curves with its bootstrap interval, where all of them have values.

    Raises:
        FigureError: there are no steps that all runs have taken.
    """
    if len(curves) == 1:
        return curves[0]
    first, last = max(curve.steps[0] for curve in curves), min(curve.steps[-1] for curve in curves)
    if first >= last:
        raise FigureError("runs of one configuration must have some steps in common, these have none")
    grid = np.linspace(first, last, GRID_POINTS)
    returns = np.stack([np.interp(grid, curve.steps, curve.returns) for curve in curves])  # [S, N]
    return Curve(grid, returns.mean(axis=0), *bootstrap_interval(returns))


def bootstrap_interval(values: Array, confidence: float = CONFIDENCE) -> tuple[Array, Array]:
    """The percentile bootstrap interval of the mean over S runs, always with the same resamples.

    Args:
        values: [S, N].
        confidence: between 0 and 1.

    Returns:
        Its lower and upper ends, each [N].
    """
    return _interval(_resampled_means(values, seed=0), confidence)


def difference_interval(first: Array, second: Array, confidence: float = CONFIDENCE) -> tuple[Array, Array]:
    """The same of the difference of two means, over S runs and S' others that are not their pairs.

    Args:
        first: [S, N].
        second: [S', N].
        confidence: between 0 and 1.

    Returns:
        Its lower and upper ends, each [N].
    """
    return _interval(_resampled_means(first, seed=0) - _resampled_means(second, seed=1), confidence)


def _resampled_means(values: Array, seed: int) -> Array:
    """values [S, N] -> the means of RESAMPLES draws of S among them, [RESAMPLES, N]."""
    count = len(values)
    draws = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), RESAMPLES)  # [R, S]
    return draws @ values / count


def _interval(means: Array, confidence: float) -> tuple[Array, Array]:
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, [tail, 1 - tail], axis=0)
    return low, high


def group_runs(folders: Sequence[str | Path]) -> list[tuple[str, list[Path]]]:
    """Folders by configuration, each group with a label: its run's name or, of several runs, what sets them apart.

    Raises:
        RunFolderError, FigureError: a folder is not a run's, or its configuration cannot be read.
    """
    groups: dict[frozenset[tuple[str, str]], list[Path]] = {}
    for folder in dict.fromkeys(Path(folder).resolve() for folder in folders):
        groups.setdefault(frozenset(_settings(RunFolder.open(folder))), []).append(folder)
    shared = frozenset.intersection(*groups)
    return [(_label(settings - shared, runs), runs) for settings, runs in groups.items()]


def _settings(run: RunFolder) -> Iterator[tuple[str, str]]:
    """The settings that are compared."""
    try:
        config = yaml.safe_load(run.config.read_text(encoding="utf-8"))
        yield from flatten({name: value for name, value in config.items() if name not in NOT_COMPARED})
    except (OSError, UnicodeDecodeError, yaml.YAMLError, AttributeError) as error:
        raise FigureError(f"cannot read {run.config}: {error}") from error


def flatten(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Nested settings as pairs of a name `a.b.c` and a value."""
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", str(value)


def _label(own_settings: frozenset[tuple[str, str]], runs: Sequence[Path]) -> str:
    if len(runs) == 1:
        return runs[0].name
    name = ", ".join(f"{setting}={value}" for setting, value in sorted(own_settings)) or f"{runs[0].name}, ..."
    return f"{name} ({len(runs)} runs)"


def draw(
    folders: Sequence[str | Path],
    column: str = TRAINING,
    xlabel: str = "environment steps",
    ylabel: str | None = None,
) -> "Figure":
    """The learning curves of runs, one for each configuration; `ylabel` is needed for a column of another log.

    Raises:
        RunFolderError, FigureError: as the functions above.
    """
    # Loaded when first used: it takes a while.
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.add_subplot()
    for color, (label, runs) in zip(itertools.cycle(COLORS), group_runs(folders), strict=False):
        curve = mean_curve([learning_curve(run, column) for run in runs])
        plot_curve(axes, curve, color, textwrap.fill(label, 60))
        if curve.low is not None:
            axes.set_title(INTERVAL_NOTE, loc="right", fontsize="small", color="#666666")
    axes.set(xlabel=xlabel, ylabel=LABELS[column] if ylabel is None else ylabel)
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    style(axes)
    axes.legend(edgecolor="none", loc="upper left")
    return figure


def plot_curve(axes: "Axes", curve: Curve, color: str, label: str, linestyle: str = "-") -> None:
    """A line and, where there is an interval, a band around it."""
    axes.plot(curve.steps, curve.returns, color=color, linewidth=1.8, label=label, linestyle=linestyle)
    if curve.low is not None and curve.high is not None:
        axes.fill_between(curve.steps, curve.low, curve.high, color=color, alpha=0.2, linewidth=0)


def style(axes: "Axes") -> None:
    """How all curves look: from 0 on, on a light grid."""
    axes.margins(x=0)
    axes.set_xlim(left=0)
    axes.grid(color="#dddddd", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def save(figure: "Figure", path: str | Path) -> None:
    """Write a figure as `.png`, `.pdf` or `.svg`, whole or not at all.

    Raises:
        FigureError: another suffix, or a file that cannot be written.
    """
    path = Path(path)
    if path.suffix not in FORMATS:
        raise FigureError(f"a figure's name must end in {', '.join(FORMATS)}, got {path}")
    try:
        with replacing(path) as file:
            figure.savefig(file, format=path.suffix[1:], dpi=150)
    except OSError as error:
        raise FigureError(f"cannot write {path}: {error.strerror or error}") from error


def _read(log: Path, column: str) -> Iterator[tuple[float, float]]:
    """Steps and values of a log's rows, where there are any."""
    try:
        with log.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                if row.get(STEPS) and row.get(column):
                    yield float(row[STEPS]), float(row[column])
    except (OSError, ValueError, csv.Error) as error:
        raise FigureError(f"cannot read {log}: {error}") from error


def main(arguments: list[str]) -> int:
    """Parse, draw, save. Returns the exit code: 0, or 2 for bad input."""
    parser = argparse.ArgumentParser("python -m rmc_rl.figures", description=__doc__)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="run folders")
    parser.add_argument("--output", default="curves.png", help=f"{', '.join(FORMATS)}; default: curves.png")
    parser.add_argument("--evaluation", action="store_true", help="returns in evaluation, not in training")
    options = parser.parse_args(arguments)
    try:
        save(draw(options.runs, EVALUATION if options.evaluation else TRAINING), options.output)
    except ValueError as error:
        print(f"figures: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    print(f"wrote {options.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

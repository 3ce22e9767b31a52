"""The tables of the supervised tasks: `python -m benchmarks.supervised copy addition ...`.

A row of a table is an ordinary run of `train.py` in a folder under `runs/supervised/`, and all rows of a table have the
same processor time. Runs that have ended are not made again, and one that was stopped goes on: after a Ctrl-C, the same
command continues. After every run the table is written anew (TABLE.md, TABLE.csv), with the learning curves of its runs
(TABLE_curves.csv, TABLE.png). `--rows RMC` in one terminal and `--rows LSTM` in another train side by side.
"""

import argparse
import json
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import train
from rmc_rl.figures import learning_curve, save
from rmc_rl.run_folder import RunFolder, write_text
from rmc_rl.tasks.config import TaskRun
from rmc_rl.tasks.figures import curves
from rmc_rl.tasks.learner import TaskLearner, load_run

from .tables import comma_separated, markdown, slug

RUNS = Path("runs", "supervised")
ALL_CORES = {"RMC": ["--core=rmc"], "LSTM": ["--core=lstm"], "DNC": ["--core=dnc"]}
RMC_AND_LSTM = {name: ALL_CORES[name] for name in ("RMC", "LSTM")}
RMC_ALONE = {"RMC": ALL_CORES["RMC"]}
NO_OTHER_LIMIT = 10**9
"""Updates: it is the time that ends a run."""


@dataclass(frozen=True)
class Table:
    """Runs that belong together."""

    config: str
    """Of all of them, in configs/tasks/."""
    minutes: float
    """Processor time of each, unless another is asked for."""
    rows: dict[str, list[str]] = field(default_factory=lambda: ALL_CORES)
    """Arguments of `train.py` by the name of the row."""
    seeds: tuple[int, ...] = (0,)


TABLES = {
    "copy": Table("copy", 3),
    "reverse": Table("reverse", 3, RMC_ALONE),
    "double": Table("double", 6, RMC_ALONE),
    "addition": Table("addition", 10),
    "decoding": Table("addition", 10, {"nothing": [], "the symbol before": ["--task.kwargs.teacher_forcing=true"]}),
    "nth_farthest_small": Table("nth_farthest_small", 8, seeds=(0, 1, 2)),
    "nth_farthest": Table("nth_farthest", 60, RMC_AND_LSTM),
    "shakespeare": Table("shakespeare", 20, RMC_AND_LSTM),
}


@dataclass(frozen=True)
class Run:
    """One row of a table with one seed."""

    table: str
    row: str
    seed: int
    minutes: float

    @property
    def name(self) -> str:
        return f"{self.table}-{slug(self.row)}-{self.minutes:g}min-seed{self.seed}"

    @property
    def folder(self) -> RunFolder:
        return RunFolder(RUNS / self.name)

    @property
    def arguments(self) -> list[str]:
        """Of `train.py`, for a new run."""
        table = TABLES[self.table]
        config = Path("configs", "tasks", f"{table.config}.yaml")
        limits = [f"--cpu_minutes={self.minutes:g}", f"--updates={NO_OTHER_LIMIT}"]
        return [
            f"--config={config}",
            *table.rows[self.row],
            *limits,
            f"--seed={self.seed}",
            f"--name={RUNS.name}/{self.name}",
        ]

    @property
    def is_done(self) -> bool:
        return self.folder.evaluation.is_file()

    def make(self) -> int:
        """Train to the end, or from where it was stopped; the exit code of `train.py`."""
        if self.folder.checkpoints():
            return train.main([f"--resume={self.folder.path}"])
        shutil.rmtree(self.folder.path, ignore_errors=True)  # stopped before its first checkpoint
        return train.main(self.arguments)

    def compile(self) -> None:
        """Make one update that is thrown away: what it compiles shall not count as training."""
        with suppress(ValueError, TypeError, OSError):  # of illegal settings, which `train.py` then refuses
            TaskLearner.make(cast(TaskRun, train.parse(self.arguments)[0])).update()

    def result(self) -> dict[str, Any]:
        """Its row of the table."""
        evaluation: dict[str, Any] = json.loads(self.folder.evaluation.read_text(encoding="utf-8"))
        updates, seconds = evaluation.pop("updates"), evaluation.pop("cpu_seconds")
        model = load_run(self.folder).model
        return {
            "row": self.row,
            "seed": self.seed,
            **evaluation,
            "updates": updates,
            "seconds": round(seconds),
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
            "command": f"python train.py {' '.join(self.arguments)}",
        }


def write_table(name: str, runs: Sequence[Run], output: Path) -> None:
    """What is known of a table's runs that are done: the table, their curves, and a figure of these."""
    results = [run.result() for run in runs]
    output.mkdir(parents=True, exist_ok=True)
    write_text(output / f"{name}.md", with_commands(results))
    write_text(output / f"{name}.csv", comma_separated(results))
    figure = curves([run.folder.path for run in runs])
    save(figure, output / f"{name}.png")
    write_text(output / f"{name}_curves.csv", comma_separated(list(curve_rows(runs))))


def curve_rows(runs: Sequence[Run]) -> Iterator[dict[str, Any]]:
    """The evaluations during training."""
    for run in runs:
        score = load_run(run.folder).task.score
        curve = learning_curve(run.folder.path, f"eval/{score}")
        for updates, value in zip(curve.steps, curve.returns, strict=True):
            yield {"row": run.row, "seed": run.seed, "updates": int(updates), score: round(float(value), 5)}


def with_commands(results: Sequence[dict[str, Any]]) -> str:
    """A table, and below it the commands."""
    rows = [
        {column: _cell(column, value) for column, value in result.items() if column != "command"} for result in results
    ]
    return "\n".join([markdown(rows), "```", *(result["command"] for result in results), "```", ""])


def _cell(column: str, value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.2%}" if "accuracy" in column or "match" in column else f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def main(arguments: list[str]) -> int:
    """Make what is missing of the tables. Returns the exit code: 0, that of a run that failed, or 130 if stopped."""
    parser = argparse.ArgumentParser("python -m benchmarks.supervised", description=__doc__)
    parser.add_argument("tables", nargs="+", choices=TABLES, metavar="TABLE", help=", ".join(TABLES))
    parser.add_argument("--minutes", type=_positive, help="processor time of each run; default: the table's own")
    parser.add_argument("--seeds", type=int, nargs="+", help="default: the table's own")
    parser.add_argument("--rows", nargs="+", help="default: all rows of the table")
    parser.add_argument("--output", type=Path, default=RUNS, help=f"folder of the tables; default: {RUNS}")
    options = parser.parse_args(arguments)
    for name in options.tables:
        table = TABLES[name]
        unknown = set(options.rows or ()) - table.rows.keys()
        if unknown:
            parser.error(f"--rows of {name} must be among {', '.join(table.rows)}, got {', '.join(sorted(unknown))}")
        runs = [
            Run(name, row, seed, options.minutes or table.minutes)
            for seed in options.seeds or table.seeds
            for row in table.rows
        ]
        code = make(name, runs, options.output, lambda run: not options.rows or run.row in options.rows)
        if code != 0:
            return code
    return 0


def make(name: str, runs: Sequence[Run], output: Path, is_wanted: Callable[[Run], bool]) -> int:
    """Make what is missing of one table; 0, or the exit code of what ended it early."""
    for run in runs:
        if not is_wanted(run) or run.is_done:
            continue
        run.compile()
        code = run.make()
        if code != 0:
            return code
        if not run.is_done:
            print("stopped; the same command goes on")
            return 130
        write_table(name, [run for run in runs if run.is_done], output)
    write_table(name, [run for run in runs if run.is_done], output)
    return 0


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise ValueError
    return value


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

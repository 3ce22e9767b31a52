"""A grid of training runs: rows, each a core and a view with their settings, and seeds, from a YAML file."""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import reduce
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentError, ArgumentParser

import train
from agents.config import AgentRun
from rmc_rl.figures import flatten
from rmc_rl.run_folder import RunFolder, write_text

RUNS = Path("runs")
ONE_CORE: dict[str, Any] = {"run": "agent", "replicas": 1, "threads": 1, "device": "cpu"}
MAY_CHANGE = ("total_timesteps", "checkpoint_minutes")
"""Settings of a grid that a run which has begun may be given anew."""


@dataclass(frozen=True, kw_only=True)
class View:
    """What the agents see of the game."""

    settings: dict[str, Any]
    """Of `train.py`."""
    published: dict[str, float] = field(default_factory=dict)
    """Returns that others report, by a name for the plot."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """Runs that differ in their seed alone."""

    core: str
    """One of the grid's cores."""
    view: str
    """One of the grid's views."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Of `train.py`, over those of grid, core and view."""
    seeds: list[int] | None = None
    """The grid's, if left out."""


@dataclass(frozen=True, kw_only=True)
class Grid:
    """All that is compared. A core's settings go over the grid's, the view's over these, and the row's over all."""

    seeds: list[int]
    """Of every row that has none of its own. Row i of a run's environments begins with seed + i: keep them apart."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Of `train.py`, as in a file of configs/."""
    cores: dict[str, dict[str, Any]]
    """Settings of every core."""
    views: dict[str, View]
    rows: dict[str, Row]
    """By their names, which are also the names of files."""
    differences: list[tuple[str, str]] = field(default_factory=list)
    """Pairs of rows: by how much the first is better."""

    def __post_init__(self) -> None:
        for name, row in self.rows.items():
            if not re.fullmatch(r"[\w.-]+", name):
                raise ValueError(f"rows must be named by letters, digits, '_', '.' and '-' alone, got {name!r}")
            _one_of(f"rows.{name}.core", row.core, self.cores)
            _one_of(f"rows.{name}.view", row.view, self.views)
            if taken := sorted({*ONE_CORE, "seed", "name"} & self._own_settings(row).keys()):
                raise ValueError(
                    f"settings of rows.{name} must leave out {', '.join(taken)}: every run is given its own"
                )
            seeds = self.seeds_of(name)
            if not seeds or len(set(seeds)) < len(seeds):
                raise ValueError(f"seeds of rows.{name} must be at least one, each once, got {seeds}")
        for row_name in (name for pair in self.differences for name in pair):
            _one_of("differences", row_name, self.rows)

    @classmethod
    def read(cls, path: Path) -> "Grid":
        """The grid of a file.

        Raises:
            ValueError: the file cannot be read, or is no grid.
        """
        parser = ArgumentParser(exit_on_error=False)
        parser.add_class_arguments(cls)
        try:
            values = parser.instantiate(parser.parse_object(yaml.safe_load(path.read_text(encoding="utf-8"))))
            return cls(**vars(values))
        except (OSError, UnicodeDecodeError, yaml.YAMLError, ArgumentError, TypeError, ValueError) as error:
            raise ValueError(f"{path}: {error}") from error

    def seeds_of(self, row: str) -> list[int]:
        own = self.rows[row].seeds
        return self.seeds if own is None else own

    def settings_of(self, name: str) -> dict[str, Any]:
        """All settings of a row."""
        return self._own_settings(self.rows[name]) | ONE_CORE

    def _own_settings(self, row: Row) -> dict[str, Any]:
        return reduce(merged, (self.settings, self.cores[row.core], self.views[row.view].settings, row.settings))

    def runs(self, group: str) -> list["Run"]:
        """Every run, one seed of all rows after another: with the first seed, there is something to see of each.

        Args:
            group: the name of their common folder in runs/.
        """
        most = max(len(self.seeds_of(row)) for row in self.rows)
        return [
            Run(group, row, self.seeds_of(row)[i], self.settings_of(row))
            for i in range(most)
            for row in self.rows
            if i < len(self.seeds_of(row))
        ]


@dataclass(frozen=True)
class Run:
    """One row with one seed: an ordinary run of `train.py`, in runs/GROUP/ROW-seedSEED."""

    group: str
    row: str
    seed: int
    settings: dict[str, Any]

    @property
    def name(self) -> str:
        return f"{self.group}/{self.row}-seed{self.seed}"

    @property
    def folder(self) -> RunFolder:
        return RunFolder(RUNS / self.name)

    def file(self, kind: str) -> Path:
        """A file beside the folder: what `train.py` is given (yaml), what it prints (log), who trains it (lock)."""
        return RUNS / f"{self.name}.{kind}"

    def config(self) -> AgentRun:
        """What `train.py` makes of the settings, which are written to a file for it.

        Raises:
            ValueError: they are not legal, or the run has begun with others.
        """
        path = self.file("yaml")
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, yaml.safe_dump({**self.settings, "seed": self.seed, "name": self.name}))
        config = _parsed(path, f"rows.{self.row}")
        if self.folder.config.is_file():
            self._check_same(config, _parsed(self.folder.config, str(self.folder.config)))
        return config

    def is_done(self, config: AgentRun) -> bool:
        """Whether it has been trained for as long as the grid says, and evaluated."""
        return self.folder.evaluation.is_file() and self.evaluation()["steps"] >= config.total_timesteps

    def evaluation(self) -> dict[str, Any]:
        """The final evaluation."""
        evaluation: dict[str, Any] = json.loads(self.folder.evaluation.read_text(encoding="utf-8"))
        return evaluation

    def arguments(self, config: AgentRun) -> list[str]:
        """Of `train.py`: for a new run, or to go on with this one, maybe for more steps than it began with."""
        if not self.folder.checkpoints():
            return [f"--config={self.file('yaml')}"]
        return [f"--resume={self.folder.path}", f"--total_timesteps={config.total_timesteps}"]

    def _check_same(self, config: AgentRun, begun: AgentRun) -> None:
        wanted, found = dict(flatten(asdict(config))), dict(flatten(asdict(begun)))
        for name in sorted(wanted.keys() | found.keys()):
            if name not in MAY_CHANGE and wanted.get(name) != found.get(name):
                raise ValueError(
                    f"rows.{self.row} has {name} {wanted.get(name)}, but {self.folder.path} was begun with "
                    f"{found.get(name)}: give the row another name, or remove the folder"
                )


def merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Nested settings, of which those above count where both have one."""
    both = {
        name: merged(below[name], above[name])
        for name in below.keys() & above.keys()
        if _are_nested(below, above, name)
    }
    return {**below, **above, **both}


def _are_nested(below: Mapping[str, Any], above: Mapping[str, Any], name: str) -> bool:
    return isinstance(below[name], Mapping) and isinstance(above[name], Mapping)


def _parsed(path: Path, source: str) -> AgentRun:
    try:
        config, _ = train.parse([f"--config={path}"])
    except (ArgumentError, ValueError) as error:
        raise ValueError(f"{source}: {error}") from error
    if not isinstance(config, AgentRun):
        raise ValueError(f"{source}: run must be agent, got {config.run}")
    return config


def _one_of(name: str, value: str, legal: Mapping[str, Any]) -> None:
    if value not in legal:
        raise ValueError(f"{name} must be among {', '.join(legal)}, got {value}")

"""A run's folder: what is in it, where, and how it gets there without ever being half-written."""

import json
import math
import platform
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import yaml

from .checkpoint import CheckpointError
from .files import replacing

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

KEPT_CHECKPOINTS = 2
MODEL, PROGRESS, LOG = map(re.compile, (r"model_\d+\.zip", r"progress_(\d+)_\d+\.zip", r"progress(?:_(\d+))?\.csv"))
"""Names of a run's own files; others that lie beside them are left alone."""
T = TypeVar("T")


class RunFolderError(ValueError):
    """A run folder that cannot be made or used; the message says why and what to do."""


class RunFolder:
    """The files of one run.

    ```
    config.yaml       the resolved configuration: every setting with its value
    versions.json     of Python and of the packages that matter
    progress*.csv     the log; a resumed run adds a file
    events.out.*      the same for TensorBoard
    checkpoints/      model_STEPS.zip, the last two; beside each, the replicas' progress_STEPS_RANK.zip
    best_model.zip    the best so far, by evaluation; its figures are in best_model.json
    model.zip         the last
    evaluation.json   the final evaluation
    video.mp4         the trained agent
    ```
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.config = self.path / "config.yaml"
        self.best_model = self.path / "best_model.zip"
        self.best_evaluation = self.path / "best_model.json"
        self.model = self.path / "model.zip"
        self.evaluation = self.path / "evaluation.json"
        self.video = self.path / "video.mp4"

    @classmethod
    def create(cls, path: str | Path, config: str) -> "RunFolder":
        """Make the folder of a new run and write its configuration (YAML text) and versions.

        Raises:
            RunFolderError: the folder holds something already, or cannot be written.
        """
        folder = cls(path)
        taken = RunFolderError(f"{path} exists already: choose another name, or continue it with --resume {path}")
        if folder.path.exists() and (not folder.path.is_dir() or any(folder.path.iterdir())):
            raise taken
        try:
            (folder.path / "checkpoints").mkdir(parents=True)  # of runs that start at once, one has it
            write_text(folder.config, config)
            write_text(folder.path / "versions.json", to_json(_versions()))
        except FileExistsError:
            raise taken from None
        except OSError as error:
            raise RunFolderError(f"cannot write the run folder {path}: {error.strerror}") from error
        return folder

    @classmethod
    def open(cls, path: str | Path) -> "RunFolder":
        """The folder of a run that exists.

        Raises:
            RunFolderError: there is no such folder, or it is not a run's.
        """
        folder = cls(path)
        if not folder.path.is_dir():
            raise RunFolderError(f"there is no run folder {path}")
        if not folder.config.is_file():
            raise RunFolderError(f"{path} is not a run folder: it has no config.yaml")
        return folder

    def checkpoints(self) -> list[Path]:
        """The checkpoints, newest first: their models, each of which is written after all that belongs to it."""
        models = (path for path in self._in_checkpoints() if MODEL.fullmatch(path.name))
        return sorted(models, key=_steps, reverse=True)

    def checkpoint(self, steps: int) -> Path:
        """Where the checkpoint after so many steps belongs."""
        return self.path / "checkpoints" / f"model_{steps}.zip"

    def progress(self, steps: int, rank: int) -> Path:
        """Where the progress of a replica at that checkpoint belongs."""
        return self.path / "checkpoints" / f"progress_{steps}_{rank}.zip"

    def drop_old_checkpoints(self) -> None:
        """Keep the newest checkpoints alone, each with the progress that belongs to it."""
        for old in self.checkpoints()[KEPT_CHECKPOINTS:]:
            old.unlink()
        kept = {_steps(checkpoint) for checkpoint in self.checkpoints()}
        for path in self._in_checkpoints():
            found = PROGRESS.fullmatch(path.name)
            if found and int(found[1]) not in kept:
                path.unlink()

    def _in_checkpoints(self) -> list[Path]:
        return list((self.path / "checkpoints").glob("*"))  # none where the folder is gone

    def best_score(self, name: str) -> float:
        """A figure of the best model's evaluation; minus infinity where there is none, or none that can be read."""
        try:
            return float(json.loads(self.best_evaluation.read_text(encoding="utf-8"))[name])
        except FileNotFoundError:
            pass
        except (ValueError, KeyError, TypeError) as error:
            warning = f"the best model is chosen anew, {self.best_evaluation} cannot be read: {error!r}"
            print(f"warning: {warning}", file=sys.stderr)
        return -math.inf

    def log_suffix(self) -> str:
        """The suffix of the next log: a resumed run leaves what was logged before as it is."""
        parts = self._logs()
        return f"_{max(parts) + 1}" if parts else ""

    def logs(self) -> list[Path]:
        """The logs of the run's parts, in their order."""
        return [path for _, path in sorted(self._logs().items())]

    def _logs(self) -> dict[int, Path]:
        """By their numbers: `progress.csv` is the first."""
        return {int(found[1] or 1): path for path in self.path.iterdir() if (found := LOG.fullmatch(path.name))}


def newest_readable(folder: RunFolder, read: Callable[[Path], T]) -> tuple[Path, T]:
    """The newest checkpoint of a run that `read` can read, and what it gave.

    Newer ones that are damaged are set aside, or they would count as the newest, and better ones be dropped for them.

    Raises:
        RunFolderError: there is none.
    """
    failures: list[tuple[Path, CheckpointError]] = []
    for checkpoint in folder.checkpoints():
        try:
            found = read(checkpoint)
        except CheckpointError as error:
            failures.append((checkpoint, error))
            continue
        for path, failure in failures:
            print(f"warning: {failure}; it is renamed to {path.stem}.damaged", file=sys.stderr)
            path.rename(path.with_suffix(".damaged"))
        return checkpoint, found
    reason = "; ".join(str(error) for _, error in failures) or "it was stopped before its first one"
    raise RunFolderError(f"{folder.path} has no checkpoint to go on from: {reason}")


def to_json(data: Mapping[str, Any]) -> str:
    """JSON text; a float that is not finite, such as the standard error of one episode, becomes null."""
    finite = {
        key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in data.items()
    }
    return json.dumps(finite, indent=2, allow_nan=False) + "\n"


def to_yaml(config: "DataclassInstance") -> str:
    """YAML text of a configuration: every setting with its value."""
    return yaml.safe_dump(asdict(config), sort_keys=False)


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    with replacing(path) as file:
        file.write(text.encode())


def _steps(checkpoint: Path) -> int:
    return int(checkpoint.stem.rpartition("_")[2])


def _versions() -> dict[str, str]:
    packages = ("rmc-rl", "torch", "numpy", "numba", "gymnasium", "stable-baselines3")
    return {"python": platform.python_version()} | {package: _version(package) for package in packages}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # ours, used from a source folder
        return "unknown"

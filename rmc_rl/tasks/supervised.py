"""The one loop that trains on a task, from its configuration to its final score."""

import sys
import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from stable_baselines3.common.logger import Logger, make_output_format
from tqdm import tqdm

from ..devices import check_device
from ..figures import STEPS
from ..run_folder import RunFolder, newest_readable, to_json, to_yaml, write_text
from ..stop import StopRequest
from .config import TaskRun
from .learner import TaskLearner
from .task import Metrics, Tally


@dataclass
class TaskTraining:
    """A learner and the folder of its run; made by `start` or `resume`."""

    config: TaskRun
    folder: RunFolder
    learner: TaskLearner
    best: float = field(default=-float("inf"), init=False)
    """The best score of an evaluation so far."""

    @classmethod
    def start(cls, config: TaskRun, path: Path) -> "TaskTraining":
        """A new run in a new folder at `path`; nothing is written unless all parts could be made.

        Raises:
            ValueError: an illegal setting, or a folder that is there already or cannot be written.
            TypeError: an argument that the task, the core or the model does not have.
        """
        _prepare(config)
        learner = TaskLearner.make(config)
        return cls(config, RunFolder.create(path, to_yaml(config)), learner)

    @classmethod
    def resume(cls, config: TaskRun, folder: RunFolder) -> "TaskTraining":
        """Go on from the newest checkpoint of a run that can be read.

        Raises:
            RunFolderError: there is none.
            ValueError, TypeError: as for `start`.
            OSError: the configuration cannot be written; it is kept for the next time, with what is new in it.
        """
        _prepare(config)
        _, learner = newest_readable(folder, partial(TaskLearner.load, config))
        write_text(folder.config, to_yaml(config))
        training = cls(config, folder, learner)
        training.best = folder.best_score(learner.task.score)
        return training

    def run(self) -> dict[str, float] | None:
        """Train for what is left of updates and time, then evaluate; None if the user stopped it (it can be resumed).

        Raises:
            FloatingPointError: the loss was not finite; the last checkpoint is kept.
            CheckpointError: a checkpoint could not be written.
        """
        stop = StopRequest()
        with closing(self._logger()) as logger, stop.listening(), closing(self._bar()) as bar:
            self._train(stop, Log(logger, bar))
        self._checkpoint()
        if self.learner.progress() < 1:
            return None
        self.learner.save(self.folder.model)
        evaluation = self.learner.evaluate(self.config.evaluation.final_samples, final=True)
        write_text(self.folder.evaluation, to_json(self.learner.spent() | evaluation))
        return evaluation

    def _train(self, stop: StopRequest, log: "Log") -> None:
        last_checkpoint = time.monotonic()
        while self.learner.progress() < 1 and not stop.requested:
            log.add(self.learner.update())
            if self._is_due(self.config.evaluation.interval):
                log.evaluation(self._keep_the_best())
            if self._is_due(self.config.log_interval):
                log.write(self.learner)
            if time.monotonic() - last_checkpoint >= 60 * self.config.checkpoint_minutes:
                self._checkpoint()
                last_checkpoint = time.monotonic()

    def _is_due(self, interval: int) -> bool:
        """Whether something that happens every so many updates, and after the last one, happens now; 0 is never."""
        return interval > 0 and (self.learner.updates % interval == 0 or self.learner.progress() >= 1)

    def _keep_the_best(self) -> dict[str, float]:
        evaluation = self.learner.evaluate(self.config.evaluation.samples)
        if evaluation[self.learner.task.score] > self.best:
            self.best = evaluation[self.learner.task.score]
            self.learner.save(self.folder.best_model)
            write_text(self.folder.best_evaluation, to_json(self.learner.spent() | evaluation))
        return evaluation

    def _checkpoint(self) -> None:
        self.learner.save(self.folder.checkpoint(self.learner.updates))
        self.folder.drop_old_checkpoints()

    def _logger(self) -> Logger:
        path = str(self.folder.path)
        formats = [make_output_format("csv", path, self.folder.log_suffix()), make_output_format("tensorboard", path)]
        return Logger(path, formats)

    def _bar(self) -> "tqdm[None]":
        # A bar that is redrawn in a file would fill it.
        interval = 0.5 if sys.stderr.isatty() else 15.0
        return tqdm(
            total=None if self.config.cpu_minutes else self.config.updates,
            initial=self.learner.updates,
            mininterval=interval,
            maxinterval=interval,
            unit=" updates",
            dynamic_ncols=True,
        )


class Log:
    """Rows of the log (CSV and TensorBoard), each of which holds the means since the last, and the bar's text."""

    def __init__(self, logger: Logger, bar: "tqdm[None]") -> None:
        self.logger, self.bar = logger, bar
        self._begin_row()

    def add(self, metrics: Metrics) -> None:
        """Those of an update."""
        self.tally.add(metrics)
        self.updates += 1
        self.bar.update()

    def evaluation(self, metrics: Mapping[str, float]) -> None:
        """To be shown in the next row."""
        for name, value in metrics.items():
            self.logger.record(f"eval/{name}", value)

    def write(self, learner: TaskLearner) -> None:
        """A row about the updates since the last; the task's score goes to the bar."""
        task = learner.task
        means = task.summarize(self.tally.means())
        for name, value in means.items():
            self.logger.record(f"train/{name}", value)
        seconds = max(time.monotonic() - self.begin, 1e-9)
        self.logger.record("time/updates_per_second", self.updates / seconds)
        self.logger.record("time/cpu_seconds", learner.cpu_seconds)
        self.logger.record(STEPS, learner.updates, exclude="tensorboard")
        self.logger.dump(step=learner.updates)
        self.bar.set_postfix_str(f"{learner.progress():.0%}, {task.score} {means[task.score]:.4g}", refresh=False)
        self._begin_row()

    def _begin_row(self) -> None:
        self.tally, self.updates, self.begin = Tally(), 0, time.monotonic()


def _prepare(config: TaskRun) -> None:
    check_device(config.device)
    torch.set_num_threads(config.threads)

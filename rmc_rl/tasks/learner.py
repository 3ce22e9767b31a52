"""A model in training on a task: one update, and all that it takes to go on exactly where it was stopped."""

import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
import yaml
from stable_baselines3.common.utils import get_device
from torch import Tensor, nn

from ..checkpoint import CheckpointError, load_checkpoint, save_checkpoint, tensor_group
from ..cores import State, make_core
from ..optimizer_state import optimizer_tensors, restore_optimizer
from ..run_folder import RunFolder, RunFolderError, newest_readable
from .config import OptimizationConfig, TaskConfig, TaskEvaluationConfig, TaskRun
from .language_modeling import LanguageModeling
from .nth_farthest import NthFarthest
from .program_evaluation import ProgramEvaluation
from .task import Metrics, Stream, Tally, Task

TASKS: dict[str, type[Task]] = {
    "nth_farthest": NthFarthest,
    "program_evaluation": ProgramEvaluation,
    "language_modeling": LanguageModeling,
}
"""By the names in `TaskConfig`."""
KIND = "task"
"""Of the checkpoints."""


@dataclass
class TaskLearner:
    """Task, model, optimizer and the stream of batches; made by `make` or `load`."""

    config: TaskRun
    task: Task
    model: nn.Module
    optimizer: torch.optim.Adam
    stream: Stream
    state: State = ()
    """What the model carries from one batch to the next."""
    updates: int = 0
    cpu_seconds: float = 0.0
    """Processor time of all updates; in a run that went on, of those before as well if that time is limited."""

    @classmethod
    def make(cls, config: TaskRun) -> "TaskLearner":
        """A new one; torch's random numbers begin anew.

        Raises:
            ValueError: an illegal argument of task, core or model.
            TypeError: an argument that they do not have.
        """
        torch.manual_seed(config.seed)
        settings, fitting = config.model(), config.optimization
        task = TASKS[settings["task"]](**settings["task_kwargs"])
        model = task.make_model(partial(make_core, config.core, **settings["core_kwargs"]), **settings["model_kwargs"])
        model.to(get_device(config.device))
        optimizer = torch.optim.Adam(model.parameters(), fitting.learning_rate)
        return cls(config, task, model, optimizer, task.stream(fitting.batch_size, config.seed))

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def update(self) -> Metrics:
        """Fit the model to the next batch.

        Raises:
            FloatingPointError: the loss or its gradient is not finite; the model is as it was.
        """
        begin = time.process_time()
        self.model.train()
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate()
        loss, metrics, state = self.task.loss(self.model, self._to_device(self.stream.next()), self.state)
        value = loss.item()
        if not torch.isfinite(loss):
            raise FloatingPointError(f"the loss is {value} after {self.updates:,} updates; try a lower learning rate")
        self.optimizer.zero_grad()
        torch.autograd.backward(loss)
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.config.optimization.max_gradient_norm)
        if not norm.isfinite():
            raise FloatingPointError(
                f"the gradient is {norm.item()} after {self.updates:,} updates; try a lower learning rate"
            )
        self.optimizer.step()
        self.state = tuple(leaf.detach() for leaf in state)
        self.stream.observe(value)
        self.updates += 1
        self.cpu_seconds += time.process_time() - begin
        return {**metrics, "loss": (value, 1), "gradient_norm": (norm.item(), 1)}

    def learning_rate(self) -> float:
        """Of the next update."""
        fitting = self.config.optimization
        left = max(0.0, 1 - self.progress())
        return fitting.learning_rate * (left if fitting.learning_rate_schedule == "linear" else 1)

    def progress(self) -> float:
        """The share of the run that is done, by its updates or its processor time; it ends at 1."""
        limit = 60 * self.config.cpu_minutes
        return max(self.updates / self.config.updates, self.cpu_seconds / limit if limit else 0.0)

    def spent(self) -> dict[str, float]:
        """Updates and, where it is limited, processor time so far."""
        return {"updates": self.updates} | ({"cpu_seconds": self.cpu_seconds} if self.config.cpu_minutes else {})

    @torch.no_grad()
    def evaluate(self, samples: int, final: bool = False) -> dict[str, float]:
        """The metrics of the task on batches of its own, always the same; `score` is among them."""
        self.model.eval()
        tally, state = Tally(), cast(State, ())
        for batch in self.task.evaluation_batches(self.config.optimization.batch_size, samples, final):
            metrics, state = self.task.evaluate(self.model, self._to_device(batch), state)
            tally.add(metrics)
        return self.task.summarize(tally.means())

    def save(self, path: Path) -> None:
        """Write a checkpoint: model, optimizer, generators, and where the stream stands.

        Raises:
            CheckpointError: the file cannot be written.
        """
        tensors = {f"model/{name}": tensor for name, tensor in self.model.state_dict().items()}
        tensors |= {f"optimizer/{name}": leaf for name, leaf in optimizer_tensors(self.optimizer, self.model).items()}
        tensors |= {f"state/{i}": leaf for i, leaf in enumerate(self.state)}
        tensors |= {f"random/{name}": state for name, state in self._random_states().items()}
        data = {"settings": self.config.model(), **self.spent(), "stream": self.stream.state()}
        save_checkpoint(path, KIND, data, tensors)

    @classmethod
    def load(cls, config: TaskRun, path: Path) -> "TaskLearner":
        """The learner that `save` wrote; its next updates are those that it would have made.

        Raises:
            CheckpointError: the file cannot be read, or holds something else.
            ValueError: the configuration's model is another one.
        """
        data, tensors = load_checkpoint(path, KIND)
        if data.get("settings") != config.model():
            raise ValueError(
                f"task, core, model and batch size must stay what they are in {path}: for others, start a new run"
            )
        learner = cls.make(config)
        try:
            learner.model.load_state_dict(tensor_group(tensors, "model/"))
            restore_optimizer(learner.optimizer, learner.model, tensor_group(tensors, "optimizer/"))
            leaves = tensor_group(tensors, "state/")
            learner.state = tuple(leaves[str(i)].to(learner.device) for i in range(len(leaves)))
            learner.stream.restore(data["stream"])
            learner.updates, learner.cpu_seconds = data["updates"], float(data.get("cpu_seconds", 0))
            learner._restore_random_states(tensor_group(tensors, "random/"))
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise CheckpointError(f"{path}: not a saved model of a task: {' '.join(str(error).split())}") from error
        return learner

    def _to_device(self, batch: Any) -> Any:
        return type(batch)(*(tensor.to(self.device) for tensor in batch))

    def _random_states(self) -> dict[str, Tensor]:
        states = {"cpu": torch.get_rng_state()}
        return states | ({"cuda": torch.cuda.get_rng_state(self.device)} if self.device.type == "cuda" else {})

    def _restore_random_states(self, states: dict[str, Tensor]) -> None:
        torch.set_rng_state(states["cpu"])
        if "cuda" in states and torch.cuda.is_available():
            torch.cuda.set_rng_state(states["cuda"])


def load_run(folder: RunFolder) -> TaskLearner:
    """What a run has learned so far, on the CPU: its last model or, until it has ended, its newest checkpoint.

    Raises:
        RunFolderError: there is none, or the folder's configuration is not one of a task.
    """
    try:
        settings = yaml.safe_load(folder.config.read_text(encoding="utf-8"))
        parts = {
            "task": TaskConfig(**settings["task"]),
            "optimization": OptimizationConfig(**settings["optimization"]),
            "evaluation": TaskEvaluationConfig(**settings["evaluation"]),
        }
        config = TaskRun(**{**settings, **parts, "device": "cpu"})
    except (OSError, UnicodeDecodeError, yaml.YAMLError, KeyError, TypeError, ValueError) as error:
        raise RunFolderError(f"{folder.path} is not the folder of a task's run: {error}") from error
    if folder.model.is_file():
        return TaskLearner.load(config, folder.model)
    return newest_readable(folder, partial(TaskLearner.load, config))[1]

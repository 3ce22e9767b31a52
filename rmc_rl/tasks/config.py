"""What a run on a task is made of: every setting with its default, its meaning and its check. Imports nothing heavy."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

CoreName = Literal["rmc", "lstm", "gru", "deep_lstm", "dnc", "mingru", "identity"]
TaskName = Literal["nth_farthest", "program_evaluation", "language_modeling"]
DEFAULT_CORE_KWARGS: dict[str, dict[str, Any]] = {
    "rmc": {"mem_slots": 4, "head_size": 32, "num_heads": 4, "gate_style": "memory"},
}
"""Of cores that cannot be made without arguments."""


@dataclass(frozen=True, kw_only=True)
class TaskConfig:
    """What is learned."""

    name: TaskName = "program_evaluation"
    """The task."""
    kwargs: dict[str, Any] = field(default_factory=dict)
    """Arguments of the task. nth_farthest: num_objects, num_features, curriculum; program_evaluation: task,
    max_length, max_nesting, curriculum, teacher_forcing; language_modeling: path, window, vocabulary,
    vocabulary_size, cache."""


@dataclass(frozen=True, kw_only=True)
class OptimizationConfig:
    """How the model is fitted: Adam on batches."""

    batch_size: int = 128
    """Sequences of one update."""
    learning_rate: float = 1e-3
    """Adam's step size."""
    learning_rate_schedule: Literal["constant", "linear"] = "constant"
    """Whether the learning rate stays or falls linearly to 0 at the last update."""
    max_gradient_norm: float = 1.0
    """Gradients are scaled down to this global norm when they exceed it."""

    def __post_init__(self) -> None:
        check_at_least("optimization.batch_size", self.batch_size, 1)
        for name in ("learning_rate", "max_gradient_norm"):
            value = getattr(self, name)
            if not 0 < value < math.inf:
                raise ValueError(f"optimization.{name} must be above 0, got {value!r}")


@dataclass(frozen=True, kw_only=True)
class TaskEvaluationConfig:
    """How the model is measured, on sequences that it is not trained on."""

    interval: int = 1000
    """Updates between two evaluations during training, which choose the best model; 0 for none."""
    samples: int = 2560
    """Sequences of each of these; language_modeling: windows of the validation text, at most."""
    final_samples: int = 12_800
    """Sequences of the final evaluation, of the last model; language_modeling: windows of the test text, at most."""

    def __post_init__(self) -> None:
        check_at_least("evaluation.interval", self.interval, 0)
        check_at_least("evaluation.samples", self.samples, 1)
        check_at_least("evaluation.final_samples", self.final_samples, 1)


@dataclass(frozen=True, kw_only=True)
class TaskRun:
    """One training run on a supervised task."""

    run: Literal["task"] = "task"
    """What is trained."""
    name: str | None = None
    """The run's folder is runs/NAME; null: the configuration's name, the seed, date and time."""
    seed: int = 0
    """Of all random numbers; below 1,000,000, the seed of evaluation."""
    updates: int = 10_000
    """Updates to train for, at most."""
    cpu_minutes: float = 0.0
    """Processor time to train for, of all threads together and evaluations left out; 0 for no limit. Whichever of the
    two comes first ends the run, and a learning rate that falls is at 0 then. How many updates fit differs from run
    to run."""
    device: str = "auto"
    """cpu, cuda, ...; auto takes a GPU if there is one."""
    threads: int = 1
    """Threads of one operation."""
    checkpoint_minutes: float = 2.0
    """Minutes between two checkpoints."""
    log_interval: int = 100
    """Updates between two rows of the log, each of which shows their means."""
    core: CoreName | str = "rmc"
    """The core that is trained: rmc, lstm, gru, deep_lstm, dnc, mingru, identity, or one that you have registered."""
    core_kwargs: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Arguments of cores by their names, of which the chosen one's are taken, as in
    {rmc: {mem_slots: 4}, lstm: {hidden_size: 256}}."""
    model_kwargs: dict[str, Any] = field(default_factory=dict)
    """Arguments of the model around the core: head_size, head_layers; program_evaluation: decoder, shared or own;
    language_modeling: embedding_size, dropout."""
    task: TaskConfig = field(default_factory=TaskConfig)
    optimization: OptimizationConfig = field(default_factory=OptimizationConfig)
    evaluation: TaskEvaluationConfig = field(default_factory=TaskEvaluationConfig)

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 1_000_000:
            raise ValueError(f"seed must be from 0 to 999999, got {self.seed}")
        if self.name is not None and not Path(self.name).name:
            raise ValueError(f"name must name a folder, got {self.name!r}")
        for name in ("updates", "threads", "log_interval"):
            check_at_least(name, getattr(self, name), 1)
        for name in ("cpu_minutes", "checkpoint_minutes"):
            check_at_least(name, getattr(self, name), 0)

    def model(self) -> dict[str, Any]:
        """All that makes the model what it is, as JSON: a checkpoint of another one cannot be gone on with."""
        return {
            "task": self.task.name,
            "task_kwargs": self.task.kwargs,
            "core": self.core,
            "core_kwargs": DEFAULT_CORE_KWARGS.get(self.core, {}) | self.core_kwargs.get(self.core, {}),
            "model_kwargs": self.model_kwargs,
            "batch_size": self.optimization.batch_size,
        }


def check_at_least(name: str, value: float, least: float) -> None:
    """Raise a ValueError that names the field unless value >= least (which NaN is not)."""
    if not value >= least:
        raise ValueError(f"{name} must be at least {least}, got {value!r}")

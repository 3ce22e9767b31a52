"""What a supervised task is: endless batches, a model for them, a loss, and metrics."""

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar

import numpy as np
from torch import Tensor, nn

from ..cores import Core, State

MakeCore = Callable[[int], Core]
"""A core for inputs of a width."""
Metrics = Mapping[str, tuple[float, float]]
"""Of a batch: a metric's sum and over how many; their ratio is the mean."""
EVALUATION_SEED, FINAL_SEED = 1_000_000, 2_000_000
"""Seeds of the batches that are not trained on: a run's own seed is below both."""


class Stream(ABC):
    """Endless batches that can be stopped and gone on with."""

    @abstractmethod
    def next(self) -> Any:
        """The next batch."""

    def observe(self, loss: float) -> None:
        """Take note of the loss on the last batch, for those that grow harder."""
        del loss

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """Where it stands, as JSON."""

    @abstractmethod
    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on where another one stood."""


class Task(ABC):
    """Data, loss and metrics; `rmc_rl.tasks.supervised` is the loop that trains on any of them."""

    score: ClassVar[str]
    """The metric of an evaluation that chooses the best model; the higher, the better."""

    @abstractmethod
    def make_model(self, make_core: MakeCore, **kwargs: Any) -> nn.Module:
        """A model for this task around a new core."""

    @abstractmethod
    def stream(self, batch_size: int, seed: int) -> Stream:
        """Batches to train on."""

    @abstractmethod
    def evaluation_batches(self, batch_size: int, samples: int, final: bool = False) -> Iterator[Any]:
        """Batches to evaluate on, always the same; others at the end than those that chose the best model."""

    @abstractmethod
    def loss(self, model: Any, batch: Any, state: State) -> tuple[Tensor, Metrics, State]:
        """The loss to be minimised, metrics of the batch, and what is carried on to the next; () before the first."""

    def evaluate(self, model: Any, batch: Any, state: State) -> tuple[Metrics, State]:
        """Metrics of a batch as the task is tested; those of training unless a task says so."""
        _, metrics, state = self.loss(model, batch, state)
        return metrics, state

    def summarize(self, means: Mapping[str, float]) -> dict[str, float]:
        """What is reported, from the metrics' means over all batches."""
        return dict(means)


class Tally:
    """Metrics summed over batches."""

    def __init__(self) -> None:
        self.totals: defaultdict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])

    def add(self, metrics: Metrics) -> None:
        for name, (value, count) in metrics.items():
            self.totals[name][0] += value
            self.totals[name][1] += count

    def means(self) -> dict[str, float]:
        """Of every metric that counted at all."""
        return {name: value / count for name, (value, count) in self.totals.items() if count}


class GeneratedTask(Task):
    """A task whose batches are drawn at random, each row from its beginning to its end."""

    @abstractmethod
    def sample(self, rng: np.random.Generator, batch_size: int) -> Any:
        """Draw a batch."""

    def observe(self, loss: float) -> None:
        """Take note of the loss on a batch."""
        del loss

    def progress(self) -> dict[str, Any]:
        """How far the task itself has come, as JSON."""
        return {}

    def restore_progress(self, progress: Mapping[str, Any]) -> None:
        """Go on from what `progress` gave."""
        del progress

    def hardest(self) -> "GeneratedTask":
        """The task as it is tested."""
        return self

    def stream(self, batch_size: int, seed: int) -> Stream:
        return GeneratedStream(self, batch_size, seed)

    def evaluation_batches(self, batch_size: int, samples: int, final: bool = False) -> Iterator[Any]:
        rng, task = np.random.default_rng(FINAL_SEED if final else EVALUATION_SEED), self.hardest()
        for begin in range(0, samples, batch_size):
            yield task.sample(rng, min(batch_size, samples - begin))


class GeneratedStream(Stream):
    """Batches of a `GeneratedTask`."""

    def __init__(self, task: GeneratedTask, batch_size: int, seed: int) -> None:
        self.task, self.batch_size = task, batch_size
        self.rng = np.random.default_rng(seed)

    def next(self) -> Any:
        return self.task.sample(self.rng, self.batch_size)

    def observe(self, loss: float) -> None:
        self.task.observe(loss)

    def state(self) -> dict[str, Any]:
        return {"generator": self.rng.bit_generator.state, "task": self.task.progress()}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.rng.bit_generator.state = state["generator"]
        self.task.restore_progress(state["task"])

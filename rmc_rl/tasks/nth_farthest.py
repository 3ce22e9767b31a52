"""Nth Farthest (Santoro et al. 2018, section 4.1): which vector is the n-th farthest from vector m?"""

from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..cores import State
from ..cores.core import check_positive
from .curriculum import FarthestCurriculum, FarthestCurriculumName
from .model import SequenceModel
from .task import GeneratedTask, MakeCore, Metrics


class FarthestBatch(NamedTuple):
    """Sequences of vectors, and the answers to their questions."""

    inputs: Tensor
    """float32 [T, B, input_size]: at each step a vector, its label, n and m."""
    labels: Tensor
    """int64 [B]: the label asked for, counted from 0."""


class NthFarthest(GeneratedTask):
    """Vectors from U(-1, 1), each with a label, and the question which is the n-th farthest from vector m.

    Labels are drawn without replacement, so that they do not follow the order of presentation. An input is a vector
    and three one-hot parts, each of `num_objects`: its label, n, and m's label; n and m are the same at every step.
    n = 1 is the farthest by Euclidean distance, and n = `num_objects` is m itself. Whoever knows no more than that is
    right in 1/k + (k - 1)/k * 1/(k - 1) = 2/k of all cases, k being `num_objects`.

    Args:
        num_objects: vectors in a sequence, and so labels and steps.
        num_features: numbers in a vector.
        curriculum: `"baseline"`, everything from the beginning, as in the paper; or `"combined"`, short vectors first,
            then one n after the other. See `FarthestCurriculum`.

    Raises:
        ValueError: fewer than two objects, no feature, or an unknown curriculum.
    """

    score: ClassVar[str] = "accuracy"

    def __init__(
        self, num_objects: int = 8, num_features: int = 16, curriculum: FarthestCurriculumName = "baseline"
    ) -> None:
        check_positive(num_objects=num_objects, num_features=num_features)
        if num_objects < 2:
            raise ValueError(f"num_objects must be at least 2, or there is nothing to compare, got {num_objects}")
        self.num_objects, self.num_features = num_objects, num_features
        self.curriculum = FarthestCurriculum(curriculum, num_objects, num_features)
        self.input_size = num_features + 3 * num_objects
        self.num_classes = num_objects

    def sample(self, rng: np.random.Generator, batch_size: int) -> FarthestBatch:
        """Draw so many sequences, with the questions that the curriculum has come to.

        Raises:
            ValueError: a batch size below 1.
        """
        check_positive(batch_size=batch_size)
        rows, count = np.arange(batch_size), self.num_objects
        vectors = rng.random((batch_size, count, self.num_features), dtype=np.float32) * 2 - 1  # [B, T, F]
        vectors[:, :, self.curriculum.features :] = 0
        labels = rng.random((batch_size, count), dtype=np.float32).argsort(axis=1)  # [B, T], a permutation in each row
        reference = rng.integers(count, size=batch_size)  # [B], a step; its label is as random as any
        rank = self.curriculum.draw(rng, batch_size) - 1  # [B], n - 1

        offsets = vectors - vectors[rows, reference, None]  # [B, T, F]
        distances = np.einsum("btf,btf->bt", offsets, offsets, dtype=np.float64)  # [B, T], squared
        asked = distances.argsort(axis=1)[rows, count - 1 - rank]  # [B], a step

        inputs = np.zeros((count, batch_size, self.input_size), np.float32)
        steps = np.arange(count)[:, None]  # [T, 1]
        label_at, rank_at, reference_at = (self.num_features + i * count for i in range(3))
        inputs[:, :, : self.num_features] = vectors.swapaxes(0, 1)
        inputs[steps, rows, label_at + labels.T] = 1
        inputs[steps, rows, rank_at + rank] = 1
        inputs[steps, rows, reference_at + labels[rows, reference]] = 1
        return FarthestBatch(torch.from_numpy(inputs), torch.from_numpy(labels[rows, asked]))

    def observe(self, loss: float) -> None:
        self.curriculum.observe(loss)

    def progress(self) -> dict[str, Any]:
        return self.curriculum.state()

    def restore_progress(self, progress: Mapping[str, Any]) -> None:
        self.curriculum.restore(progress)

    def hardest(self) -> "NthFarthest":
        """With all questions."""
        return NthFarthest(self.num_objects, self.num_features)

    def make_model(self, make_core: MakeCore, **kwargs: Any) -> SequenceModel:
        """A core that reads the sequence, and a head after its last step; `kwargs` are the `SequenceModel`'s."""
        return SequenceModel(make_core(self.input_size), self.num_classes, **kwargs)

    def loss(self, model: SequenceModel, batch: FarthestBatch, state: State) -> tuple[Tensor, Metrics, State]:
        """Cross-entropy; `accuracy` over all questions, and over those that do not ask for m itself."""
        logits = model(batch.inputs)  # [B, labels]
        right = logits.argmax(dim=-1) == batch.labels  # [B]
        others = self.ranks(batch.inputs) < self.num_objects  # [B]
        metrics = {
            "accuracy": (right.sum().item(), len(right)),
            "accuracy_of_others": ((right & others).sum().item(), others.sum().item()),
        }
        return F.cross_entropy(logits, batch.labels), metrics, state

    def ranks(self, inputs: Tensor) -> Tensor:
        """n of each sequence's question, int64 [B], counted from 1; inputs [T, B, input_size]."""
        begin = self.num_features + self.num_objects
        return inputs[0, :, begin : begin + self.num_objects].argmax(dim=-1) + 1

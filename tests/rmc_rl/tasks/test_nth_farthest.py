"""Nth Farthest: every answer is right, and nothing but the question gives it away."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rmc_rl.tasks import NthFarthest
from rmc_rl.tasks.curriculum import LEARNED_UPDATES, FarthestCurriculum

OBJECTS, FEATURES, BATCH = 5, 3, 7


def answers(task: NthFarthest, inputs: np.ndarray) -> list[int]:
    """By sorting the distances, one sequence after the other."""
    count, found = task.num_objects, []
    for sequence in inputs.swapaxes(0, 1).astype(np.float64):
        vectors, labels, rank, reference = np.split(sequence, task.num_features + count * np.arange(3), axis=1)
        by_label = {int(label.argmax()): vector for label, vector in zip(labels, vectors, strict=True)}
        question = by_label[int(reference[0].argmax())]
        farthest_first = sorted(by_label, key=lambda label: -float(np.linalg.norm(by_label[label] - question)))
        found.append(farthest_first[int(rank[0].argmax())])
    return found


@pytest.mark.parametrize(("objects", "features"), [(8, 16), (4, 4), (3, 1)])
def test_ten_thousand_answers_are_right(objects: int, features: int) -> None:
    task = NthFarthest(objects, features)
    inputs, labels = task.sample(np.random.default_rng(objects), 10_000)
    assert answers(task, inputs.numpy()) == labels.tolist()


def test_batches_are_what_the_docstring_says() -> None:
    task = NthFarthest(OBJECTS, FEATURES)
    batch = task.sample(np.random.default_rng(1), BATCH)
    assert (batch.inputs.shape, batch.inputs.dtype) == ((OBJECTS, BATCH, task.input_size), torch.float32)
    assert (batch.labels.shape, batch.labels.dtype) == ((BATCH,), torch.int64)
    assert (task.input_size, task.num_classes) == (FEATURES + 3 * OBJECTS, OBJECTS)
    vectors, labels, ranks, references = batch.inputs.split([FEATURES, OBJECTS, OBJECTS, OBJECTS], dim=-1)
    assert vectors.abs().max() <= 1
    for one_hot in (labels, ranks, references):
        assert ((one_hot == 0) | (one_hot == 1)).all()
        assert (one_hot.sum(dim=-1) == 1).all()
    assert (labels.sum(dim=0) == 1).all(), "every label once"
    for question in (ranks, references):
        assert (question == question[0]).all(), "the question stays"
    assert task.ranks(batch.inputs).tolist() == (ranks[0].argmax(dim=-1) + 1).tolist()


def test_the_last_rank_is_the_reference_itself() -> None:
    task = NthFarthest(OBJECTS, FEATURES)
    inputs, labels = task.sample(np.random.default_rng(2), 2000)
    itself = task.ranks(inputs) == OBJECTS
    assert torch.equal(inputs[0, itself, -OBJECTS:].argmax(dim=-1), labels[itself])
    assert abs(float(itself.float().mean()) - 1 / OBJECTS) < 0.04


def test_everything_is_drawn_uniformly() -> None:
    """Answers, ranks, references and the place of each label: a bias would be learned before the task is."""
    task = NthFarthest(OBJECTS, FEATURES)
    inputs, labels = task.sample(np.random.default_rng(3), 40_000)
    one_hot = inputs[:, :, FEATURES:].unflatten(-1, (3, OBJECTS))  # [T, B, 3, k]
    for share in (*one_hot.mean(dim=1).reshape(-1, OBJECTS), torch.bincount(labels) / len(labels)):
        assert (share - 1 / OBJECTS).abs().max() < 0.012
    moments = inputs[:, :, :FEATURES].mean(), inputs[:, :, :FEATURES].square().mean()
    assert abs(float(moments[0])) < 0.005
    assert abs(float(moments[1]) - 1 / 3) < 0.005


@given(objects=st.integers(2, 9), features=st.integers(1, 6), batch_size=st.integers(1, 5), seed=st.integers(0, 99))
def test_any_size_is_right_and_repeatable(objects: int, features: int, batch_size: int, seed: int) -> None:
    task = NthFarthest(objects, features)
    inputs, labels = task.sample(np.random.default_rng(seed), batch_size)
    assert answers(task, inputs.numpy()) == labels.tolist()
    again = task.sample(np.random.default_rng(seed), batch_size)
    assert torch.equal(again.inputs, inputs)
    assert torch.equal(again.labels, labels)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"num_objects": 1}, "num_objects must be at least 2, .*got 1"),
        ({"num_objects": 2.0}, "num_objects must be a whole number of at least 1, got 2.0"),
        ({"num_features": 0}, "num_features must be a whole number of at least 1, got 0"),
        ({"curriculum": "mix"}, r"curriculum must be one of \['baseline', 'combined'\], got 'mix'"),
    ],
)
def test_bad_sizes_are_refused(kwargs: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NthFarthest(**kwargs)
    with pytest.raises(ValueError, match="batch_size must be a whole number of at least 1, got 0"):
        NthFarthest().sample(np.random.default_rng(0), 0)


@pytest.mark.parametrize(
    ("num_objects", "order"),
    [(2, [1, 2]), (3, [1, 2, 3]), (4, [1, 3, 4, 2]), (7, [1, 6, 7, 2, 5, 3, 4])],
)
def test_numbers_and_then_ranks_come_one_by_one_when_those_before_are_learned(
    num_objects: int, order: list[int]
) -> None:
    curriculum, rng, chance = FarthestCurriculum("combined", num_objects, 3), np.random.default_rng(0), np.log(9)
    for features, ranks in [(1, 1), (2, 1), *((3, count) for count in range(1, num_objects + 1))]:
        for _ in range(LEARNED_UPDATES):
            assert curriculum.features == features
            assert set(curriculum.draw(rng, 300).tolist()) == set(order[:ranks])
            curriculum.observe(chance)
        for _ in range(LEARNED_UPDATES):
            curriculum.observe(0.0)
    assert curriculum.level == num_objects + 1, "and then it stays"


def test_a_curriculum_asks_what_it_has_come_to_and_is_tested_on_all() -> None:
    task = NthFarthest(4, FEATURES, "combined")
    for level in range(2):
        batch = task.sample(np.random.default_rng(0), 100)
        assert answers(task, batch.inputs.numpy()) == batch.labels.tolist()
        assert task.ranks(batch.inputs).tolist() == [1] * 100
        vectors = batch.inputs[..., :FEATURES]
        assert (vectors[..., : level + 1] != 0).all()
        assert (vectors[..., level + 1 :] == 0).all()
        for _ in range(LEARNED_UPDATES):
            task.observe(0.1)
    tested = task.hardest().sample(np.random.default_rng(0), 100)
    assert set(task.ranks(tested.inputs).tolist()) == {1, 2, 3, 4}
    assert (tested.inputs[..., :FEATURES] != 0).all()
    task.observe(0.2)
    other = NthFarthest(4, FEATURES, "combined")
    other.restore_progress(task.progress())
    assert (other.curriculum.level, other.progress()) == (2, task.progress())

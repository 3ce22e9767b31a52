"""Perplexity by context and by frequency: of the words that are meant, after the words that are said."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rmc_rl.cores import State
from rmc_rl.tasks import LanguageModeling
from rmc_rl.tasks import perplexity as perplexity_module
from rmc_rl.tasks.config import OptimizationConfig, TaskConfig, TaskEvaluationConfig, TaskRun
from rmc_rl.tasks.figures import main
from rmc_rl.tasks.perplexity import by_context, by_frequency, count_words
from rmc_rl.tasks.supervised import TaskTraining


class Counting(torch.nn.Module):
    """Gives every word the probability that its number of words read since the start, or its own number, says."""

    def __init__(self, by_step: bool) -> None:
        super().__init__()
        self.by_step = by_step

    def initial_state(self, batch_size: int) -> State:
        return (torch.zeros(batch_size),)

    def forward(self, words: torch.Tensor, targets: torch.Tensor, state: State, starts: torch.Tensor) -> Any:
        (read,) = state
        steps = read + torch.arange(1, len(words) + 1).unsqueeze(1)  # [T, B]
        probability = 1 / (10 + (steps if self.by_step else targets))
        return probability.log(), (read + len(words),)


@pytest.fixture
def task(tmp_path: Path) -> LanguageModeling:
    """Word k is 4^k times in the training text."""
    (tmp_path / "words.txt").write_text("\n".join(["<unk>", "<eos>", *(f"w{k}" for k in range(4))]))
    (tmp_path / "a.train.tokens").write_text(" ".join(f"w{k}" for k in range(4) for _ in range(4**k)))
    for split in ("valid", "test"):
        (tmp_path / f"a.{split}.tokens").write_text("w0 w1 w2 w3 " * 30)
    return LanguageModeling(tmp_path, window=5, vocabulary=tmp_path / "words.txt")


def test_by_context_counts_the_words_read(task: LanguageModeling) -> None:
    found = by_context(task, Counting(by_step=True), 7)  # type: ignore[arg-type]
    assert found.of.tolist() == list(range(1, 8))
    np.testing.assert_allclose(found.perplexity, 10 + found.of, rtol=1e-5)
    for wrong in (0, 121):
        with pytest.raises(ValueError, match=f"num_words must be from 1 to 120, .*got {wrong}"):
            by_context(task, Counting(by_step=True), wrong)  # type: ignore[arg-type]


def test_by_frequency_groups_the_words_scored(task: LanguageModeling, monkeypatch: pytest.MonkeyPatch) -> None:
    """w0 and w1 (numbers 2 and 3) are 1 and 4 times there, w2 and w3 (4 and 5) are 16 and 64 times."""
    monkeypatch.setattr(perplexity_module, "ROWS", 1)
    found = by_frequency(task, Counting(by_step=False))  # type: ignore[arg-type]
    np.testing.assert_allclose(found.perplexity[:2], [np.sqrt(12 * 13), np.sqrt(14 * 15)], rtol=0.01)
    assert np.isnan(found.perplexity[2:]).all()


def test_words_are_counted_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(perplexity_module, "CHUNK", 4)
    assert count_words(np.array([1, 3, 3, 1, 0, 3], np.uint32), 5).tolist() == [1, 2, 0, 3, 0]


def test_the_figure_has_a_curve_for_each_run(
    task: LanguageModeling, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kwargs = {"path": str(tmp_path), "window": 5, "vocabulary": str(tmp_path / "words.txt")}
    config = TaskRun(
        updates=2,
        device="cpu",
        core="gru",
        core_kwargs={"gru": {"hidden_size": 4}},
        model_kwargs={"embedding_size": 4},
        task=TaskConfig(name="language_modeling", kwargs=kwargs),
        optimization=OptimizationConfig(batch_size=3),
        evaluation=TaskEvaluationConfig(interval=0, final_samples=5),
    )
    TaskTraining.start(config, tmp_path / "runs" / "text").run()
    capsys.readouterr()
    output = tmp_path / "perplexity.png"
    assert main(["perplexity", str(tmp_path / "runs" / "text"), "--output", str(output)]) == 0
    assert output.stat().st_size > 10_000

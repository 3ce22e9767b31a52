"""Language modelling: every word is read once and in order, every probability is one, and bad texts are refused."""

import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rmc_rl.cores import LSTM, make_core
from rmc_rl.tasks import LanguageModeling
from rmc_rl.tasks import corpus as corpus_module
from rmc_rl.tasks import language_model as language_model_module
from rmc_rl.tasks.config import OptimizationConfig, TaskConfig, TaskEvaluationConfig, TaskRun
from rmc_rl.tasks.corpus import END_OF_LINE, UNKNOWN, CorpusError, Vocabulary, read_words
from rmc_rl.tasks.language_model import LanguageModel
from rmc_rl.tasks.language_modeling import TextStream
from rmc_rl.tasks.learner import TaskLearner

WORDS = 50
LINES = [" ".join(f"w{(i * i + 3 * j) % WORDS}" for j in range(12)) for i in range(60)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A corpus in WikiText's format."""
    path = tmp_path / "corpus"
    path.mkdir()
    for split, lines in {"train": LINES, "valid": LINES[:20], "test": LINES[15:40]}.items():
        (path / f"wiki.{split}.tokens").write_text("\n".join(lines), encoding="utf-8")
    return path


# --------------------------------------------------------------------------------------------------------- corpus


def test_words_of_both_formats(tmp_path: Path) -> None:
    text = "The King's crown , <unk> é\n\n \nIt fell!\n"
    (tmp_path / "x.tokens").write_text(text, encoding="utf-8")
    (tmp_path / "x.txt").write_text(text.replace("<unk> ", ""), encoding="utf-8")
    end = END_OF_LINE
    assert list(read_words(tmp_path / "x.tokens")) == [
        ["The", "King's", "crown", ",", "<unk>", "é", end],
        ["It", "fell!", end],
    ]
    assert list(read_words(tmp_path / "x.txt")) == [["the", "king's", "crown", ",", "é", end], ["it", "fell", "!", end]]


def test_a_vocabulary_begins_with_the_most_frequent(tmp_path: Path) -> None:
    (tmp_path / "x.tokens").write_text("b a c a\na b <unk>\n")
    assert Vocabulary.build(tmp_path / "x.tokens").words == (UNKNOWN, "a", END_OF_LINE, "b", "c")
    assert Vocabulary.build(tmp_path / "x.tokens", 3).words == (UNKNOWN, "a", END_OF_LINE)


def test_text_comes_back_from_its_numbers(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also across the chunks in which it is written, and mapped, not loaded."""
    monkeypatch.setattr(corpus_module, "CHUNK", 7)
    task = LanguageModeling(folder, window=5)
    for split, numbers in task.texts.items():
        expected = [word for line in read_words(folder / f"wiki.{split}.tokens") for word in line]
        assert [task.vocabulary.words[number] for number in numbers] == expected
        assert isinstance(numbers, np.memmap)


def test_a_text_is_numbered_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And again when it has changed."""
    first = LanguageModeling(folder, window=5).texts["valid"].copy()
    files = set((folder / "words").iterdir())
    assert len(files) == 3
    with monkeypatch.context() as patched:
        patched.setattr(corpus_module, "_write", lambda *_: pytest.fail("numbered twice"))
        assert np.array_equal(LanguageModeling(folder, window=5).texts["valid"], first)
    (folder / "wiki.valid.tokens").write_text("\n".join(LINES[:30]))
    assert len(LanguageModeling(folder, window=5).texts["valid"]) > len(first)
    assert set((folder / "words").iterdir()) > files


def test_unknown_words_are_counted_and_said(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = tmp_path / "vocabulary.txt"
    given.write_text("\n".join([UNKNOWN, END_OF_LINE, "w1", "w4"]))
    (folder / "wiki.valid.tokens").write_text("w1 w2 w4 <unk>\nw2 w3 w1 w1\n")
    task = LanguageModeling(folder, window=5, vocabulary=given)
    assert task.texts["valid"].tolist() == [2, 0, 3, 0, 1, 0, 0, 2, 2, 1]
    assert "3 of 10 words of" in capsys.readouterr().err, "w2 twice and w3; what the text itself calls unknown is not"


# --------------------------------------------------------------------------------------------------------- stream


@given(length=st.integers(2, 60), batch_size=st.integers(1, 5), window=st.integers(1, 6), epochs=st.integers(1, 2))
def test_every_row_reads_its_part_in_order(length: int, batch_size: int, window: int, epochs: int) -> None:
    text = np.arange(length, dtype=np.uint32)
    if (length - 1) // batch_size < window:
        with pytest.raises(ValueError, match="batch_size must be at most"):
            TextStream(text, batch_size, window)
        return
    stream = TextStream(text, batch_size, window)
    part = (length - 1) // batch_size // window * window
    for _ in range(epochs):
        batches = [stream.next() for _ in range(part // window)]
        words, targets, starts = (torch.cat(tensors) for tensors in zip(*batches, strict=True))
        for b in range(batch_size):
            assert words[:, b].tolist() == list(range(b * part, (b + 1) * part))
        assert torch.equal(targets, words + 1)
        assert starts[0].all()
        assert not starts[1:].any()


# ---------------------------------------------------------------------------------------------------------- model


@pytest.mark.parametrize("cutoffs", [(2000,), (6, 9), (3, 5, 10)])
def test_probabilities_sum_to_one_and_the_embedding_is_the_softmaxs(
    cutoffs: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """For words of every cluster: a word's embedding is the gradient of its score by what the softmax reads."""
    monkeypatch.setattr(language_model_module, "CUTOFFS", cutoffs)
    torch.manual_seed(0)
    words, size = 13, 8
    model = LanguageModel(lambda width: LSTM(width, 5), words, size, dropout=0.0).double()
    starts = torch.zeros(2, words, dtype=torch.bool)
    sequence = torch.tensor([[1] * words, [3] * words])
    targets = torch.stack([torch.arange(words), torch.arange(words)])
    log_probabilities, _ = model(sequence, targets, model.initial_state(words), starts)
    torch.testing.assert_close(log_probabilities.exp().sum(dim=1), torch.ones(2).double())

    embedded = model.embed(torch.arange(words).view(1, -1))[0]  # [words, size]
    x = torch.randn(1, size, dtype=torch.float64)
    scores = embedded @ x[0]
    clusters = [0, *model.softmax.cutoffs[:-1], words]
    logs = model.softmax.log_prob(x)[0]
    for begin, end in pairwise(clusters):
        bias = model.softmax.head.bias[begin:end] if begin == 0 else 0
        offset = logs[begin:end] - scores[begin:end] - bias
        torch.testing.assert_close(offset, offset[:1].expand_as(offset))


def test_windows_go_on_where_the_last_one_ended(folder: Path) -> None:
    """Two windows of five are one of ten: the state is carried, and set anew where the text begins."""
    torch.manual_seed(0)
    short, long = (LanguageModeling(folder, window=window) for window in (5, 10))
    model = short.make_model(lambda width: LSTM(width, 7), embedding_size=6, dropout=0.0).double()
    for task in (short, long):
        task.texts["train"] = task.texts["train"][:61]  # three parts of twenty words for both
    first, second = short.stream(3, 0), long.stream(3, 0)
    total, state = torch.zeros(()).double(), ()
    for _ in range(2):
        loss, _, state = short.loss(model, first.next(), state)
        total += loss
    expected, _, _ = long.loss(model, second.next(), ())
    torch.testing.assert_close(total / 2, expected)


def test_perplexity_is_that_of_guessing_before_learning_anything(folder: Path) -> None:
    task = LanguageModeling(folder, window=5)
    model = task.make_model(lambda width: LSTM(width, 7), embedding_size=6)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    batch = task.stream(2, 0).next()
    loss, _, _ = task.loss(model, batch, ())
    summary = task.summarize({"log_likelihood": -loss.item()})
    assert summary["perplexity"] == pytest.approx(math.exp(loss.item()))
    # The first softmax has half of the words and one symbol for the others, which is one of them all the same.
    first = len(task.vocabulary) // 2
    rare = int((batch.targets >= first).sum())
    expected = math.log(first + 1) + rare / batch.targets.numel() * math.log(len(task.vocabulary) - first)
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def config(folder: Path, **settings: Any) -> TaskRun:
    return TaskRun(
        **{
            "updates": 40,
            "device": "cpu",
            "core": "gru",
            "core_kwargs": {"gru": {"hidden_size": 24}},
            "model_kwargs": {"embedding_size": 16, "dropout": 0.2},
            "task": TaskConfig(name="language_modeling", kwargs={"path": str(folder), "window": 6}),
            "optimization": OptimizationConfig(batch_size=4, learning_rate=0.02),
            "evaluation": TaskEvaluationConfig(samples=20, final_samples=20),
            **settings,
        }
    )


def test_learns_and_goes_on_to_the_last_bit(folder: Path, tmp_path: Path) -> None:
    """The carried state and dropout's random numbers are part of a checkpoint."""
    whole = TaskLearner.make(config(folder))
    before = whole.evaluate(20, final=True)["perplexity"]
    for i in range(40):
        if i == 25:
            whole.save(tmp_path / "stopped.zip")
        whole.update()
    whole.save(tmp_path / "whole.zip")
    resumed = TaskLearner.load(config(folder), tmp_path / "stopped.zip")
    for _ in range(15):
        resumed.update()
    resumed.save(tmp_path / "again.zip")
    assert (tmp_path / "whole.zip").read_bytes() == (tmp_path / "again.zip").read_bytes()
    assert resumed.evaluate(20, final=True)["perplexity"] < before / 1.5


def test_validation_and_test_are_texts_of_their_own(folder: Path) -> None:
    task = LanguageModeling(folder, window=5)
    for final, name in ((False, "valid"), (True, "test")):
        batches = list(task.evaluation_batches(3, 10**6, final))
        words = torch.cat([batch.words for batch in batches])
        part = (len(task.texts[name]) - 1) // 3 // 5 * 5
        assert words.T.flatten().tolist() == task.texts[name][: 3 * part].tolist()
    assert len(list(task.evaluation_batches(3, 4))) == 2


# ------------------------------------------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "wiki.train.tokens must hold at least one word, got none"),
        (b" \n \n", "wiki.train.tokens must hold at least one word, got none"),
        (b"a b \xff c", "wiki.train.tokens must be UTF-8, got a byte that is not"),
        (b"a b c", "wiki.train.tokens must be longer than a window of 5 words, got 4 words"),
    ],
)
def test_bad_texts_are_refused(content: bytes, message: str, folder: Path) -> None:
    """And leave nothing half-written behind."""
    (folder / "wiki.train.tokens").write_bytes(content)
    with pytest.raises(CorpusError, match=message):
        LanguageModeling(folder, window=5)
    assert not list(folder.glob("words/.*"))


def test_bad_folders_vocabularies_and_sizes_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"path must be a folder with texts .*, got .*missing"):
        LanguageModeling(tmp_path / "missing")
    with pytest.raises(CorpusError, match=r"must hold one .txt or .tokens file with train in its name, got \[\]"):
        LanguageModeling(tmp_path)
    (tmp_path / "twice.txt").write_text("<unk>\na\na\n")
    with pytest.raises(CorpusError, match=r"twice.txt must hold every word once, got 'a' more than once"):
        LanguageModeling(folder, vocabulary=tmp_path / "twice.txt")
    (tmp_path / "no.txt").write_text("a\nb\n")
    with pytest.raises(CorpusError, match=r"no.txt must hold <unk> and at least one word more"):
        LanguageModeling(folder, vocabulary=tmp_path / "no.txt")
    with pytest.raises(CorpusError, match=r"cannot read .*nowhere.txt: No such file"):
        LanguageModeling(folder, vocabulary=tmp_path / "nowhere.txt")
    with pytest.raises(ValueError, match="window must be a whole number of at least 1, got 0"):
        LanguageModeling(folder, window=0)
    with pytest.raises(ValueError, match="vocabulary_size must be a whole number of at least 1, got 0"):
        LanguageModeling(folder, vocabulary_size=0)
    with pytest.raises(ValueError, match=r"dropout must be at least 0 and below 1, got 1.0"):
        LanguageModeling(folder, window=5).make_model(lambda width: make_core("gru", width), dropout=1.0)
    with pytest.raises(ValueError, match="embedding_size must be at least 2 for 52 words, got 1"):
        LanguageModeling(folder, window=5).make_model(lambda width: make_core("gru", width), embedding_size=1)
    with pytest.raises(ValueError, match="batch_size must be at most"):
        TaskLearner.make(config(folder, optimization=OptimizationConfig(batch_size=1000)))

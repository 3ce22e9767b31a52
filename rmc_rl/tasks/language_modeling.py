"""Language modelling (Santoro et al. 2018, section 4.3): the next word of contiguous text."""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..cores import State
from ..cores.core import check_positive
from .corpus import CorpusError, Vocabulary, Words, encode, find_splits
from .language_model import LanguageModel
from .task import MakeCore, Metrics, Stream, Task


class TextBatch(NamedTuple):
    """A window of each of B texts."""

    words: Tensor
    """int64 [T, B]."""
    targets: Tensor
    """int64 [T, B]: the words that follow."""
    starts: Tensor
    """bool [T, B]: where a text begins, and the state with it; otherwise it goes on from the last window."""


class LanguageModeling(Task):
    """Text, cut into as many parts as a batch has rows, and each part read window by window.

    Words are numbered once, into files beside the text, and read from there as they are needed.

    Args:
        path: a folder with one `.tokens` file (WikiText's format) or `.txt` file (plain text) each that has `train`,
            `valid` and `test` in its name, UTF-8.
        window: words that gradients flow back through.
        vocabulary: a file with one word a line, the most frequent first; None, the words of the training text.
        vocabulary_size: how many of these at most; None, all.
        cache: a folder for the numbered words; None, `path`/words.

    Raises:
        CorpusError (a ValueError): a text that is missing, empty, not UTF-8, or shorter than a window.
        ValueError: a size below 1.
    """

    score: ClassVar[str] = "log_likelihood"

    def __init__(
        self,
        path: str | Path,
        window: int = 100,
        vocabulary: str | Path | None = None,
        vocabulary_size: int | None = None,
        cache: str | Path | None = None,
    ) -> None:
        check_positive(window=window)
        if vocabulary_size is not None:
            check_positive(vocabulary_size=vocabulary_size)
        self.window = window
        files = find_splits(Path(path))
        if vocabulary is None:
            self.vocabulary = Vocabulary.build(files["train"], vocabulary_size)
        else:
            self.vocabulary = Vocabulary.read(Path(vocabulary))
        folder = Path(path, "words") if cache is None else Path(cache)
        self.texts: dict[str, Words] = {name: encode(file, self.vocabulary, folder) for name, file in files.items()}
        for name, text in self.texts.items():
            if len(text) <= window:
                raise CorpusError(
                    f"{files[name]} must be longer than a window of {window} words, got {len(text)} words"
                )

    def make_model(self, make_core: MakeCore, **kwargs: Any) -> LanguageModel:
        """`kwargs` are the `LanguageModel`'s."""
        return LanguageModel(make_core, len(self.vocabulary), **kwargs)

    def stream(self, batch_size: int, seed: int) -> "TextStream":
        """The training text from its beginning, over and over.

        Raises:
            ValueError: the text does not have a window for each row.
        """
        del seed  # the order is the text's
        return TextStream(self.texts["train"], batch_size, self.window)

    def evaluation_batches(self, batch_size: int, samples: int, final: bool = False) -> Iterator[TextBatch]:
        """Windows of the validation text, of the test text if `final`: all there are, or `samples` of them."""
        text = self.texts["test" if final else "valid"]
        rows = min(batch_size, samples, (len(text) - 1) // self.window)
        stream = TextStream(text, rows, self.window)
        for _ in range(min(stream.num_windows, math.ceil(samples / rows))):
            yield stream.next()

    def loss(self, model: LanguageModel, batch: TextBatch, state: State) -> tuple[Tensor, Metrics, State]:
        """The mean negative log-likelihood of a word, in nats."""
        state = state or model.initial_state(batch.words.shape[1])
        log_probabilities, state = model(batch.words, batch.targets, state, batch.starts)  # [T, B]
        metrics = {"log_likelihood": (log_probabilities.sum().item(), log_probabilities.numel())}
        return -log_probabilities.mean(), metrics, state

    def summarize(self, means: Mapping[str, float]) -> dict[str, float]:
        """With the perplexity, exp of the mean negative log-likelihood."""
        return {**means, "perplexity": math.exp(min(-means["log_likelihood"], 700))}


class TextStream(Stream):
    """Windows of a text that is cut into `batch_size` parts of equal length; the rest at its end is left out."""

    def __init__(self, text: Words, batch_size: int, window: int) -> None:
        check_positive(batch_size=batch_size, window=window)
        self.text, self.batch_size, self.window = text, batch_size, window
        self.num_windows = (len(text) - 1) // batch_size // window  # of each part
        if self.num_windows < 1:
            raise ValueError(
                f"batch_size must be at most {(len(text) - 1) // window} for {len(text):,} words and windows of "
                f"{window}, got {batch_size}"
            )
        self.position = 0

    def next(self) -> TextBatch:
        part = self.num_windows * self.window
        begin = self.position * self.window + part * np.arange(self.batch_size)  # [B]
        words = self.text[begin + np.arange(self.window + 1)[:, None]].astype(np.int64)  # [T + 1, B]
        starts = torch.zeros(self.window, self.batch_size, dtype=torch.bool)
        starts[0] = self.position == 0
        self.position = (self.position + 1) % self.num_windows
        tensor = torch.from_numpy(words)
        return TextBatch(tensor[:-1], tensor[1:], starts)

    def state(self) -> dict[str, Any]:
        return {"position": self.position}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.position = state["position"]

"""Where a language model is sure and where it is not (Santoro et al. 2018, appendix): by context and by frequency."""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from ..cores import State
from .corpus import CHUNK, Words
from .language_model import LanguageModel
from .language_modeling import LanguageModeling

Array = NDArray[np.floating]
ROWS = 64
"""Texts that are read together."""
BINS: Array = 10.0 ** np.arange(6)
"""Words are grouped by how often they are in the training text: from 1 on, from 10 on, ..."""


class Perplexity(NamedTuple):
    """A perplexity as a function of something."""

    of: Array
    """[N]: what it is a function of."""
    perplexity: Array
    """[N]."""


@torch.no_grad()
def by_context(task: LanguageModeling, model: LanguageModel, num_words: int, rounds: int = 10) -> Perplexity:
    """The perplexity of the next word after 1, 2, ..., `num_words` words read from a fresh state.

    At random places of the test text, `rounds` times 64 of them, always the same.

    Raises:
        ValueError: the test text is not longer than `num_words`.
    """
    text = task.texts["test"]
    if not 0 < num_words < len(text):
        raise ValueError(f"num_words must be from 1 to {len(text) - 1}, the test text's words but one, got {num_words}")
    model.eval()
    rng, total = np.random.default_rng(0), torch.zeros(num_words, dtype=torch.float64)
    starts = torch.zeros(num_words, ROWS, dtype=torch.bool)
    for _ in range(rounds):
        begin = rng.integers(len(text) - num_words, size=ROWS)  # [B]
        words = torch.from_numpy(text[begin + np.arange(num_words + 1)[:, None]].astype(np.int64))  # [T + 1, B]
        log_probabilities, _ = model(words[:-1], words[1:], model.initial_state(ROWS), starts)  # [T, B]
        total += log_probabilities.double().mean(dim=1)
    return Perplexity(np.arange(1.0, num_words + 1), np.exp(-(total / rounds).numpy()))


@torch.no_grad()
def by_frequency(task: LanguageModeling, model: LanguageModel, windows: int = 1000) -> Perplexity:
    """The perplexity of words of the test text by how often they are in the training text; of empty bins, NaN.

    Args:
        task: with the texts.
        model: trained on it.
        windows: how many to read, at most.
    """
    model.eval()
    counts = count_words(task.texts["train"], len(task.vocabulary))
    bins = np.digitize(counts, BINS) - 1  # [words]; -1 for a word that is not in the training text
    total, number = np.zeros(len(BINS)), np.zeros(len(BINS))
    state: State = ()
    for batch in task.evaluation_batches(ROWS, windows, final=True):
        state = state or model.initial_state(batch.words.shape[1])
        log_probabilities, state = model(batch.words, batch.targets, state, batch.starts)  # [T, B]
        places = bins[batch.targets.flatten().numpy()]
        values = log_probabilities.flatten().double().numpy()[places >= 0]
        total += np.bincount(places[places >= 0], values, len(BINS))
        number += np.bincount(places[places >= 0], minlength=len(BINS))
    with np.errstate(invalid="ignore"):
        mean: Array = total / number
    return Perplexity(BINS, np.exp(-mean))


def count_words(text: Words, num_words: int) -> NDArray[np.int64]:
    """How often each word is in a text, [num_words]; the text is read in pieces."""
    counts = np.zeros(num_words, np.int64)
    for begin in range(0, len(text), CHUNK):
        counts += np.bincount(text[begin : begin + CHUNK], minlength=num_words)
    return counts

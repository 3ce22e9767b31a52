"""A model of text: embedding, core, and an adaptive softmax whose weights the embedding shares."""

from typing import cast

from torch import Tensor, nn

from ..cores import State
from ..cores.core import check_positive
from ..cores.linear import Linear
from .task import MakeCore

CUTOFFS = (2000, 10_000, 50_000, 150_000)
"""Where the softmax begins a new cluster of rarer words, as far as the vocabulary reaches."""

NARROWING = 2
"""How much narrower each cluster's rows are than those of the one before."""


class LanguageModel(nn.Module):
    """Predicts each next word of many texts.

    The softmax is adaptive (Grave et al. 2017, arXiv 1609.04309): the most frequent words and one symbol for each
    cluster of rarer ones share the first softmax, and a cluster's words have a narrower one. The embedding of a word
    is its row in the softmax; in a cluster, brought back to full width by the cluster's own projection.

    Args:
        make_core: makes the core for inputs of `embedding_size`.
        num_words: of the vocabulary, the most frequent first.
        embedding_size: width of a word's embedding, and of what the softmax reads.
        dropout: of the embedding and of what the softmax reads.

    Raises:
        ValueError: fewer than two words, an embedding too narrow for their clusters, or a dropout outside [0, 1).
    """

    def __init__(self, make_core: MakeCore, num_words: int, embedding_size: int = 128, dropout: float = 0.5) -> None:
        check_positive(num_words=num_words, embedding_size=embedding_size)
        if num_words < 2:
            raise ValueError(f"num_words must be at least 2, got {num_words}")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout must be at least 0 and below 1, got {dropout!r}")
        super().__init__()
        cutoffs = [cutoff for cutoff in CUTOFFS if cutoff < num_words] or [num_words // 2]
        narrowest = NARROWING ** len(cutoffs)
        if embedding_size < narrowest:
            raise ValueError(f"embedding_size must be at least {narrowest} for {num_words} words, got {embedding_size}")
        self.core = make_core(embedding_size)
        self.dropout = nn.Dropout(dropout)
        self.projection = Linear(self.core.output_size, embedding_size)
        self.softmax = nn.AdaptiveLogSoftmaxWithLoss(embedding_size, num_words, cutoffs, NARROWING, head_bias=True)

    def forward(self, words: Tensor, targets: Tensor, state: State, starts: Tensor) -> tuple[Tensor, State]:
        """Log-probabilities [T, B] of targets [T, B] after words [T, B], and the state after the last."""
        x = self.dropout(self.embed(words))  # [T, B, embedding]
        outputs, state = self.core.unroll(x, state, starts)
        read = self.dropout(self.projection(outputs))  # [T, B, embedding]
        log_probabilities = self.softmax(read.flatten(0, 1), targets.flatten()).output  # [T * B]
        return log_probabilities.view_as(targets), state

    def embed(self, words: Tensor) -> Tensor:
        """words int64 [...] -> [..., embedding]."""
        first = self.softmax.cutoffs[0]
        table = self.softmax.head.weight  # [first + clusters, embedding]
        embedded = table[words.clamp(max=first - 1)]
        for tail, begin, end in zip(
            self.softmax.tail, self.softmax.cutoffs[:-1], self.softmax.cutoffs[1:], strict=True
        ):
            projection, rows = cast(tuple[nn.Linear, nn.Linear], tail)  # embedding -> narrow -> words
            within = (words >= begin) & (words < end)
            narrow = rows.weight[words[within] - begin]  # [M, narrow]
            embedded = embedded.masked_scatter(within.unsqueeze(-1), narrow @ projection.weight)
        return embedded

    def initial_state(self, batch_size: int) -> State:
        return self.core.initial_state(batch_size)

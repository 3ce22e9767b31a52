"""Program evaluation (Zaremba and Sutskever 2014, arXiv 1410.4615): read a program, write what it prints."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..cores import State
from ..cores.core import check_positive
from .curriculum import Curriculum, CurriculumName
from .model import SequenceModel, check_has_state
from .programs import (
    END,
    LONGEST_LITERAL,
    NUM_SYMBOLS,
    PADDING,
    START,
    Codes,
    Texts,
    decode,
    write_arithmetic,
    write_digits,
)
from .task import GeneratedTask, MakeCore, Metrics

ProgramTask = Literal["addition", "control", "program", "copy", "reverse", "double"]
OPERATIONS_OF: dict[str, list[str]] = {
    "addition": ["add"],
    "control": ["if", "for"],
    "program": ["add", "subtract", "multiply", "if", "for"],
}
"""Of the tasks that compute; the others are about the digits alone."""


class ProgramBatch(NamedTuple):
    """Programs and their results as codes of symbols (`rmc_rl.tasks.programs`)."""

    programs: Tensor
    """int64 [S, B]; shorter ones are padded in front, so that all end at the last step."""
    program_lengths: Tensor
    """int64 [B], in characters."""
    results: Tensor
    """int64 [R, B]: a result, the end symbol, padding."""
    result_lengths: Tensor
    """int64 [B], in characters, without the end symbol."""


class ProgramEvaluation(GeneratedTask):
    """Random programs and what they print.

    Values of `addition`, `control` and `program` are taken modulo 10^(L+1), L being the length of the program's
    literals. `copy`, `reverse` and `double` are numbers, to be written as they are, backwards, or twice.

    Args:
        task: which operations; see `docs/tasks.md`.
        max_length: digits of a literal, at most.
        max_nesting: operations in a program, at most; `copy`, `reverse` and `double` have none.
        curriculum: `"baseline"`, `"naive"`, `"mix"` or `"combined"`; see `Curriculum`.
        teacher_forcing: whether the decoder reads the true result's symbol before the one it writes, in training, and
            its own in evaluation; otherwise it reads nothing.

    Raises:
        ValueError: an unknown task or curriculum, a length or nesting below 1, or literals too long to compute with.
    """

    score: ClassVar[str] = "character_accuracy"

    def __init__(
        self,
        task: ProgramTask = "addition",
        max_length: int = 5,
        max_nesting: int = 2,
        curriculum: CurriculumName = "mix",
        teacher_forcing: bool = False,
    ) -> None:
        if task not in get_args(ProgramTask):
            raise ValueError(f"task must be one of {sorted(get_args(ProgramTask))}, got {task!r}")
        check_positive(max_length=max_length, max_nesting=max_nesting)
        if task in OPERATIONS_OF and max_length > LONGEST_LITERAL:
            raise ValueError(f"max_length must be at most {LONGEST_LITERAL} for {task}, got {max_length}")
        self.task, self.max_length, self.max_nesting = task, max_length, max_nesting
        self.curriculum = Curriculum(curriculum, max_length, max_nesting)
        self.teacher_forcing = teacher_forcing
        self.input_size = self.num_classes = NUM_SYMBOLS

    def sample(self, rng: np.random.Generator, batch_size: int) -> ProgramBatch:
        """Draw so many programs, as hard as the curriculum says.

        Raises:
            ValueError: a batch size below 1.
        """
        programs, results = self._texts(rng, batch_size)
        lengths = (results != PADDING).sum(axis=1)
        return ProgramBatch(
            programs=_time_major(programs),
            program_lengths=torch.from_numpy((programs != PADDING).sum(axis=1)),
            results=_time_major(_end(results, lengths)),
            result_lengths=torch.from_numpy(lengths),
        )

    def sample_text(self, rng: np.random.Generator, n: int) -> list[tuple[str, str]]:
        """The programs and results that `sample` would draw, to be read."""
        return [(decode(program), decode(result)) for program, result in zip(*self._texts(rng, n), strict=True)]

    def observe(self, loss: float) -> None:
        self.curriculum.observe(loss)

    def progress(self) -> dict[str, Any]:
        return self.curriculum.state()

    def restore_progress(self, progress: Mapping[str, Any]) -> None:
        self.curriculum.restore(progress)

    def hardest(self) -> "ProgramEvaluation":
        """Every program of the maximum length and nesting."""
        return ProgramEvaluation(self.task, self.max_length, self.max_nesting, "baseline", self.teacher_forcing)

    def make_model(
        self, make_core: MakeCore, *, decoder: Literal["shared", "own"] = "shared", **kwargs: Any
    ) -> SequenceModel:
        """A core that reads the program and starts the decoder from its state; `kwargs` are the `SequenceModel`'s.

        Args:
            make_core: makes it.
            decoder: `"shared"`, the same core writes; `"own"`, another one of the same sizes.

        Raises:
            ValueError: a core without a state, or an illegal argument.
        """
        if decoder not in ("shared", "own"):
            raise ValueError(f"decoder must be 'shared' or 'own', got {decoder!r}")
        core = make_core(NUM_SYMBOLS)
        check_has_state(core)
        own = make_core(NUM_SYMBOLS) if decoder == "own" else None
        return SequenceModel(core, NUM_SYMBOLS, own, **kwargs)

    def loss(self, model: SequenceModel, batch: ProgramBatch, state: State) -> tuple[Tensor, Metrics, State]:
        """Cross-entropy of the result's symbols and of its end."""
        if self.teacher_forcing:
            first = torch.full_like(batch.results[:1], START)
            read = one_hot(torch.cat([first, batch.results[:-1]]))  # [R, B, symbols]
        else:
            read = torch.zeros_like(one_hot(batch.results))  # [R, B, symbols]
        logits, _ = model.write(read, model.read(one_hot(batch.programs), batch.program_lengths))  # [R, B, symbols]
        loss = F.cross_entropy(logits.flatten(0, 1), batch.results.flatten(), ignore_index=PADDING)
        return loss, _accuracies(logits.argmax(dim=-1), batch), state

    def evaluate(self, model: SequenceModel, batch: ProgramBatch, state: State) -> tuple[Metrics, State]:
        """As `loss`, but the decoder never sees the true result."""
        if not self.teacher_forcing:
            return super().evaluate(model, batch, state)
        decoder_state = model.read(one_hot(batch.programs), batch.program_lengths)
        symbols = torch.full_like(batch.results[:1], START)  # [1, B]
        written = []
        for _ in batch.results:
            logits, decoder_state = model.write(one_hot(symbols), decoder_state)
            symbols = logits.argmax(dim=-1)
            written.append(symbols)
        return _accuracies(torch.cat(written), batch), state

    def _texts(self, rng: np.random.Generator, batch_size: int) -> Texts:
        check_positive(batch_size=batch_size)
        lengths, nestings = self.curriculum.draw(rng, batch_size)
        if self.task in OPERATIONS_OF:
            return write_arithmetic(rng, lengths, nestings, OPERATIONS_OF[self.task])
        return write_digits(rng, lengths, self.task)


def one_hot(symbols: Tensor) -> Tensor:
    """int64 [T, B] -> [T, B, symbols]; float32 or whatever is the default."""
    return F.one_hot(symbols, NUM_SYMBOLS).to(torch.get_default_dtype())


def _accuracies(written: Tensor, batch: ProgramBatch) -> Metrics:
    """Of symbols [R, B]: the share of right characters, and of results that are right from beginning to end."""
    right, there = written == batch.results, batch.results != PADDING
    characters = there & (batch.results != END)
    whole = (right | ~there).all(dim=0)  # [B]
    return {
        "character_accuracy": ((right & characters).sum().item(), characters.sum().item()),
        "exact_match": (whole.sum().item(), len(whole)),
    }


def _time_major(codes: Codes) -> Tensor:
    """[B, T] -> int64 [T, B]."""
    return torch.from_numpy(codes.T.astype(np.int64))


def _end(results: Codes, lengths: np.ndarray[tuple[int], np.dtype[np.int64]]) -> Codes:
    """Results padded in front, [B, R], as results with an end symbol, padded behind: [B, R + 1]."""
    batch_size, width = results.shape
    ended = np.concatenate([results, np.full((batch_size, 1), END, np.uint8)], axis=1)
    shift = (width - lengths)[:, None]  # the padding in front, which goes behind
    columns = (np.arange(width + 1) + shift) % (width + 1)
    return np.take_along_axis(ended, columns, axis=1)

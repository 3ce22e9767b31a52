"""Program evaluation (Zaremba and Sutskever 2014, arXiv 1410.4615): read a program, write what it prints."""

from typing import Literal, NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor

from ..cores.core import check_positive
from .curriculum import Curriculum, CurriculumName
from .programs import (
    END,
    LONGEST_LITERAL,
    NUM_SYMBOLS,
    PADDING,
    Codes,
    Texts,
    decode,
    write_arithmetic,
    write_digits,
)

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


class ProgramEvaluation:
    """Random programs and what they print.

    Values of `addition`, `control` and `program` are taken modulo 10^(L+1), L being the length of the program's
    literals. `copy`, `reverse` and `double` are numbers, to be written as they are, backwards, or twice.

    Args:
        task: which operations; see `docs/tasks.md`.
        max_length: digits of a literal, at most.
        max_nesting: operations in a program, at most; `copy`, `reverse` and `double` have none.
        curriculum: `"baseline"`, `"naive"`, `"mix"` or `"combined"`; see `Curriculum`.

    Raises:
        ValueError: an unknown task or curriculum, a length or nesting below 1, or literals too long to compute with.
    """

    def __init__(
        self,
        task: ProgramTask = "addition",
        max_length: int = 5,
        max_nesting: int = 2,
        curriculum: CurriculumName = "mix",
    ) -> None:
        if task not in get_args(ProgramTask):
            raise ValueError(f"task must be one of {sorted(get_args(ProgramTask))}, got {task!r}")
        check_positive(max_length=max_length, max_nesting=max_nesting)
        if task in OPERATIONS_OF and max_length > LONGEST_LITERAL:
            raise ValueError(f"max_length must be at most {LONGEST_LITERAL} for {task}, got {max_length}")
        self.task, self.max_length, self.max_nesting = task, max_length, max_nesting
        self.curriculum = Curriculum(curriculum, max_length, max_nesting)
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

    def _texts(self, rng: np.random.Generator, batch_size: int) -> Texts:
        check_positive(batch_size=batch_size)
        lengths, nestings = self.curriculum.draw(rng, batch_size)
        if self.task in OPERATIONS_OF:
            return write_arithmetic(rng, lengths, nestings, OPERATIONS_OF[self.task])
        return write_digits(rng, lengths, self.task)


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

"""Random programs and their results as text, all rows of a batch at once (Zaremba and Sutskever 2014)."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Codes = NDArray[np.uint8]
Integers = NDArray[np.int64]

PADDING, START, END = 0, 1, 2
CHARACTERS = "0123456789+-*()[]<>=iflesorx"
NUM_SYMBOLS = 3 + len(CHARACTERS)
DIGIT = 3
"""Code of the digit 0; the others follow it."""

OPERATIONS = ("add", "subtract", "multiply", "if", "for")
LONGEST_LITERAL = 8
"""Digits of a literal in arithmetic: products of two such values must stay below 2^63."""


class Texts(NamedTuple):
    """Programs and results, one a row; rows are padded in front."""

    programs: Codes
    """[B, S]."""
    results: Codes
    """[B, R]."""


def encode(text: str) -> Codes:
    """The codes of a text's characters."""
    return np.array([3 + CHARACTERS.index(character) for character in text], np.uint8)


def decode(codes: NDArray[Any]) -> str:
    """The text of codes; padding, start and end are left out."""
    return "".join(CHARACTERS[code - 3] for code in codes.tolist() if code > END)


def write_digits(rng: np.random.Generator, lengths: Integers, kind: str) -> Texts:
    """Numbers of `lengths` [B] digits, to be copied, reversed or doubled."""
    width = int(lengths.max())
    digits = rng.integers(10, size=(len(lengths), width))
    digits[:, 0] = rng.integers(1, 10, size=len(lengths))  # no leading zero
    codes = np.where(np.arange(width) < lengths[:, None], DIGIT + digits, PADDING).astype(np.uint8)
    programs = _pad_in_front(codes)
    match kind:
        case "copy":
            return Texts(programs, programs)
        case "reverse":
            return Texts(programs, _pad_in_front(codes[:, ::-1]))
        case _:
            return Texts(programs, _pad_in_front(np.concatenate([codes, codes], axis=1)))


def write_arithmetic(rng: np.random.Generator, lengths: Integers, nestings: Integers, operations: list[str]) -> Texts:
    """Programs of `nestings` [B] operations on literals of `lengths` [B] digits, and their values modulo 10^(L+1).

    The pending expression is the first operand of the next operation, and all others are fresh. So a program is
    written from its first literal outwards: what stands before it, and what stands behind.
    """
    width, modulus = int(lengths.max()), 10 ** (lengths + 1)
    value = _literals(rng, lengths)  # [B]
    before: list[Codes] = []
    behind: list[Codes] = [_number(value, width)]
    for depth in range(int(nestings.max())):
        there, nested = depth < nestings, depth + 1 < nestings  # [B]: is this operation there, and is one around it?
        step = _Operation.draw(rng, lengths, operations)
        value = np.where(there, step.apply(value) % modulus, value)
        prefix, suffix = step.write(width)
        before.insert(0, np.concatenate([_OPEN * nested[:, None], prefix * there[:, None]], axis=1))
        behind.append(np.concatenate([suffix * there[:, None], _CLOSE * nested[:, None]], axis=1))
    return Texts(_pad_in_front(np.concatenate(before + behind, axis=1)), _pad_in_front(_number(value, width + 1)))


class _Operation(NamedTuple):
    """One operation of every row, but for its first operand; every array is [B]."""

    kinds: Integers
    """Of OPERATIONS."""
    b: Integers
    c: Integers
    d: Integers
    repeats: Integers
    """k of the loop."""
    less: NDArray[np.bool_]
    """Whether the condition is b < c, and not b > c."""

    @classmethod
    def draw(cls, rng: np.random.Generator, lengths: Integers, operations: list[str]) -> "_Operation":
        indices = np.array([OPERATIONS.index(operation) for operation in operations])
        kinds = indices[rng.integers(len(operations), size=len(lengths))]
        b, c, d = (_literals(rng, lengths) for _ in range(3))
        return cls(kinds, b, c, d, rng.integers(1, 10, size=len(lengths)), rng.random(len(lengths)) < 0.5)

    def apply(self, a: Integers) -> Integers:
        """The value, [B], for the first operand's values."""
        holds = np.where(self.less, self.b < self.c, self.b > self.c)
        values = [a + self.b, a - self.b, a * self.b, np.where(holds, a, self.d), a + self.repeats * self.b]
        return np.stack(values)[self.kinds, np.arange(len(a))]

    def write(self, width: int) -> tuple[Codes, Codes]:
        """What stands before the first operand, [B, 2], and what behind, [B, ...]; with gaps."""
        is_if, is_for = self.kinds == _IF, self.kinds == _FOR
        lead = _LEADS[self.kinds]  # [B, 9]
        lead[is_for, _REPEATS_AT] = DIGIT + self.repeats[is_for]
        comparison = np.where(self.less[:, None], _LESS, _MORE)  # [B, 1]
        otherwise = np.tile(_ELSE, (len(lead), 1))  # [B, 4]
        rest = np.concatenate([comparison, _number(self.c, width), otherwise, _number(self.d, width)], axis=1)
        suffix = np.concatenate([lead, _number(self.b, width), rest * is_if[:, None]], axis=1)
        return _ASSIGNMENT * is_for[:, None], suffix


def _literals(rng: np.random.Generator, lengths: Integers) -> Integers:
    """A number of `lengths` [B] digits for each row: no leading zero, and 1 to 9 for one digit."""
    return rng.integers(10 ** (lengths - 1), 10**lengths)


def _number(values: Integers, width: int) -> Codes:
    """Decimal digits [B, width] of values [B], padded in front."""
    powers = 10 ** np.arange(width - 1, -1, -1)
    digits = DIGIT + values[:, None] // powers % 10
    return np.where((values[:, None] >= powers) | (powers == 1), digits, PADDING).astype(np.uint8)


def _pad_in_front(codes: Codes) -> Codes:
    """The same rows without gaps, as narrow as the longest allows."""
    there = codes != PADDING
    counts = there.sum(axis=1)
    width = int(counts.max())
    packed = np.zeros((len(codes), width), np.uint8)
    rows, columns = there.nonzero()
    places = there.cumsum(axis=1)[rows, columns] - 1 + width - counts[rows]
    packed[rows, places] = codes[rows, columns]
    return packed


_OPEN, _CLOSE, _LESS, _MORE, _ASSIGNMENT, _ELSE = (encode(text) for text in ("(", ")", "<", ">", "x=", "else"))
_IF, _FOR = OPERATIONS.index("if"), OPERATIONS.index("for")
_LOOP = "for[1]x+="
_REPEATS_AT = _LOOP.index("1")
_LEADS = np.zeros((len(OPERATIONS), len(_LOOP)), np.uint8)
"""What stands between the first two operands of each operation."""
for _row, _text in zip(_LEADS, ("+", "-", "*", "if", _LOOP), strict=True):
    _row[: len(_text)] = encode(_text)

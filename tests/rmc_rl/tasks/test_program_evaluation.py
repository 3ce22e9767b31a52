"""Program evaluation: programs are of the grammar, and every result is what they print."""

import re
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rmc_rl.tasks import ProgramEvaluation
from rmc_rl.tasks.curriculum import STALL_RATIO, STALL_UPDATES, Curriculum
from rmc_rl.tasks.programs import CHARACTERS, END, NUM_SYMBOLS, PADDING, decode, encode

COMPUTED = {"addition": "+", "control": "if for", "program": "+ - * if for"}
MEMORIZED = ("copy", "reverse", "double")
TASKS = (*COMPUTED, *MEMORIZED)


class Interpreter:
    """Reads a program from left to right and computes it with Python's integers."""

    def __init__(self, text: str) -> None:
        self.rest = text
        self.literals: list[str] = []
        self.operations: list[str] = []

    def run(self) -> int:
        value = self.expression()
        assert self.rest == "", f"left over: {self.rest}"
        return value

    def take(self, pattern: str) -> str | None:
        match = re.match(pattern, self.rest)
        if match is None:
            return None
        self.rest = self.rest[match.end() :]
        return match.group()

    def need(self, pattern: str) -> str:
        taken = self.take(pattern)
        assert taken is not None, f"{pattern} expected at {self.rest}"
        return taken

    def literal(self) -> int:
        self.literals.append(self.need(r"[1-9]\d*"))
        return int(self.literals[-1])

    def operand(self) -> int:
        if not self.take(r"\("):
            return self.literal()
        value = self.expression()
        self.need(r"\)")
        return value

    def expression(self) -> int:
        if self.take("x="):
            x = self.operand()
            repeats = int(self.need(r"for\[[1-9]\]x\+=")[4])
            self.operations.append("for")
            summand = self.literal()
            for _ in range(repeats):
                x += summand
            return x
        a = self.operand()
        operation = self.need(r"\+|-|\*|if")
        self.operations.append(operation)
        b = self.literal()
        match operation:
            case "+":
                return a + b
            case "-":
                return a - b
            case "*":
                return a * b
        comparison, c = self.need("[<>]"), self.literal()
        self.need("else")
        d = self.literal()
        return a if (b < c if comparison == "<" else b > c) else d


@pytest.mark.parametrize("curriculum", ["baseline", "mix"])
@pytest.mark.parametrize(("max_length", "max_nesting"), [(5, 2), (8, 3)])
@pytest.mark.parametrize("name", COMPUTED)
def test_ten_thousand_programs_print_what_is_said(
    name: Any, max_length: int, max_nesting: int, curriculum: Any
) -> None:
    task = ProgramEvaluation(name, max_length, max_nesting, curriculum)
    seen, sizes = set(), set()
    for program, result in task.sample_text(np.random.default_rng(max_length), 10_000):
        interpreter = Interpreter(program)
        value = interpreter.run()
        (length,) = {len(literal) for literal in interpreter.literals}
        assert result == str(value % 10 ** (length + 1)), program
        seen |= set(interpreter.operations)
        sizes.add((length, len(interpreter.operations)))
    assert seen == set(COMPUTED[name].split())
    everything = {(i + 1, j + 1) for i in range(max_length) for j in range(max_nesting)}
    assert sizes == (everything if curriculum == "mix" else {(max_length, max_nesting)})


@pytest.mark.parametrize("name", MEMORIZED)
def test_ten_thousand_numbers_are_copied_reversed_and_doubled(name: Any) -> None:
    lengths = set()
    for program, result in ProgramEvaluation(name, max_length=23).sample_text(np.random.default_rng(2), 10_000):
        assert re.fullmatch(r"[1-9]\d*", program)
        assert result == {"copy": program, "reverse": program[::-1], "double": program + program}[name]
        lengths.add(len(program))
    assert lengths == set(range(1, 24))


def test_choices_are_uniform() -> None:
    """Operations, comparisons, repeats, literals' first digits."""
    texts = ProgramEvaluation("program", 3, 1).sample_text(np.random.default_rng(4), 20_000)
    patterns = [r"^\d+\+", r"^\d+-", r"\*", "if", "for"]
    assert [sum(bool(re.search(pattern, program)) for program, _ in texts) for pattern in patterns] == pytest.approx(
        [4000] * 5, abs=250
    )
    conditions = "".join(re.findall("[<>]", " ".join(program for program, _ in texts)))
    assert conditions.count("<") == pytest.approx(len(conditions) / 2, rel=0.1)
    repeats = re.findall(r"\[(.)\]", " ".join(program for program, _ in texts))
    assert np.bincount([int(k) for k in repeats])[1:] == pytest.approx([len(repeats) / 9] * 9, rel=0.2)
    first = [int(program[0]) for program, _ in texts if program[0] != "x"]
    assert np.bincount(first)[1:] == pytest.approx([len(first) / 9] * 9, rel=0.1)


@given(
    name=st.sampled_from(TASKS),
    curriculum=st.sampled_from(["baseline", "mix", "naive", "combined"]),
    max_length=st.integers(1, 8),
    max_nesting=st.integers(1, 4),
    batch_size=st.integers(1, 6),
    seed=st.integers(0, 99),
)
def test_a_batch_holds_the_texts(
    name: Any, curriculum: Any, max_length: int, max_nesting: int, batch_size: int, seed: int
) -> None:
    """Programs padded in front and results behind, with lengths that fit; the same for the same seed."""
    task = ProgramEvaluation(name, max_length, max_nesting, curriculum)
    batch = task.sample(np.random.default_rng(seed), batch_size)
    texts = task.sample_text(np.random.default_rng(seed), batch_size)
    assert all(tensor.dtype == torch.int64 for tensor in batch)
    for b, (program, result) in enumerate(texts):
        assert int(batch.program_lengths[b]) == len(program)
        assert int(batch.result_lengths[b]) == len(result)
        padding = [PADDING] * (batch.programs.shape[0] - len(program))
        assert batch.programs[:, b].tolist() == padding + encode(program).tolist()
        padding = [PADDING] * (batch.results.shape[0] - len(result) - 1)
        assert batch.results[:, b].tolist() == [*encode(result).tolist(), END, *padding]
    assert batch.programs.shape[0] == batch.program_lengths.max()
    assert batch.results.shape[0] == batch.result_lengths.max() + 1


def test_symbols_are_all_different() -> None:
    codes = encode(CHARACTERS).tolist()
    assert len({PADDING, 1, END, *codes}) == NUM_SYMBOLS == max(codes) + 1
    assert decode(np.array([0, 1, *codes, 2])) == CHARACTERS


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"task": "division"}, r"task must be one of \['addition', .*, got 'division'"),
        ({"curriculum": "steep"}, r"curriculum must be one of \['baseline', .*, got 'steep'"),
        ({"max_length": 0}, "max_length must be a whole number of at least 1, got 0"),
        ({"max_nesting": 0}, "max_nesting must be a whole number of at least 1, got 0"),
        ({"max_length": 9}, "max_length must be at most 8 for addition, got 9"),
    ],
)
def test_bad_arguments_are_refused(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ProgramEvaluation(**kwargs)


# ----------------------------------------------------------------------------------------------------- curriculum


def test_naive_and_combined_grow_when_the_loss_stalls() -> None:
    """First the length, then the nesting, and no further than the maximum."""
    curriculum = Curriculum("naive", max_length=2, max_nesting=2)
    levels = []
    for _ in range(8 * STALL_UPDATES):
        curriculum.observe(1.0)
        if (level := (curriculum.length, curriculum.nesting)) not in levels:
            levels.append(level)
    assert levels == [(1, 1), (2, 1), (2, 2)]


def test_a_falling_loss_is_no_stall() -> None:
    curriculum = Curriculum("combined", max_length=3, max_nesting=1)
    for i in range(5 * STALL_UPDATES):
        curriculum.observe((0.9 * STALL_RATIO) ** (i // STALL_UPDATES))
    assert curriculum.length == 1


@pytest.mark.parametrize(
    ("name", "expected"), [("baseline", {(3, 2)}), ("naive", {(2, 1)}), ("combined", {(1, 1), (2, 1)})]
)
def test_what_a_curriculum_draws(name: Any, expected: set[tuple[int, int]]) -> None:
    curriculum = Curriculum(name, max_length=3, max_nesting=2)
    for _ in range(2 * STALL_UPDATES):
        curriculum.observe(1.0)
    lengths, nestings = curriculum.draw(np.random.default_rng(0), 100)
    assert set(zip(lengths.tolist(), nestings.tolist(), strict=True)) == expected


def test_a_curriculum_goes_on_where_it_was() -> None:
    first, second = (Curriculum("naive", 4, 2) for _ in range(2))
    for _ in range(STALL_UPDATES + 7):
        first.observe(1.0)
    second.restore(first.state())
    for _ in range(2 * STALL_UPDATES):
        first.observe(1.0)
        second.observe(1.0)
        assert first.state() == second.state()
    assert first.length == 2

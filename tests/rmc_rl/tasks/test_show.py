"""Samples for a person to read: they are the task's, and the answers are those that a person finds."""

import re
from pathlib import Path

import pytest

from rmc_rl.tasks.show import NAMES, WINDOW, main


def test_every_task_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--number=2"]) == 0
    text = capsys.readouterr().out
    assert re.findall(r"^(\w+):$", text, re.MULTILINE) == list(NAMES)
    copies = re.findall(r"^  (\d+) -> (\d+)$", text.partition("copy:")[2].partition("reverse:")[0], re.MULTILINE)
    assert len(copies) == 2
    assert all(program == result for program, result in copies)


def test_a_person_finds_the_same_answer(capsys: pytest.CaptureFixture[str]) -> None:
    """By the distances that are printed."""
    main(["nth_farthest", "--number=40", "--seed=1"])
    blocks = capsys.readouterr().out.split("which is number ")[1:]
    assert len(blocks) == 40
    for block in blocks:
        rank, reference = (int(number) for number in re.findall(r"\d+", block)[:2])
        distances = {int(label): float(value) for label, value in re.findall(r"(\d): .* distance (\S+)", block)}
        assert distances[reference] == 0
        expected = sorted(distances, key=lambda label: -distances[label])[rank - 1]
        assert re.search(r"-> (\d)", block)[1] == str(expected)  # type: ignore[index]


def test_text_is_shown_as_it_stands_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = " ".join(f"w{i}" for i in range(3 * WINDOW))
    for split in ("train", "valid", "test"):
        (tmp_path / f"{split}.txt").write_text(text)
    assert main(["copy", "--number=4", f"--text={tmp_path}"]) == 0
    lines = capsys.readouterr().out.partition("language_modeling:\n")[2].splitlines()
    assert len(lines) == 4
    for line in lines:
        words, target = line.strip().split(" -> ")
        assert len(words.split()) == WINDOW
        assert f"{words} {target} " in f"{text} <eos> "
    assert main([f"--text={tmp_path / 'nothing'}"]) == 2
    assert re.fullmatch("show: path must be a folder with texts .*nothing\n", capsys.readouterr().err)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["chess"], "TASK must be one of nth_farthest, .*, got 'chess'"),
        (["--number=0"], "number must be at least 1"),
        (["--seed=-1"], "seed at least 0, got 3 and -1"),
    ],
)
def test_bad_input_is_refused(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2
    assert re.search(message, capsys.readouterr().err)

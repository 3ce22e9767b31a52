"""What the points of a game are made of."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.points import Eaten, main


def test_rewards_say_what_was_eaten() -> None:
    for food, pills, ghosts in itertools.product((0, 1), repeat=3):
        eaten = Eaten.of(np.array([food + 2 * pills + 5 * ghosts], np.float32))
        assert [int(each[0]) for each in eaten] == [food, pills, ghosts]


def test_an_agent_that_comes_along(capsys: pytest.CaptureFixture[str]) -> None:
    """What it eats is worth its return, which is that of its card."""
    assert main(["quick_start", "--games", "40"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["mean_return"] == pytest.approx(found["food"] + 2 * found["pills"] + 5 * found["ghosts"], abs=0.1)
    assert abs(found["mean_return"] - 515) < 5 * found["standard_error"]
    assert (found["agent"], found["games"]) == ("quick_start", 40)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [(["nobody"], "nobody"), (["quick_start", "--games", "1"], "--games")],
)
def test_bad_arguments(
    arguments: list[str],
    reason: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    try:
        code: object = main(arguments)
    except SystemExit as ended:
        code = ended.code
    captured = capsys.readouterr()
    assert (code, captured.out, captured.err.count("\n")) == (2, "", 1)
    assert reason in captured.err

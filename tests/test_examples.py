"""Every script in examples/ runs, is short, and says how to run it; a new one is tested without being named here.

An example takes one option, `--quick`: the same with so few steps that it is over in a few seconds, and nothing much is
learned. Its first lines say what it shows, and how to call it both ways. It prints what has come of it.
"""

import ast
import runpy
import sys
from pathlib import Path
from unittest.mock import patch

import pytest
import torch

from rmc_rl.cores import CORES

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
MOST_LINES = 60

every_example = pytest.mark.parametrize("path", EXAMPLES, ids=[path.stem for path in EXAMPLES])


def run(path: Path, *options: str) -> None:
    # A core that is registered there is forgotten again.
    with patch.object(sys, "argv", [str(path), *options]), patch.dict(CORES), torch.random.fork_rng():
        runpy.run_path(str(path), run_name="__main__")


def test_there_are_examples() -> None:
    names = {path.stem for path in EXAMPLES}
    assert {"own_environment", "action_masks", "memory_needed", "mini_pacman_sb3"} <= names
    assert {"custom_core", "recurrent_ppo", "drop_in_lstm"} <= names


@every_example
def test_it_runs(
    path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without warnings, and prints what has come of it."""
    monkeypatch.chdir(tmp_path)
    run(path, "--quick")
    assert capsys.readouterr().out.strip()


@every_example
def test_it_is_short_and_says_how_to_run_it(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) < MOST_LINES
    what, *calls = [line for line in (ast.get_docstring(ast.parse(text)) or "").splitlines() if line]
    assert what.endswith((".", ":"))
    commands = [" ".join(call.split("  ")[0].split()) for call in calls if call.startswith("python ")]
    assert commands == [f"python examples/{path.name}", f"python examples/{path.name} --quick"]


@pytest.mark.slow
def test_the_masked_agent_learns(capsys: pytest.CaptureFixture[str]) -> None:
    """What the example shows, in full: illegal actions raise an error in it, and at random the score would be 1."""
    run(ROOT / "examples" / "action_masks.py")
    assert float(capsys.readouterr().out.split()[0]) > 2.4

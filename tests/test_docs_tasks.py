"""docs/tasks.md: what it shows runs, and what it names exists."""

import importlib.util
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import train
from rmc_rl.tasks.config import CoreName, TaskRun
from rmc_rl.tasks.figures import KINDS

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "tasks.md").read_text()
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
PYTHON = [code for language, code in BLOCKS if language == "python"]
COMMANDS = [
    shlex.split(line, comments=True) for language, code in BLOCKS if language == "sh" for line in code.splitlines()
]


@pytest.mark.parametrize("code", PYTHON, ids=[f"block {i + 1}" for i in range(len(PYTHON))])
def test_python_blocks_run(code: str, capsys: pytest.CaptureFixture[str]) -> None:
    """And comments on shapes hold."""
    names: dict[str, Any] = {}
    with torch.random.fork_rng():
        exec(compile(code, "docs/tasks.md", "exec"), names)
    if "outputs" in names:
        assert names["batch"].inputs.shape == (8, 32, 40)
        assert names["outputs"].shape == (8, 32, 4 * 64)
    else:
        assert names["batch"].programs.shape[1] == 128
        assert capsys.readouterr().out.count(" -> ") == 3


def test_commands_exist(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "runs" / "NAME").mkdir(parents=True)
    shutil.copy(ROOT / "configs" / "tasks" / "copy.yaml", tmp_path / "runs" / "NAME" / "config.yaml")
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    monkeypatch.chdir(tmp_path)
    assert len(COMMANDS) >= 8
    for program, script, *arguments in COMMANDS:
        assert program == "python"
        if script == "-m":
            assert importlib.util.find_spec(arguments[0]) is not None
            assert not arguments[0].endswith("figures") or arguments[1] in KINDS
        elif "--help" not in arguments:
            assert script == "train.py"
            assert isinstance(train.parse(arguments)[0], TaskRun)


def test_every_core_and_file_is_named() -> None:
    for core in CoreName.__args__:  # type: ignore[attr-defined]
        assert f"`{core}`" in TEXT
    for path in re.findall(r"`((?:rmc_rl|configs)/[\w./]+)`", TEXT):
        assert (ROOT / path).exists(), path

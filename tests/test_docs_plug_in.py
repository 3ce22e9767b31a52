"""docs/plug_in.md and its examples: what they show runs, and what is named exists."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from rmc_rl import contrib
from rmc_rl.cores import CORES
from rmc_rl.policies import POLICIES

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "plug_in.md").read_text()
PYTHON = re.findall(r"^```python\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
EXAMPLES = ["custom_core", "recurrent_ppo"]


@pytest.mark.parametrize("code", PYTHON, ids=[f"block {i + 1}" for i in range(len(PYTHON))])
def test_python_blocks_run(code: str) -> None:
    names: dict[str, Any] = {"__name__": "docs"}
    before = dict(CORES)
    try:
        with torch.random.fork_rng():
            exec(compile(code, "docs/plug_in.md", "exec"), names)
    finally:
        CORES.clear()
        CORES.update(before)
    assert names["model"].num_timesteps > 0 or names["state"][0].shape == (8, 4, 64)


def test_there_are_blocks_and_three_lines_are_enough() -> None:
    assert len(PYTHON) == 4
    assert len([line for line in PYTHON[0].splitlines() if line]) == 3


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_run(name: str) -> None:
    """Quickly, and they are short: a custom core in under 40 lines."""
    path = ROOT / "examples" / f"{name}.py"
    assert len(path.read_text().splitlines()) < (40 if name == "custom_core" else 60)
    result = subprocess.run(
        [sys.executable, "-W", "error", str(path), "--quick"],
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    assert re.fullmatch(r"\d+ steps of balance out of 500, over 50 episodes\n", result.stdout)


def test_every_policy_and_file_is_named() -> None:
    for policy in POLICIES:
        assert f"`{policy}`" in TEXT
    assert POLICIES.keys() == contrib.POLICIES.keys()
    for name, policy in contrib.POLICIES.items():
        assert policy.form is POLICIES[name]
        assert policy.__doc__ == POLICIES[name].__doc__ or name == "RecurrentPolicy"
    for path in re.findall(r"`((?:rmc_rl|examples)/[\w./]+)`", TEXT):
        assert (ROOT / path).exists(), path

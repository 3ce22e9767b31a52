"""docs/plug_in.md: what it shows runs, and what it names exists."""

import re
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch

from rmc_rl import contrib
from rmc_rl.cores import CORES
from rmc_rl.policies import POLICIES

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "plug_in.md").read_text()
PYTHON = re.findall(r"^```python\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("code", PYTHON, ids=[f"block {i + 1}" for i in range(len(PYTHON))])
def test_python_blocks_run(code: str) -> None:
    names: dict[str, Any] = {"__name__": "docs"}
    with patch.dict(CORES), torch.random.fork_rng():
        exec(compile(code, "docs/plug_in.md", "exec"), names)
    if "model" in names:
        assert names["model"].num_timesteps > 0 or names["state"][0].shape == (8, 4, 64)
    else:
        assert names["outputs"].shape == (20, 8, 4 * 32)


def test_there_are_blocks_and_three_lines_are_enough() -> None:
    assert len(PYTHON) == 5
    assert len([line for line in PYTHON[0].splitlines() if line]) == 3


def test_a_custom_core_takes_less_than_40_lines() -> None:
    assert len((ROOT / "examples" / "custom_core.py").read_text().splitlines()) < 40


def test_every_policy_and_file_is_named() -> None:
    for policy in POLICIES:
        assert f"`{policy}`" in TEXT
    assert POLICIES.keys() == contrib.POLICIES.keys()
    for name, policy in contrib.POLICIES.items():
        assert policy.form is POLICIES[name]
        assert policy.__doc__ == POLICIES[name].__doc__ or name == "RecurrentPolicy"
    for path in re.findall(r"`((?:rmc_rl|examples)/[\w./]+)`", TEXT):
        assert (ROOT / path).exists(), path

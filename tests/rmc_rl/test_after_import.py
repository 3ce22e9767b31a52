"""RecurrentPPO knows our policies after `import rmc_rl`, in whatever order, and importing that takes no torch."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rmc_rl.after_import import after_import

ROOT = Path(__file__).parents[2]
ABSENT = """
import sys

class Absent:
    def find_spec(self, name, path, target=None):
        if name == {absent!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Absent())
"""


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-W", "error", "-c", code], cwd=ROOT, capture_output=True, text=True)


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], str]]:
    """Writes a module that can be imported, and gives back its name."""
    monkeypatch.syspath_prepend(tmp_path)
    finders = list(sys.meta_path)

    def write(text: str) -> str:
        (tmp_path / "watched_module.py").write_text(text)
        return "watched_module"

    yield write
    sys.modules.pop("watched_module", None)
    sys.meta_path[:] = finders


def test_it_happens_once_at_the_end_of_the_import(module: Callable[[str], str]) -> None:
    name = module("first = 1\nlast = 2")
    seen: list[Any] = []
    finders = len(sys.meta_path)
    after_import(name, lambda: seen.append(dict(vars(sys.modules[name]))))
    assert seen == []
    __import__(name)
    assert [found["last"] for found in seen] == [2]
    assert sys.modules[name].__file__ is not None
    assert len(sys.meta_path) == finders  # nothing is left behind
    del sys.modules[name]
    __import__(name)
    assert len(seen) == 1


def test_it_happens_now_if_the_module_is_there(module: Callable[[str], str]) -> None:
    name = module("")
    __import__(name)
    seen: list[int] = []
    after_import(name, lambda: seen.append(1))
    assert seen == [1]


def test_an_import_that_fails_is_none_and_may_be_tried_again(module: Callable[[str], str]) -> None:
    name = module("raise ImportError('broken')")
    seen: list[int] = []
    after_import(name, lambda: seen.append(1))
    with pytest.raises(ImportError, match="broken"):
        __import__(name)
    assert seen == []
    module("text = 'mended, and of another length'")
    __import__(name)
    assert seen == [1]


def test_an_error_of_what_happens_is_not_hidden(module: Callable[[str], str]) -> None:
    name = module("")
    after_import(name, lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        __import__(name)


CHECK = """
expected = {"RMCPolicy", "LSTMPolicy", "GRUPolicy", "DeepLSTMPolicy", "DNCPolicy", "MinGRUPolicy", "FeedForwardPolicy",
            "RecurrentPolicy", "MlpLstmPolicy", "CnnLstmPolicy", "MultiInputLstmPolicy"}
assert set(RecurrentPPO.policy_aliases) == expected, RecurrentPPO.policy_aliases
"""


def test_ours_first() -> None:
    """Nothing heavy is imported with it."""
    code = "import rmc_rl, sys\nassert not {'torch', 'sb3_contrib', 'stable_baselines3'} & set(sys.modules)\n"
    result = run(code + "from sb3_contrib import RecurrentPPO\n" + CHECK)
    assert result.returncode == 0, result.stderr


def test_sb3_contrib_first() -> None:
    """What somebody else has registered under one of our names stays."""
    code = "from sb3_contrib import RecurrentPPO\nRecurrentPPO.policy_aliases['GRUPolicy'] = int\nimport rmc_rl\n"
    result = run(code + CHECK + "assert RecurrentPPO.policy_aliases['GRUPolicy'] is int")
    assert result.returncode == 0, result.stderr


REFUSED = """
from functools import partial
import stable_baselines3
from rmc_rl.policies import POLICIES
from rmc_rl.refusals import NAMES
assert set(NAMES) == set(POLICIES)
for algorithm in (stable_baselines3.A2C, stable_baselines3.DQN, stable_baselines3.PPO):
    assert all(isinstance(algorithm.policy_aliases[name], partial) for name in NAMES[1:])
"""


@pytest.mark.parametrize("first", ["stable_baselines3", "rmc_rl.encoders", "rmc_rl.contrib"])
def test_algorithms_that_refuse_our_policies(first: str) -> None:
    """All of Stable-Baselines3's, whoever is imported first, and RecurrentPPO is none of them."""
    code = f"import {first}, rmc_rl\n{REFUSED}from sb3_contrib import RecurrentPPO, TRPO\n{CHECK}"
    code += "assert all(isinstance(policy, type) for policy in RecurrentPPO.policy_aliases.values())\n"
    result = run(code + "assert isinstance(TRPO.policy_aliases['RMCPolicy'], partial)")
    assert result.returncode == 0, result.stderr


def test_refusals_overwrite_nothing() -> None:
    code = "from stable_baselines3 import PPO\nPPO.policy_aliases['RMCPolicy'] = int\nimport rmc_rl\n"
    result = run(f"{code}{REFUSED}assert PPO.policy_aliases['RMCPolicy'] is int")
    assert result.returncode == 0, result.stderr


def test_without_sb3_contrib() -> None:
    """Nothing is said before it is needed, and then how to get it."""
    result = run(
        ABSENT.format(absent="sb3_contrib") + "import rmc_rl, rmc_rl.policies\nprint('here')\nimport rmc_rl.contrib"
    )
    assert result.stdout == "here\n"
    assert result.stderr.splitlines()[-1] == (
        "ModuleNotFoundError: rmc_rl.contrib needs sb3-contrib: pip install 'rmc-rl[contrib]'"
    )


def test_a_broken_sb3_contrib_is_not_passed_over() -> None:
    result = run(ABSENT.format(absent="sb3_contrib.common.recurrent.buffers") + "import rmc_rl.contrib")
    assert result.returncode == 1
    assert "No module named 'sb3_contrib.common.recurrent.buffers'" in result.stderr.splitlines()[-1]

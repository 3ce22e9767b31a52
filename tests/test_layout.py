"""Imports run one way, and what is packaged is what there is."""

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAY_IMPORT: dict[str, set[str]] = {"envs": set(), "rmc_rl": set(), "agents": {"rmc_rl"}}
"""What each package may import of ours; its own modules it imports relatively."""
OURS = {*MAY_IMPORT, "train", "play", "benchmarks", "examples", "tests"}


def absolute_imports(path: Path) -> Iterator[str]:
    """The top-level name of every absolute import, those inside functions included."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module.partition(".")[0]


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_imports_run_one_way(package: str) -> None:
    """`rmc_rl` is useful without the rest, agents know environments by id alone, and own modules move together."""
    paths = sorted((ROOT / package).rglob("*.py"))
    assert paths
    forbidden = OURS - MAY_IMPORT[package]
    found = [f"{path.relative_to(ROOT)}: {name}" for path in paths for name in absolute_imports(path)]
    assert [line for line in found if line.rpartition(" ")[2] in forbidden] == []


def test_every_package_on_disk_is_shipped() -> None:
    """A subpackage that `pyproject.toml` does not list would be missing from the wheel."""
    config = tomllib.loads((ROOT / "pyproject.toml").read_text())
    folders = {path.parent.relative_to(ROOT) for name in MAY_IMPORT for path in (ROOT / name).rglob("*.py")}
    assert sorted(config["tool"]["setuptools"]["packages"]) == sorted(".".join(folder.parts) for folder in folders)


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("rmc_rl", {"envs", "agents", "torch", "stable_baselines3", "sb3_contrib", "numba", "pygame", "matplotlib"}),
        ("envs", {"rmc_rl", "agents", "torch", "stable_baselines3", "numba", "pygame", "matplotlib"}),
        ("agents", {"envs", "torch", "stable_baselines3", "numba", "pygame", "matplotlib"}),
    ],
)
def test_importing_a_package_loads_only_what_it_needs(module: str, absent: set[str]) -> None:
    """Spawned workers import `envs`, and the cores serve supervised learning, without waiting for the rest."""
    code = f"import sys, {module}; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert module in loaded.split()
    assert absent & set(loaded.split()) == set()

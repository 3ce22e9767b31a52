"""The README: what it shows runs, and what it names exists."""

import importlib.util
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import play
import train

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
PYTHON = [code for language, code in BLOCKS if language == "python"]
PROSE = re.sub(r"^```.*?^```$", "", README, flags=re.MULTILINE | re.DOTALL)


def commands() -> list[list[str]]:
    """Every command that the README shows, in words: those of shell blocks, and those in the text."""
    lines = [line for language, code in BLOCKS if language == "sh" for line in code.splitlines()]
    inline = re.findall(r"`((?:python|make) [^`]+)`", PROSE)
    words = [shlex.split(line, comments=True) for line in [*lines, *inline]]
    return [command for command in words if command]


def commands_of(*program: str) -> list[list[str]]:
    """The arguments of every command that runs `program`."""
    found = []
    for command in commands():
        words = [Path(command[0]).name.replace("python3", "python"), *command[1:]]
        if tuple(words[: len(program)]) == program:
            found.append(words[len(program) :])
    return found


def test_every_block_is_understood() -> None:
    """Nothing that is shown escapes these tests: every block and every command is of a kind that is tested below."""
    assert {language for language, _ in BLOCKS} == {"sh", "python", ""}
    assert README.count("```") == 2 * len(BLOCKS)
    tested = {("python", "train.py"), ("python", "play.py"), ("python", "-m")}
    for command in commands():
        name = Path(command[0]).name.replace("python3", "python")
        assert name in ("make", "pip", "pytest") or (name, command[1]) in tested, command


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[dict[str, Any]]:
    """Where a block of code runs: its names, and a folder of its own for whatever it writes."""
    monkeypatch.chdir(tmp_path)
    with torch.random.fork_rng():
        yield {"__name__": "readme"}


def test_there_are_python_blocks() -> None:
    assert len(PYTHON) >= 3


@pytest.mark.parametrize("code", PYTHON, ids=[f"block {i + 1}" for i in range(len(PYTHON))])
def test_python_blocks_run(code: str, names: dict[str, Any]) -> None:
    """Whoever pastes them gets what they promise; comments on shapes hold."""
    exec(compile(code, "README.md", "exec"), names)
    if "model" in names:
        assert names["model"].num_timesteps >= 10_000
    if "outputs" in names:
        assert names["outputs"].shape == (20, 8, 4 * 64)
    if "env" in names:
        assert names["env"].observation_space.contains(names["observation"])
        names["env"].close()


def test_train_commands(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Every option of train.py that is shown exists, and every configuration."""
    (tmp_path / "runs" / "NAME").mkdir(parents=True)
    shutil.copy(ROOT / "configs" / "quick_start.yaml", tmp_path / "runs" / "NAME" / "config.yaml")
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    monkeypatch.chdir(tmp_path)
    shown = commands_of("python", "train.py")
    assert len(shown) >= 5
    for arguments in shown:
        if arguments == ["--help"]:
            continue
        _, resume = train.parse(arguments)
        assert resume == ("runs/NAME" if "--resume" in arguments else None)


def test_play_commands() -> None:
    """Every option of play.py that is shown exists."""
    shown = commands_of("python", "play.py")
    assert len(shown) >= 4
    for arguments in shown:
        play.parse(arguments)


def test_modules_that_are_run_exist() -> None:
    modules = [arguments[0] for arguments in commands_of("python", "-m")]
    assert len(modules) >= 3
    for module in modules:
        assert importlib.util.find_spec(module) is not None, module


def test_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    shown = {arguments[0] for arguments in commands_of("make")}
    assert {"train", "test"} <= shown
    assert shown <= targets


def test_links_lead_somewhere() -> None:
    """Files that are linked are in the repository; a heading that is linked is there."""
    links = re.findall(r"\]\(([^)]+)\)", PROSE)
    assert len(links) >= 5
    headings = {re.sub(r"[^\w -]", "", line).strip().lower().replace(" ", "-") for line in PROSE.splitlines()}
    for link in links:
        if link.startswith("https://"):
            continue
        path, _, heading = link.partition("#")
        assert (ROOT / path).exists(), link
        assert path or heading in headings, link


def test_names_in_the_text_exist() -> None:
    """Paths and files that the text names in code style are there, but for those of a user's run."""
    named = [name for name in re.findall(r"`([\w./]+)`", PROSE) if "/" in name]
    assert len(named) >= 3
    missing = [name for name in named if not (ROOT / name).exists() and not name.startswith("runs/")]
    assert missing == []


def test_layout() -> None:
    """The list of folders and files is the list there is."""
    (layout,) = [code for language, code in BLOCKS if language == "" and "train.py" in code]
    listed = {line.split()[0].rstrip("/") for line in layout.splitlines()}
    assert len(listed) >= 7
    assert {name for name in listed if not (ROOT / name).exists()} == set()
    modules = {path.name for path in ROOT.glob("*.py")}
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"tests"}
    assert modules | packages <= listed


def test_nothing_is_left_to_be_filled_in() -> None:
    assert re.findall(r"^[A-Z_]{6,}$|TODO|FIXME|XXX", README, re.MULTILINE) == []

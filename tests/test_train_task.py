"""The command `train.py` with a configuration of a task: what it takes, what it refuses, and what it leaves on disk."""

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

import train
from agents.config import AgentRun
from rmc_rl.run_folder import RunFolder
from rmc_rl.tasks.config import TaskRun
from rmc_rl.tasks.learner import TaskLearner

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / "configs" / "tasks"
NAMES = sorted(path.stem for path in CONFIGS.glob("*.yaml"))
ON_DEMAND = {"language_modeling", "shakespeare"}
"""Of texts that the user brings or asks for."""
CORES = ("rmc", "lstm", "gru", "deep_lstm", "dnc")
TINY: dict[str, Any] = {
    "run": "task",
    "updates": 6,
    "log_interval": 3,
    "device": "cpu",
    "core_kwargs": {"rmc": {"mem_slots": 2, "head_size": 3}, "lstm": {"hidden_size": 4}},
    "model_kwargs": {"head_layers": 1},
    "task": {"kwargs": {"task": "copy", "max_length": 3}},
    "optimization": {"batch_size": 5},
    "evaluation": {"interval": 3, "samples": 10, "final_samples": 10},
}


@pytest.fixture(autouse=True)
def in_tmp_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(TINY))


def load(*arguments: str) -> TaskRun:
    config, _ = train.parse(list(arguments))
    assert isinstance(config, TaskRun)
    return config


def test_trains_and_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    assert train.main(["--config=tiny.yaml", "--name=mine"]) == 0
    out = capsys.readouterr().out
    assert re.fullmatch(r"run folder: runs/mine\ncharacter_accuracy \S+, exact_match \S+\n", out)
    assert train.main(["--resume=runs/mine", "--updates=8"]) == 0
    folder = RunFolder.open("runs/mine")
    assert json.loads(folder.evaluation.read_text())["updates"] == 8
    assert (folder.path / "progress_2.csv").is_file()


def test_what_is_trained_is_said_by_configuration_or_command_line() -> None:
    assert isinstance(train.parse(["--config=tiny.yaml"])[0], TaskRun)
    assert isinstance(train.parse(["--run=task", "--name=x", "--config=tiny.yaml"])[0], TaskRun)
    assert isinstance(train.parse([])[0], AgentRun)
    assert replace(load("--run=task"), name=None) == TaskRun(), "the quick start is an agent's"
    assert load("--config=tiny.yaml", "--core=lstm", "--seed=4").model()["core_kwargs"] == {"hidden_size": 4}
    assert re.fullmatch(r"tiny-seed4-\d{8}-\d{6}", str(load("--config=tiny.yaml", "--seed=4").name))


def test_help_explains_tasks_and_waits_for_nothing() -> None:
    arguments = [sys.executable, "-X", "importtime", str(ROOT / "train.py"), "--run", "task", "--help"]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True)
    for option in ("--core ", "--core_kwargs ", "--task.name ", "--optimization.batch_size ", "--evaluation.interval "):
        assert option in done.stdout
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
    assert imported & {"torch", "numpy", "stable_baselines3", "numba", "matplotlib"} == set()


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--core=transformer"], "core.*transformer"),
        (["--core=identity"], "core must have a state to start the decoder from, got IdentityCore"),
        (["--task.name=chess"], "task.name.*chess"),
        (["--task.kwargs={task: division}"], "task must be one of .*, got 'division'"),
        (["--task.kwargs={curriculum: steep}"], "curriculum must be one of .*, got 'steep'"),
        (["--task.kwargs={max_length: 0}"], "max_length must be a whole number of at least 1, got 0"),
        (["--task.kwargs={max_nesting: 0}"], "max_nesting must be a whole number of at least 1, got 0"),
        (["--task.kwargs={depth: 2}"], "'depth'"),
        (["--model_kwargs={decoder: none}"], "decoder must be 'shared' or 'own', got 'none'"),
        (["--model_kwargs={width: 2}"], "'width'"),
        (["--core_kwargs={rmc: {mem_slots: 0}}"], "mem_slots must be .*, got 0"),
        (["--core_kwargs={rmc: {slots: 2}}"], "'slots'"),
        (["--updates=0"], "updates must be at least 1, got 0"),
        (["--log_interval=0"], "log_interval must be at least 1, got 0"),
        (["--cpu_minutes=-1"], "cpu_minutes must be at least 0, got -1"),
        (["--seed=1000000"], "seed must be from 0 to 999999, got 1000000"),
        (["--optimization.batch_size=0"], "optimization.batch_size must be at least 1, got 0"),
        (["--optimization.learning_rate=0"], "optimization.learning_rate must be above 0, got 0"),
        (["--evaluation.samples=0"], "evaluation.samples must be at least 1, got 0"),
        (["--device=abacus"], "device must be .*, got 'abacus'"),
        (["--agent.unroll_length=3"], "unrecognized arguments: --agent.unroll_length"),
        (["--name=taken"], "runs/taken exists already"),
    ],
)
def test_bad_arguments(arguments: list[str], reason: str, capsys: pytest.CaptureFixture[str]) -> None:
    """One line, exit code 2, and no empty run folder."""
    Path("runs/taken").mkdir(parents=True)
    Path("runs/taken/notes.txt").write_text("mine")
    assert train.main(["--config=tiny.yaml", *arguments]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith("train.py: ")
    assert re.search(reason, err)
    assert [path.name for path in Path("runs").iterdir()] == ["taken"]


def test_a_configuration_of_an_agent_is_none_of_a_task(capsys: pytest.CaptureFixture[str]) -> None:
    Path("mixed.yaml").write_text("run: task\npolicy: {name: RMCPolicy}\n")
    assert train.main(["--config=mixed.yaml"]) == 2
    assert "Option 'policy.name' is not accepted" in capsys.readouterr().err


@pytest.mark.parametrize("core", CORES)
@pytest.mark.parametrize("name", sorted({*NAMES} - ON_DEMAND))
def test_every_configuration_trains_with_every_core(name: str, core: str) -> None:
    """On a batch of one, one update."""
    config = load(f"--config={CONFIGS / name}.yaml", f"--core={core}", "--optimization.batch_size=2", "--device=cpu")
    metrics = TaskLearner.make(config).update()
    assert metrics["loss"][0] > 0


@pytest.mark.parametrize("name", NAMES)
def test_a_configuration_says_what_it_is(name: str) -> None:
    assert (CONFIGS / f"{name}.yaml").read_text().startswith("# ")
    assert load(f"--config={CONFIGS / name}.yaml").core == "rmc"

"""The tables of the supervised tasks: runs are made once, go on where they were stopped, and give their figures."""

import csv
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks import supervised
from benchmarks.supervised import ALL_CORES, TABLES, Run, Table, main
from rmc_rl.tasks.learner import TaskLearner

ROOT = Path(__file__).parents[2]
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
def tiny_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("configs/tasks").mkdir(parents=True)
    Path("configs/tasks/tiny.yaml").write_text(yaml.safe_dump(TINY))
    rows = {name: ALL_CORES[name] for name in ("RMC", "LSTM")}
    monkeypatch.setattr(Run, "compile", lambda run: None)  # its update would be counted below
    monkeypatch.setattr(supervised, "NO_OTHER_LIMIT", TINY["updates"])  # updates are known, time is not
    monkeypatch.setitem(TABLES, "tiny", Table("tiny", 5, rows, seeds=(4, 7)))


def trained(monkeypatch: pytest.MonkeyPatch, stop_at: int | None = None) -> list[tuple[str, int, int]]:
    """Core, seed and number of every update that is made from now on; at `stop_at` updates in all comes a Ctrl-C."""
    updates: list[tuple[str, int, int]] = []
    update = TaskLearner.update

    def noted(learner: TaskLearner) -> Any:
        updates.append((learner.config.core, learner.config.seed, learner.updates))
        if len(updates) == stop_at:
            os.kill(os.getpid(), signal.SIGINT)
        return update(learner)

    monkeypatch.setattr(TaskLearner, "update", noted)
    return updates


def test_a_table_goes_on_where_it_was_stopped(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patched:
        first = trained(patched, stop_at=8)
        assert main(["tiny"]) == 130
    assert first[-1] == ("lstm", 4, 1), "stopped in the second run, after its second update"
    assert "the same command goes on" in capsys.readouterr().out
    second = trained(monkeypatch)
    assert main(["tiny"]) == 0
    expected = [(core, seed, i) for seed in (4, 7) for core in ("rmc", "lstm") for i in range(6)]
    assert first + second == expected, "no update is made twice, and none is left out"
    assert main(["tiny"]) == 0
    assert first + second == expected, "what is done is done"


def test_the_table_says_all_about_its_runs() -> None:
    assert main(["tiny", "--output=tables", "--seeds", "3", "--minutes=2.5"]) == 0
    with Path("tables/tiny.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["row"], row["seed"], row["updates"]) for row in rows] == [("RMC", "3", "6"), ("LSTM", "3", "6")]
    for row in rows:
        assert 0 <= float(row["character_accuracy"]) <= 1
        assert int(row["parameters"]) > 100
        assert row["command"].startswith("python train.py --config=configs/tasks/tiny.yaml --core=")
        assert "--cpu_minutes=2.5 --updates=6 --seed=3" in row["command"]
    text = Path("tables/tiny.md").read_text()
    assert all(row["command"] in text for row in rows)
    assert "| RMC | 3 |" in text
    with Path("tables/tiny_curves.csv").open() as file:
        curve = [(row["row"], row["updates"]) for row in csv.DictReader(file)]
    assert curve == [("RMC", "3"), ("RMC", "6"), ("LSTM", "3"), ("LSTM", "6")]
    assert Path("tables/tiny.png").stat().st_size > 1000


def test_rows_are_trained_side_by_side_and_shown_together() -> None:
    assert main(["tiny", "--seeds", "1", "--rows", "LSTM"]) == 0
    assert main(["tiny", "--seeds", "1", "--rows", "RMC"]) == 0
    with (supervised.RUNS / "tiny.csv").open() as file:
        assert [row["row"] for row in csv.DictReader(file)] == ["RMC", "LSTM"]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [(["chess"], "chess"), (["tiny", "--minutes=0"], "minutes"), (["tiny", "--rows", "GRU"], "RMC, LSTM, got GRU")],
)
def test_bad_arguments(arguments: list[str], reason: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    assert reason in capsys.readouterr().err.splitlines()[-1]


def test_a_run_that_fails_ends_it(capsys: pytest.CaptureFixture[str]) -> None:
    Path("configs/tasks/tiny.yaml").write_text(yaml.safe_dump(TINY | {"core_kwargs": {"rmc": {"mem_slots": 0}}}))
    assert main(["tiny"]) == 2
    assert "mem_slots" in capsys.readouterr().err


@pytest.mark.parametrize("name", sorted(TABLES))
def test_tables_name_configurations_that_there_are(name: str) -> None:
    for row in TABLES[name].rows:
        run = Run(name, row, seed=0, minutes=3)
        assert Path(ROOT, run.arguments[0].removeprefix("--config=")).is_file()

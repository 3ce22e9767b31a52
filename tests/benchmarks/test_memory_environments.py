"""The table of memory environments: runs are made once, end when they solve, and give their figures."""

import csv
import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest

from benchmarks import memory_environments
from benchmarks.memory_environments import ENVIRONMENTS, RUNS, Environment, Run, main
from benchmarks.memory_tables import table
from benchmarks.recall import Recall

ROWS = {"RMC": "RMCPolicy", "RMC, RecurrentPPO": "RMCPolicy", "feed-forward": "FeedForwardPolicy"}


@pytest.fixture(autouse=True)
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    small = {"mem_slots": 2, "head_size": 3, "num_heads": 1}
    monkeypatch.setitem(memory_environments.CORE_KWARGS, "RMCPolicy", small)
    monkeypatch.setattr(memory_environments, "NUM_ENVS", 3)
    monkeypatch.setattr(memory_environments, "EPISODES", 5)
    monkeypatch.setitem(ENVIRONMENTS, "tiny", Environment(lambda: Recall(delay=2), best=1, solved=0.95, rows=ROWS))


def made(monkeypatch: pytest.MonkeyPatch, stop_at: int | None = None) -> list[Run]:
    """The runs that are made from now on; instead of number `stop_at` comes a Ctrl-C."""
    runs: list[Run] = []
    make = Run.make

    def noted(run: Run) -> dict[str, Any]:
        runs.append(run)
        if len(runs) == stop_at:
            raise KeyboardInterrupt
        return make(run)

    monkeypatch.setattr(Run, "make", noted)
    return runs


def read(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def test_a_table_is_made_goes_on_and_says_all(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["tiny", "--seeds=4", "--minutes=0.0001", "--output=tables"]
    runs = made(monkeypatch, stop_at=2)
    assert main(arguments) == 130
    assert "the same command goes on" in capsys.readouterr().out
    assert main(arguments) == 0
    expected = [(4, row) for row in ROWS]
    assert [(run.seed, run.row) for run in runs] == [*expected[:2], *expected[1:]], "the one that was stopped, again"
    assert main(arguments) == 0
    assert len(runs) == 4, "what is done is done"

    rows = read(Path("tables/runs.csv"))
    assert [(int(row["seed"]), row["row"]) for row in rows] == expected
    assert {row["state_size"] for row in rows if row["row"] != "feed-forward"} == {"6"}
    assert all(-1 <= float(row["mean_return"]) <= 1 and int(row["parameters"]) > 100 for row in rows)
    assert len(Path("tables/table.md").read_text().splitlines()) == 2 + len(ROWS)
    assert Path("tables/curves.csv").read_text().startswith("environment,row,seed,steps,cpu_seconds,mean_return\n")
    assert Path("tables/curves.png").stat().st_size > 1000


def test_a_run_ends_when_it_solves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Anything solves it: training ends with 100 episodes, long before its time."""
    environment = Environment(lambda: Recall(delay=2), best=1, solved=-1, rows=ROWS)  # enough is 0
    monkeypatch.setitem(ENVIRONMENTS, "tiny", environment)
    assert main(["tiny", "--seeds=4", "--rows", "feed-forward", "--minutes=0.2"]) == 0
    (result,) = read(RUNS / "runs.csv")
    assert result["solved"] == "True"
    assert float(result["cpu_seconds"]) < 6


def test_one_seed_of_everything_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever stops early has all environments, each with the same seeds."""
    runs: list[Run] = []
    monkeypatch.setattr(Run, "make", lambda run: runs.append(run) or {})
    assert main(["tiny", "CartPole", "--seeds", "4", "7", "--rows", "RMC"]) == 0
    expected = [("tiny", 4), ("CartPole", 4), ("tiny", 7), ("CartPole", 7)]
    assert [(run.environment, run.seed) for run in runs] == expected


def test_enough_is_more_than_solved() -> None:
    """A run that ends early has a margin: its fresh episodes are to solve it too."""
    for environment in ENVIRONMENTS.values():
        assert environment.solved < environment.enough < environment.best


def test_the_table_counts_over_seeds() -> None:
    """Means, an interval that holds them, and how many seeds solve, each environment and row by itself."""
    common = {"cpu_seconds": 30.0, "parameters": 1234, "state_size": 6, "solved_from": 0.95, "best": 1}
    returns = {("tiny", "RMC"): [0.25, 0.5, 1.0], ("tiny", "feed-forward"): [0.125]}
    results = [
        {"environment": name, "row": row, "mean_return": value, "solved": value > 0.95, "steps": 2e6, **common}
        for (name, row), values in returns.items()
        for value in values
    ]
    rmc, feed_forward = table(results)
    assert (rmc["core"], rmc["mean return"], rmc["95% interval"]) == ("RMC", "0.583", "0.25 to 1")
    assert (rmc["seeds that solve"], rmc["solved from"], rmc["million steps"]) == ("1 of 3", "0.95 of 1", "2.00")
    assert (feed_forward["mean return"], feed_forward["seeds that solve"]) == ("0.125", "0 of 1")
    assert feed_forward["95% interval"] == "none from one seed"


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["chess"], "ENVIRONMENT must be among CartPole"),
        (["tiny", "--rows", "GRU"], "--rows must be among RMC, LSTM"),
        (["tiny", "--minutes=0"], "--minutes must be above 0, got 0.0"),
        (["tiny", "--minutes=nan"], "--minutes must be above 0, got nan"),
        (["tiny", "--seeds", "3", "-1"], "--seeds must be from 0 to 999999, got [3, -1]"),
    ],
)
def test_bad_arguments(arguments: list[str], reason: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    assert reason in capsys.readouterr().err.splitlines()[-1]


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "popgym", None)
    with pytest.raises(SystemExit, match="2"):
        main(["AutoencodeEasy", "--rows", "LSTM", "--minutes=0.001"])
    assert "pip install 'rmc-rl[bench]'" in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    ("name", "width", "actions"),
    [("CartPole", 2, 2), ("RepeatPreviousEasy", 4, 4), ("Autoencode8", 6, 4), ("ConcentrationEasy", 156, 52)],
)
def test_what_agents_see(name: str, width: int, actions: int) -> None:
    """No velocities, and the cards as one-hots."""
    pytest.importorskip("gymnasium" if name == "CartPole" else "popgym")
    env = ENVIRONMENTS[name].make()
    observation, _ = env.reset(seed=5)
    assert observation.shape == env.observation_space.shape == (width,)
    assert env.observation_space.contains(observation)
    assert env.action_space == gym.spaces.Discrete(actions)
    if name == "CartPole":
        state: Any = env.unwrapped.state  # type: ignore[attr-defined]
        assert observation == pytest.approx([state[0], state[2]])

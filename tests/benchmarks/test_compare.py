"""The comparison: runs are made once and go on where they were stopped, and their table needs nothing but CSV files."""

import csv
import fcntl
import os
import shutil
import signal
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import train
from benchmarks.compare import GRID, Job, main
from benchmarks.compare_tables import RANGE, Results, draw, hours_of, median_speed
from benchmarks.grid import Grid, Run, merged
from rmc_rl.figures import Curve, difference_interval
from rmc_rl.run_folder import RunFolder

ROOT = Path(__file__).parents[2]
STEPS, NUM_ENVS, UNROLL = 1500, 6, 5
TINY: dict[str, Any] = {
    "seeds": [3, 11],
    "settings": {
        "total_timesteps": STEPS,
        "environment": {"num_envs": NUM_ENVS, "kwargs": {"observation": "planes", "frame_cap": 40}},
        "policy": {"embedding_size": 7},
        "agent": {"unroll_length": UNROLL},
        "evaluation": {"interval": 0, "final_episodes": 9, "video_seconds": 0},
    },
    "cores": {
        "LSTM": {"policy": {"name": "LSTMPolicy", "core_kwargs": {"hidden_size": 4}}},
        "none": {"policy": {"name": "FeedForwardPolicy"}},
    },
    "views": {
        "viewport": {"settings": {"environment": {"kwargs": {"viewport": 5}}}, "published": {"RMC": 677}},
        "full": {"settings": {"environment": {"kwargs": {"viewport": None}}}},
    },
    "rows": {"lstm": {"core": "LSTM", "view": "viewport"}, "none": {"core": "none", "view": "viewport"}},
    "differences": [["lstm", "none"]],
}


@pytest.fixture(autouse=True)
def in_tmp_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write_grid(changes: dict[str, Any] | None = None) -> Grid:
    path = Path("tiny.yaml")
    path.write_text(yaml.safe_dump(merged(TINY, changes or {}), sort_keys=False))
    return Grid.read(path)


def train_here(run: Run) -> None:
    """What the command has another process do."""
    assert train.main(run.arguments(run.config())) == 0


def lines(path: str) -> list[dict[str, str]]:
    with Path(path).open(newline="") as file:
        return list(csv.DictReader(file))


def stop_once_it_learns(folder: RunFolder) -> threading.Thread:
    """Send this process a Ctrl-C once a run has logged something."""
    log = folder.path / "progress.csv"

    def wait() -> None:
        deadline = time.monotonic() + 240
        while not (log.is_file() and log.read_bytes().count(b"\n") > 1) and time.monotonic() < deadline:
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


@pytest.mark.slow
def test_the_command_goes_on_where_it_was_stopped(capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing is learned twice."""
    run, *_ = write_grid({"settings": {"total_timesteps": 10**9}}).runs("tiny")
    stopper = stop_once_it_learns(run.folder)
    assert main(["--grid=tiny.yaml", "--workers=1"]) == 130
    stopper.join()
    assert "the same command goes on" in capsys.readouterr().out
    (checkpoint, *_) = run.folder.checkpoints()
    reached, before = int(checkpoint.stem.partition("_")[2]), lines("runs/tiny/lstm-seed3/progress.csv")

    write_grid({"settings": {"total_timesteps": reached + 720}})
    assert main(["--grid=tiny.yaml", "--rows=lstm", "--seeds", "3"]) == 0
    assert "tiny/lstm-seed3: return " in capsys.readouterr().out
    after = [int(line["time/total_timesteps"]) for line in lines("runs/tiny/lstm-seed3/progress_2.csv")]
    assert int(before[-1]["time/total_timesteps"]) <= reached < after[0] <= after[-1] <= reached + 720
    assert run.evaluation()["steps"] == reached + 720
    assert [line["row"] for line in lines("runs/tiny/runs.csv")] == ["lstm"]


def test_a_run_that_fails_keeps_none_of_the_others(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """All are tried, the failures are told, and the table shows what there is."""
    (done, *_) = write_grid().runs("tiny")
    train_here(done)
    Path("failing.py").write_text("import sys\nprint('much before')\nsys.exit(f'no luck with {sys.argv[1]}')")
    monkeypatch.setattr(train, "__file__", "failing.py")
    capsys.readouterr()
    assert main(["--grid=tiny.yaml"]) == 1
    failed = ["none-seed3", "lstm-seed11", "none-seed11"]
    said = [f"tiny/{name}: no luck with --config=runs/tiny/{name}.yaml" for name in failed]
    assert sorted(capsys.readouterr().err.splitlines()) == sorted(said)


def test_the_table_is_made_of_csv_files_alone(capsys: pytest.CaptureFixture[str]) -> None:
    grid = write_grid()
    for run in grid.runs("tiny"):
        train_here(run)
    assert main(["--grid=tiny.yaml", "--output=kept"]) == 0  # nothing is left to train
    capsys.readouterr()

    runs = lines("kept/runs.csv")
    assert [(line["row"], line["seed"]) for line in runs] == [
        ("lstm", "3"),
        ("lstm", "11"),
        ("none", "3"),
        ("none", "11"),
    ]
    for line, run in zip(runs, sorted(grid.runs("tiny"), key=lambda run: run.row), strict=True):
        assert float(line["return"]) == run.evaluation()["mean_return"]
        assert (line["steps"], line["games"]) == (str(STEPS), "9")
        assert float(line["level"]) >= 1
        assert line["state"] == {"lstm": "8", "none": "0"}[line["row"]]
    assert int(runs[0]["parameters"]) - int(runs[2]["parameters"]) > 4 * 4 * (7 + 4)  # an LSTM more, smaller heads
    curve = [line for line in lines("kept/curves.csv") if (line["row"], line["seed"]) == ("none", "11")]
    logged = lines("runs/tiny/none-seed11/progress.csv")
    assert [float(line["steps"]) for line in curve] == [float(line["time/total_timesteps"]) for line in logged]
    assert [float(line["return"]) for line in curve] == [
        round(float(line["rollout/ep_rew_mean"]), 2) for line in logged
    ]

    table = Path("kept/table.md").read_text()
    returns = {name: np.array([float(line["return"]) for line in runs if line["row"] == name]) for name in grid.rows}
    for name, values in returns.items():
        assert f"| {name} | {grid.rows[name].core} | viewport | {values.mean():.0f} [" in table
    assert f"| lstm - none | {returns['lstm'].mean() - returns['none'].mean():+.0f} | [" in table
    made = {path.name: path.read_bytes() for path in Path("kept").iterdir()}
    assert made.keys() == {"runs.csv", "curves.csv", "table.md", "curves.png"}
    shutil.rmtree("runs")
    assert main(["--grid=tiny.yaml", "--output=kept", "--table"]) == 0
    assert {path.name: path.read_bytes() for path in Path("kept").iterdir()} == made


def test_a_short_run_can_be_seen_beside_a_long_one() -> None:
    """It has its width of a logarithmic axis."""
    grid = write_grid()
    curves = {
        (row, 3): [{"row": row, "seed": 3, "steps": i * most, "hours": i * most / 10, "return": i} for i in range(9)]
        for row, most in (("lstm", 10), ("none", 1000))
    }
    runs = {key: {"row": key[0], "seed": 3, "view": "viewport"} for key in curves}
    for axes, most in zip(draw(grid, Results(runs, curves)).axes, (8000, 800), strict=True):
        assert axes.get_xscale() == "log"
        assert axes.get_xlim() == pytest.approx((most / RANGE, most))


def test_more_steps_are_learned_on_top() -> None:
    """A grid that is given more steps goes on with what it has, and knows no other change."""
    (run, *_) = write_grid().runs("tiny")
    train_here(run)
    assert run.is_done(run.config())
    (longer, *_) = write_grid({"settings": {"total_timesteps": 2 * STEPS}}).runs("tiny")
    assert not longer.is_done(longer.config())
    train_here(longer)
    assert longer.is_done(longer.config())
    steps = [float(line["time/total_timesteps"]) for line in lines("runs/tiny/lstm-seed3/progress_2.csv")]
    assert STEPS < steps[0] < steps[-1] == 2 * STEPS
    assert hours_of(longer).steps[-1] == 2 * STEPS
    assert (np.diff(hours_of(longer).returns) >= 0).all()


def test_settings_of_a_run_that_has_begun_stay(capsys: pytest.CaptureFixture[str]) -> None:
    """Or the table would say of a run what is not true of it."""
    (run, *_) = write_grid().runs("tiny")
    RunFolder.create(run.folder.path, yaml.safe_dump({**run.settings, "seed": 3, "name": run.name}))
    run.config()
    write_grid({"cores": {"LSTM": {"agent": {"discount": 0.5}}}})
    assert main(["--grid=tiny.yaml", "--rows=lstm"]) == 2
    assert capsys.readouterr().err == (
        "compare: rows.lstm has agent.discount 0.5, but runs/tiny/lstm-seed3 was begun with 0.99: "
        "give the row another name, or remove the folder\n"
    )


def test_two_commands_never_train_the_same_run() -> None:
    (run, *_) = write_grid().runs("tiny")
    config = run.config()
    with run.file("lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert Job.begin(run, config, core=0) is None


def test_time_goes_on_in_a_resumed_run() -> None:
    """Each part of its log counts from 0."""
    (run, *_) = write_grid().runs("tiny")
    folder = RunFolder.create(run.folder.path, "{}")
    for rows in ("10,36 20,72 30,108", "30,18 40,54"):
        text = "\n".join(["time/total_timesteps,time/time_elapsed", *rows.split()])
        (folder.path / f"progress{folder.log_suffix()}.csv").write_text(text)
    steps, hours, *_ = hours_of(run)
    assert steps.tolist() == [10, 20, 30, 40]
    np.testing.assert_allclose(hours * 3600, [36, 72, 72 + 18, 72 + 54])


def test_speed_takes_no_notice_of_a_pause() -> None:
    """90 steps a second, for all but one of 20 pieces of an hour and a bit."""
    seconds = np.array([0, 2000, 2200, 4000.0])
    speed = median_speed(Curve(90 * np.array([0, 2000, 2000, 3800.0]), seconds / 3600))
    assert speed == pytest.approx(90)


def test_a_difference_is_that_of_runs_that_are_no_pairs() -> None:
    """Of two rows with the same returns it is not sure to be zero."""
    returns = np.array([[500.0], [530.0], [590.0]])
    low, high = difference_interval(returns, returns)
    assert low[0] < -30
    assert high[0] > 30
    low, high = difference_interval(returns + 1000, returns[:2])
    assert low[0] > 900


BAD: list[tuple[dict[str, Any], str]] = [
    ({"rows": {"lstm": {"core": "GRU"}}}, "tiny.yaml: rows.lstm.core must be among LSTM, none, got GRU"),
    ({"rows": {"lstm": {"view": "map"}}}, "tiny.yaml: rows.lstm.view must be among viewport, full, got map"),
    ({"rows": {"a/b": {"core": "LSTM", "view": "full"}}}, "tiny.yaml: rows must be named by letters"),
    ({"rows": {"none": {"seeds": []}}}, "tiny.yaml: seeds of rows.none must be at least one, each once, got []"),
    ({"seeds": [5, 5]}, "tiny.yaml: seeds of rows.lstm must be at least one, each once, got [5, 5]"),
    ({"differences": [["lstm", "gru"]]}, "tiny.yaml: differences must be among lstm, none, got gru"),
    ({"rows": {"none": {"colour": "red"}}}, "colour"),
    ({"games": 3}, "games"),
    ({"settings": {"total_timesteps": 0}}, "rows.lstm: total_timesteps must be at least 1, got 0"),
    ({"cores": {"none": {"agent": {"gamma": 1}}}}, "rows.none: "),
    ({"settings": {"seed": 3, "replicas": 2}}, "settings of rows.lstm must leave out replicas, seed"),
]


@pytest.mark.parametrize(("changes", "reason"), BAD)
def test_bad_grids(changes: dict[str, Any], reason: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("tiny.yaml").write_text(yaml.safe_dump(merged(TINY, changes), sort_keys=False))
    line = refusal(["--grid=tiny.yaml"], capsys)
    assert line.startswith("compare: ")
    assert reason in line


def refusal(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1), err
    return err


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--rows", "gru"], "--rows must be among lstm, none, got gru"),
        (["--seeds", "4"], "--seeds must be among [3, 11], got [4]"),
        (["--workers", "0"], "--workers must be from 1 to "),
        (["--table"], "no run has been evaluated yet, neither in runs/tiny nor in runs/tiny"),
        (["--grid", "nothing.yaml"], "nothing.yaml: "),
    ],
)
def test_bad_arguments(arguments: list[str], reason: str, capsys: pytest.CaptureFixture[str]) -> None:
    write_grid()
    assert reason in refusal(["--grid=tiny.yaml", *arguments], capsys)


def test_the_grid_that_comes_along() -> None:
    """What is published, on both views: each run has 200 games in the end."""
    grid = Grid.read(ROOT / GRID)
    assert {row.view for row in grid.rows.values()} == {"viewport", "full"}
    assert {grid.settings_of(name)["evaluation"]["final_episodes"] for name in grid.rows} == {200}


@pytest.mark.parametrize("path", sorted((ROOT / GRID).parent.iterdir()), ids=lambda path: path.stem)
def test_every_grid_that_comes_along(path: Path) -> None:
    """Each of its runs has settings that are legal, on one core."""
    for run in Grid.read(path).runs(path.stem):
        config = run.config()
        assert (config.replicas, config.threads) == (1, 1)
        assert config.seed == run.seed
        assert path.stem in str(config.name)


def test_what_is_tuned_is_not_what_is_compared() -> None:
    """No seed of the comparison has a part in choosing its settings."""
    tuning = Grid.read((ROOT / GRID).with_name("mini_pacman_tuning.yaml"))
    compared = Grid.read(ROOT / GRID)
    assert not {run.seed for run in tuning.runs("")} & set(compared.seeds)

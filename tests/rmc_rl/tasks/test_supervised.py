"""The loop that trains on tasks: it learns, it goes on exactly where it was stopped, and it loses nothing."""

import csv
import itertools
import json
import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from rmc_rl.checkpoint import load_checkpoint
from rmc_rl.cores import CORES
from rmc_rl.run_folder import RunFolder, RunFolderError
from rmc_rl.tasks import config as task_config
from rmc_rl.tasks.config import OptimizationConfig, TaskConfig, TaskEvaluationConfig, TaskRun
from rmc_rl.tasks.learner import TASKS, TaskLearner
from rmc_rl.tasks.supervised import TaskTraining

UPDATES = 12


def config(updates: int = UPDATES, **settings: Any) -> TaskRun:
    """A run of a second, on a task whose curriculum grows."""
    return TaskRun(
        **{
            "name": "run",
            "seed": 3,
            "updates": updates,
            "device": "cpu",
            "log_interval": 5,
            "core": "gru",
            "core_kwargs": {"gru": {"hidden_size": 9}},
            "model_kwargs": {"head_size": 8, "head_layers": 1},
            "task": TaskConfig(kwargs={"task": "control", "max_length": 3, "curriculum": "combined"}),
            "optimization": OptimizationConfig(batch_size=7, learning_rate=0.01, learning_rate_schedule="linear"),
            "evaluation": TaskEvaluationConfig(interval=4, samples=20, final_samples=30),
            **settings,
        }
    )


@pytest.fixture
def training(tmp_path: Path) -> TaskTraining:
    return TaskTraining.start(config(), tmp_path / "run")


@pytest.fixture
def handlers() -> Iterator[None]:
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(signal.SIGINT, signal.default_int_handler), signal.signal(signal.SIGTERM, signal.SIG_DFL)]
    yield
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


def rows(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def test_names_in_the_configuration_are_those_there_are() -> None:
    """The configuration imports nothing heavy, so it repeats them."""
    assert set(task_config.CoreName.__args__) == set(CORES)
    assert set(task_config.TaskName.__args__) == set(TASKS)


def test_a_run_leaves_everything_behind(training: TaskTraining) -> None:
    evaluation = training.run()
    folder = training.folder
    assert evaluation is not None
    assert json.loads(folder.evaluation.read_text()) == {"updates": UPDATES} | evaluation
    log = rows(folder.path / "progress.csv")
    assert [int(row["time/total_timesteps"]) for row in log] == [5, 10, 12]
    assert all(float(row["train/loss"]) > 0 and float(row["train/gradient_norm"]) > 0 for row in log)
    assert float(log[-1]["eval/character_accuracy"]) == evaluation_of(folder.model, samples=20)["character_accuracy"]
    best = json.loads(folder.best_evaluation.read_text())
    assert best["updates"] in (4, 8, 12)
    scores = [float(row["eval/character_accuracy"]) for row in log if row["eval/character_accuracy"]]
    assert best["character_accuracy"] >= max(scores)
    assert evaluation_of(folder.best_model, samples=20)["character_accuracy"] == best["character_accuracy"]
    events = EventAccumulator(str(folder.path))
    events.Reload()
    assert [event.step for event in events.Scalars("train/loss")] == [5, 10, 12]
    assert [path.name for path in folder.checkpoints()] == [f"model_{UPDATES}.zip"]


def evaluation_of(checkpoint: Path, samples: int) -> dict[str, float]:
    return TaskLearner.load(config(), checkpoint).evaluate(samples)


@pytest.mark.parametrize(
    ("core", "kwargs"),
    [
        ("rmc", {"mem_slots": 2, "head_size": 3}),
        ("dnc", {"memory_size": 3, "controller_size": 4}),
        ("deep_lstm", {"hidden_size": 3}),
    ],
)
@pytest.mark.parametrize("task", ["nth_farthest", "program_evaluation"])
def test_going_on_is_bit_identical(core: Any, kwargs: Any, task: Any, tmp_path: Path) -> None:
    """Weights, optimizer, generators, curriculum: whoever is stopped ends where the others do, to the last bit."""
    settings = {"core": core, "core_kwargs": {core: kwargs}, "task": TaskConfig(name=task)}
    whole, first = (TaskLearner.make(config(**settings)) for _ in range(2))
    for _ in range(UPDATES):
        whole.update()
    first = TaskLearner.make(config(**settings))
    for _ in range(5):
        first.update()
    first.save(tmp_path / "stopped.zip")
    torch.rand(3)  # what happens in between does not matter
    second = TaskLearner.load(config(**settings), tmp_path / "stopped.zip")
    second.evaluate(10)
    for _ in range(UPDATES - 5):
        second.update()
    whole.save(tmp_path / "whole.zip")
    second.save(tmp_path / "again.zip")
    assert (tmp_path / "whole.zip").read_bytes() == (tmp_path / "again.zip").read_bytes()


@pytest.mark.usefixtures("handlers")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_after_the_update(
    number: int, training: TaskTraining, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run ends with a checkpoint, and goes on to the same end as one that was never stopped."""
    update = TaskLearner.update

    def stopped(learner: TaskLearner) -> Any:
        if learner.updates == 6:
            os.kill(os.getpid(), number)
        return update(learner)

    with monkeypatch.context() as patched:
        patched.setattr(TaskLearner, "update", stopped)
        assert training.run() is None
    assert [path.name for path in training.folder.checkpoints()] == ["model_7.zip"]
    assert not training.folder.model.exists()
    resumed = TaskTraining.resume(config(), RunFolder.open(training.folder.path))
    assert resumed.best == training.best >= 0
    resumed.run()
    whole = TaskTraining.start(config(), tmp_path / "whole")
    whole.run()
    assert resumed.folder.model.read_bytes() == whole.folder.model.read_bytes()
    assert [int(row["time/total_timesteps"]) for row in rows(resumed.folder.path / "progress_2.csv")] == [10, 12]


def test_resuming_keeps_new_settings_and_needs_no_best_score(
    training: TaskTraining, capsys: pytest.CaptureFixture[str]
) -> None:
    training.run()
    training.folder.best_evaluation.write_text("{")
    resumed = TaskTraining.resume(config(UPDATES + 2), training.folder)
    assert yaml.safe_load(training.folder.config.read_text())["updates"] == UPDATES + 2
    assert resumed.best == -np.inf
    assert "the best model is chosen anew" in capsys.readouterr().err


def test_a_damaged_checkpoint_is_set_aside(training: TaskTraining, capsys: pytest.CaptureFixture[str]) -> None:
    training.run()
    newest = training.folder.checkpoint(UPDATES + 1)
    newest.write_bytes(b"cut")
    resumed = TaskTraining.resume(config(), training.folder)
    assert resumed.learner.updates == UPDATES
    assert "it is renamed to model_13.damaged" in capsys.readouterr().err
    assert newest.with_suffix(".damaged").exists()


def test_a_run_without_a_checkpoint_cannot_be_resumed(training: TaskTraining) -> None:
    with pytest.raises(RunFolderError, match="no checkpoint to go on from: it was stopped before its first one"):
        TaskTraining.resume(config(), training.folder)


@pytest.mark.parametrize(
    "changed",
    [
        {"core": "lstm"},
        {"core_kwargs": {"gru": {"hidden_size": 8}}},
        {"task": TaskConfig(kwargs={"task": "copy"})},
        {"model_kwargs": {}},
        {"optimization": OptimizationConfig(batch_size=8)},
    ],
)
def test_another_model_cannot_go_on(changed: dict[str, Any], training: TaskTraining) -> None:
    training.run()
    with pytest.raises(ValueError, match="task, core, model and batch size must stay what they are in"):
        TaskTraining.resume(replace(config(), **changed), training.folder)
    assert TaskTraining.resume(replace(config(), updates=UPDATES + 5), training.folder).learner.updates == UPDATES


def test_a_loss_that_is_not_finite_ends_the_run(training: TaskTraining) -> None:
    """Before the weights are touched, and before a checkpoint is written over a good one."""
    with torch.no_grad():
        next(training.learner.model.parameters()).fill_(torch.nan)
    with pytest.raises(FloatingPointError, match="the loss is nan after 0 updates"):
        training.run()
    assert training.folder.checkpoints() == []


def test_a_gradient_that_is_not_finite_ends_the_run(training: TaskTraining) -> None:
    """Though the loss is finite: one step along it, and all weights were NaN."""
    parameters = list(training.learner.model.parameters())
    before = [parameter.detach().clone() for parameter in parameters]
    parameters[0].register_hook(lambda gradient: gradient * torch.inf)
    with pytest.raises(FloatingPointError, match=r"the gradient is (nan|inf) after 0 updates; try a lower"):
        training.run()
    assert all(map(torch.equal, before, parameters))
    assert training.folder.checkpoints() == []


def test_checkpoints_come_in_time_and_old_ones_go(tmp_path: Path) -> None:
    training = TaskTraining.start(config(checkpoint_minutes=0), tmp_path / "run")
    training.run()
    assert [path.name for path in training.folder.checkpoints()] == ["model_12.zip", "model_11.zip"]


def test_the_curriculum_sees_every_loss(training: TaskTraining) -> None:
    learner = training.learner
    losses = [learner.update()["loss"][0] for _ in range(3)]
    assert learner.stream.state()["task"]["losses"] == losses
    learner.save(training.folder.model)
    assert load_checkpoint(training.folder.model, "task")[0]["stream"]["task"]["losses"] == losses


def test_the_learning_rate_falls_to_zero(training: TaskTraining) -> None:
    rates = []
    for _ in range(UPDATES):
        rates.append(training.learner.learning_rate())
        training.learner.update()
    assert rates[0] == 0.01
    assert rates == pytest.approx([0.01 * (1 - i / UPDATES) for i in range(UPDATES)])
    assert training.learner.learning_rate() == 0


@pytest.fixture
def slow_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every update takes two seconds of processor time, and all else takes none."""
    seconds = itertools.count()
    times = (2.0 * (next(seconds) // 2 + even) for even in itertools.cycle((0, 1)))
    monkeypatch.setattr("rmc_rl.tasks.learner.time.process_time", lambda: next(times))


@pytest.mark.usefixtures("slow_clock")
def test_time_ends_a_run_and_its_learning_rate(tmp_path: Path) -> None:
    """0.3 minutes are nine updates of two seconds; the time before a stop counts as well."""
    limited = config(cpu_minutes=0.3, evaluation=TaskEvaluationConfig(interval=4, samples=20, final_samples=30))
    training = TaskTraining.start(limited, tmp_path / "run")
    learner, rates = training.learner, []
    for _ in range(5):
        rates.append(learner.learning_rate())
        learner.update()
    assert rates == pytest.approx([0.01 * (1 - i / 9) for i in range(5)])
    learner.save(training.folder.checkpoint(5))
    resumed = TaskTraining.resume(limited, training.folder)
    assert resumed.learner.learning_rate() == pytest.approx(0.01 * 4 / 9)
    assert resumed.run() is not None
    evaluation = json.loads(training.folder.evaluation.read_text())
    assert (evaluation["updates"], evaluation["cpu_seconds"]) == (9, 18)
    log = rows(training.folder.path / "progress.csv")
    assert [row["time/total_timesteps"] for row in log] == ["9"], "the last row comes with the last update"
    assert float(log[0]["time/cpu_seconds"]) == 18
    assert float(log[0]["eval/character_accuracy"]) >= 0


@pytest.mark.usefixtures("slow_clock")
def test_updates_end_a_run_that_has_time_left(tmp_path: Path) -> None:
    training = TaskTraining.start(config(cpu_minutes=5), tmp_path / "run")
    assert training.run() is not None
    assert training.learner.spent() == {"updates": UPDATES, "cpu_seconds": 2 * UPDATES}


def test_a_seed_says_it_all(tmp_path: Path) -> None:
    contents = []
    for i, seed in enumerate((3, 3, 4)):
        training = TaskTraining.start(config(seed=seed), tmp_path / f"run{i}")
        training.run()
        contents.append(training.folder.model.read_bytes())
    assert contents[0] == contents[1] != contents[2]


def test_learns(tmp_path: Path) -> None:
    """Copying two digits, far above chance, in seconds."""
    settings = config(
        updates=400,
        core="lstm",
        core_kwargs={"lstm": {"hidden_size": 48}},
        task=TaskConfig(kwargs={"task": "copy", "max_length": 2}),
        optimization=OptimizationConfig(batch_size=64, learning_rate=5e-3),
        evaluation=TaskEvaluationConfig(interval=0, final_samples=500),
        model_kwargs={"head_size": 32, "head_layers": 1},
    )
    evaluation = TaskTraining.start(settings, tmp_path / "run").run()
    assert evaluation is not None
    assert evaluation["character_accuracy"] > 0.9

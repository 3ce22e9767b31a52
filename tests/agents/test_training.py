"""A training run and what happens beside it: progress, checkpoints, the best model, a clean stop, going on."""

import io
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnv

from agents import A2C
from agents.callbacks import BestModel, Checkpoint, Progress
from agents.config import AgentRun, EnvironmentConfig, EvaluationConfig, PolicyConfig
from agents.evaluate import Evaluation
from agents.hyperparameters import Hyperparameters
from agents.training import Training, check_device, make_envs
from rmc_rl.checkpoint import CheckpointError
from rmc_rl.policies import RecurrentPolicy
from rmc_rl.run_folder import RunFolder, RunFolderError
from rmc_rl.stop import StopRequest

NUM_ENVS, UNROLL = 3, 4
UPDATE = NUM_ENVS * UNROLL
ENVIRONMENT = EnvironmentConfig(
    id="tests.faulty_envs:Faulty-v0", kwargs={"good_steps": 10**6, "fault": "reward"}, num_envs=NUM_ENVS
)


def config(total_timesteps: int = 5 * UPDATE, interval: int = 0) -> AgentRun:
    return AgentRun(
        name="run",
        seed=9,
        total_timesteps=total_timesteps,
        device="cpu",
        environment=ENVIRONMENT,
        policy=PolicyConfig(name="GRUPolicy", core_kwargs={"hidden_size": 5}, embedding_size=7),
        agent=Hyperparameters(unroll_length=UNROLL),
        evaluation=EvaluationConfig(interval=interval, episodes=2, final_episodes=5, video_seconds=0),
    )


@pytest.fixture
def training(tmp_path: Path) -> Training:
    return Training.start(config(), tmp_path / "run")


@pytest.fixture
def handlers() -> Iterator[None]:
    """The usual handlers; those of the test's process are put back, whatever happens."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(signal.SIGINT, signal.default_int_handler), signal.signal(signal.SIGTERM, signal.SIG_DFL)]
    yield
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


# -------------------------------------------------------------------------------------------------------- a stop


@pytest.mark.usefixtures("handlers")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_first_signal_asks_and_the_second_acts(number: signal.Signals) -> None:
    """One Ctrl-C ends training in order; whoever cannot wait presses it again."""
    stop = StopRequest()
    with stop.listening():
        assert not stop.requested
        os.kill(os.getpid(), number)
        assert stop.requested
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.usefixtures("handlers")
def test_handlers_are_put_back() -> None:
    """After training, and after a failure, the process reacts to signals as before."""
    with StopRequest().listening():
        assert signal.getsignal(signal.SIGINT) is not signal.default_int_handler
        assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
    with pytest.raises(FloatingPointError), StopRequest().listening():
        raise FloatingPointError
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


class SignalAt(BaseCallback):
    """Sends this process a signal after so many calls."""

    def __init__(self, calls: int) -> None:
        super().__init__()
        self.calls = calls

    def _on_step(self) -> bool:
        if self.n_calls == self.calls:
            os.kill(os.getpid(), signal.SIGTERM)
        return True


@pytest.mark.usefixtures("handlers")
def test_a_stop_comes_after_the_update(training: Training) -> None:
    """What has been played is learned from, and the checkpoint stands between two updates, where it can be exact."""
    with training.agent.stop.listening():
        training.agent.learn(10 * UPDATE, [SignalAt(2 * UNROLL + 2), Checkpoint(training.folder, 60, 9)])
    assert training.agent._n_updates == 3
    assert training.agent.num_timesteps == 3 * UPDATE
    assert [path.stem for path in training.folder.checkpoints()] == [f"model_{3 * UPDATE}"]


# ------------------------------------------------------------------------------------------------------ progress


@pytest.mark.parametrize(("kind", "most"), [(io.StringIO, 3), (Terminal, 40)])
def test_progress_does_not_flood(
    kind: type[io.StringIO], most: int, training: Training, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A log file gets a line in 15 seconds, a terminal a few in a second, however fast the steps are."""
    stream = kind()
    monkeypatch.setattr("sys.stderr", stream)
    progress = Progress(50 * UPDATE)  # 200 steps
    training.agent.learn(50 * UPDATE, progress)
    progress.close()
    assert 1 <= stream.getvalue().count("\r") <= most
    assert stream.getvalue().endswith("\n")
    assert stream.getvalue().count("\n") == 1


def test_progress_shows_where_a_run_stands(training: Training, monkeypatch: pytest.MonkeyPatch) -> None:
    """A resumed run's bar begins where it was stopped, and shows the mean return."""
    stream = io.StringIO()
    monkeypatch.setattr("sys.stderr", stream)
    training.agent.num_timesteps = 300
    progress = Progress(400)
    training.agent.learn(100, progress, reset_num_timesteps=False)
    progress.close()
    first, *_, last = stream.getvalue().strip().split("\r")
    assert first.startswith("75%")
    assert "300/400" in first
    assert "return 7.0" in last  # one for each step of an episode


def test_a_bar_that_never_began_closes(capsys: pytest.CaptureFixture[str]) -> None:
    """What fails before training must not be hidden by a second failure."""
    Progress(100).close()
    assert capsys.readouterr().err == ""


# --------------------------------------------------------------------------------------------------- checkpoints


def test_checkpoints_come_every_so_many_minutes(training: Training, monkeypatch: pytest.MonkeyPatch) -> None:
    """At these minutes, between two updates, and at the end; and the two newest stay."""
    minutes = iter(range(1000))  # every look at the clock takes one
    monkeypatch.setattr("agents.callbacks.time", SimpleNamespace(monotonic=lambda: 60.0 * next(minutes)))
    saved: list[tuple[int, int]] = []
    save = A2C.save

    def spy(model: A2C, path: Path) -> None:
        saved.append((model.num_timesteps, model._n_updates))
        save(model, path)

    monkeypatch.setattr(A2C, "save", spy)
    training.agent.learn(10 * UPDATE, Checkpoint(training.folder, minutes=3, seed=9))
    assert saved == [(updates * UPDATE, updates) for updates in (2, 5, 8, 10)]
    assert [path.stem for path in training.folder.checkpoints()] == [f"model_{10 * UPDATE}", f"model_{8 * UPDATE}"]
    assert A2C.load(training.folder.checkpoints()[0], device="cpu")._n_updates == 10


def test_a_checkpoint_that_cannot_be_written(training: Training) -> None:
    (training.folder.path / "checkpoints").rmdir()
    (training.folder.path / "checkpoints").write_text("")
    with pytest.raises(CheckpointError, match=r"cannot write .*checkpoints/model_60\.zip"):
        training.run()


# ---------------------------------------------------------------------------------------------------- best model


def scripted(returns: list[float], monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Evaluations that give these returns; what each was asked for: episodes and seed."""
    asked = []
    left = iter(returns)

    def evaluate(policy: RecurrentPolicy, env: VecEnv, episodes: int, seed: int) -> Evaluation:
        asked.append((episodes, seed))
        mean = next(left)
        return Evaluation(np.array([mean - 1, mean + 1]), np.array([7, 7]), [{}, {}])

    monkeypatch.setattr("agents.callbacks.evaluate", evaluate)
    return asked


def best_model(folder: RunFolder, interval: int) -> BestModel:
    return BestModel(folder, make_envs(ENVIRONMENT, 2), interval, episodes=2, seed=1_000_000)


def test_the_best_model_is_kept(training: Training, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not the last, and always judged on the same games."""
    asked = scripted([1.0, 3.0, 3.0, 2.0], monkeypatch)
    training.agent.learn(9 * UPDATE, best_model(training.folder, interval=2 * UPDATE))
    assert asked == [(2, 1_000_000)] * 4
    figures = json.loads(training.folder.best_evaluation.read_text())
    assert figures == {
        "steps": 4 * UPDATE,  # the first with a return of 3
        "episodes": 2,
        "mean_return": 3.0,
        "standard_error": 1.0,
        "mean_length": 7.0,
    }
    assert A2C.load(training.folder.best_model, device="cpu").num_timesteps == 4 * UPDATE


def test_a_resumed_run_remembers_its_best(training: Training, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that is worse than what the run has reached before must not replace it."""
    scripted([5.0, 4.0, 6.0], monkeypatch)
    interval = 2 * UPDATE
    steps = []
    for updates in (3, 2, 2):  # evaluated at 2, 4 and 6 updates
        training.agent.learn(updates * UPDATE, best_model(training.folder, interval), reset_num_timesteps=False)
        steps.append(json.loads(training.folder.best_evaluation.read_text())["steps"] // UPDATE)
    assert steps == [2, 2, 6]


def test_the_last_model_may_be_the_best(training: Training, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = scripted([1.0, 2.0], monkeypatch)
    training.agent.learn(4 * UPDATE, best_model(training.folder, interval=2 * UPDATE))
    assert len(asked) == 2
    assert A2C.load(training.folder.best_model, device="cpu").num_timesteps == 4 * UPDATE


def test_evaluations_come_at_multiples_of_the_interval(training: Training, monkeypatch: pytest.MonkeyPatch) -> None:
    """A resumed run goes on in the same rhythm."""
    asked = scripted([0.0] * 9, monkeypatch)
    training.agent.num_timesteps = 100
    training.agent.learn(4 * UPDATE, best_model(training.folder, interval=60), reset_num_timesteps=False)
    assert len(asked) == 1  # at 120, the next would be at 180


# ---------------------------------------------------------------------------------------------------------- runs


def test_a_run_from_beginning_to_end(training: Training) -> None:
    evaluation = training.run()
    assert evaluation is not None
    assert training.agent.num_timesteps == 5 * UPDATE
    assert evaluation.returns.tolist() == [7.0] * 5
    folder = training.folder
    assert json.loads(folder.evaluation.read_text())["mean_return"] == 7.0
    assert folder.model.read_bytes() == folder.checkpoint(5 * UPDATE).read_bytes()
    assert not folder.best_model.exists()
    assert not folder.video.exists()


@pytest.mark.usefixtures("handlers")
def test_a_run_that_is_stopped(training: Training, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has a checkpoint but no final score, and resuming finishes it."""
    progress_step = Progress._on_step

    def signal_once(progress: Progress) -> bool:
        if progress.n_calls == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return progress_step(progress)

    with monkeypatch.context() as patch:
        patch.setattr(Progress, "_on_step", signal_once)
        assert training.run() is None
    assert training.agent.num_timesteps == UPDATE
    assert [path.stem for path in training.folder.checkpoints()] == [f"model_{training.agent.num_timesteps}"]
    assert not training.folder.evaluation.exists()

    resumed = Training.resume(training.config, training.folder)
    assert resumed.agent.num_timesteps == training.agent.num_timesteps
    assert resumed.run() is not None
    assert 5 * UPDATE <= resumed.agent.num_timesteps < 6 * UPDATE


def test_resuming_plays_new_games_and_can_be_repeated(training: Training) -> None:
    """With the run's own seed the agent would be trained again on the games it began with."""

    def first_games(run: Training) -> np.ndarray:
        assert run.agent.env is not None
        observation = run.agent.env.reset()
        assert isinstance(observation, dict)
        return observation["observation"]

    begun = first_games(Training.start(training.config, training.folder.path.with_name("other")))
    np.testing.assert_array_equal(first_games(training), begun)
    training.agent.save(training.folder.checkpoint(0))
    resumed = first_games(Training.resume(training.config, training.folder))
    np.testing.assert_array_equal(first_games(Training.resume(training.config, training.folder)), resumed)
    training.agent.num_timesteps = 1
    training.agent.save(training.folder.checkpoint(1))
    later = first_games(Training.resume(training.config, training.folder))
    assert not np.isclose(begun, resumed).any()
    assert not np.isclose(later, resumed).any()


def test_resuming_restores_the_optimizer(training: Training) -> None:
    """Without Adam's moments the first updates after a resume would be wild."""
    training.run()
    resumed = Training.resume(training.config, training.folder)
    states = [agent.learner.optimizer.state_dict()["state"] for agent in (training.agent, resumed.agent)]
    assert states[0].keys() == states[1].keys()
    for index, state in states[0].items():
        assert state["step"] == states[1][index]["step"] == 5
        assert state["exp_avg_sq"].equal(states[1][index]["exp_avg_sq"])


def test_nothing_is_written_unless_all_parts_can_be_made(tmp_path: Path) -> None:
    """A run that could never begin leaves no folder that is in the way of the next try."""
    bad = AgentRun(environment=ENVIRONMENT, policy=PolicyConfig(core_kwargs={"mem_slots": 0}), device="cpu")
    with pytest.raises(ValueError, match="mem_slots"):
        Training.start(bad, tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_a_run_without_a_checkpoint_cannot_be_resumed(training: Training) -> None:
    with pytest.raises(RunFolderError, match="no checkpoint to go on from: it was stopped before its first one"):
        Training.resume(training.config, training.folder)


def test_devices() -> None:
    check_device("auto")
    check_device("cpu")
    for name in ("abacus", "meta", "cuda:99"):
        with pytest.raises(ValueError, match=f"device must be .*, got '{name}'"):
            check_device(name)

"""A replica's progress file: what it brings back, what it refuses, and where there is none."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from stable_baselines3.common.callbacks import BaseCallback

from agents import A2C
from agents.callbacks import Checkpoint
from agents.progress import restore_progress, save_progress, why_no_progress
from rmc_rl.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from rmc_rl.run_folder import RunFolder

NUM_ENVS, UNROLL, SEED = 3, 4, 5
UPDATE = NUM_ENVS * UNROLL
GAME = {"frame_cap": 6}  # episodes end in mid-unroll


class SaveAt(BaseCallback):
    """Saves model and progress before an update."""

    def __init__(self, folder: Path, update: int) -> None:
        super().__init__()
        self.folder, self.update = folder, update

    def _on_rollout_start(self) -> None:
        assert isinstance(self.model, A2C)
        if self.model._n_updates == self.update:
            self.model.save(self.folder / "model.zip")
            save_progress(self.folder / "progress.zip", self.model, SEED)

    def _on_step(self) -> bool:
        return True


def agent(env: Any = "envs:MiniPacman-v0", n_envs: int = NUM_ENVS) -> A2C:
    sizes: dict[str, Any] = {"core_kwargs": {"hidden_size": 6}, "embedding_size": 7}
    game = {} if env == "CartPole-v1" else GAME
    settings: dict[str, Any] = {"env_kwargs": game, "policy_kwargs": sizes, "unroll_length": UNROLL, "seed": SEED}
    return A2C("LSTMPolicy", env, n_envs, device="cpu", **settings)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model and its progress after 5 updates. Not to be changed."""
    folder = tmp_path_factory.mktemp("saved")
    agent().learn(9 * UPDATE, SaveAt(folder, 5))
    return folder


def loaded(saved: Path, **settings: Any) -> A2C:
    return A2C.load(saved / "model.zip", "envs:MiniPacman-v0", device="cpu", env_kwargs=GAME, **settings)


def test_where_the_agent_stood_comes_back(saved: Path) -> None:
    """The next unroll is the one that the saved agent played: in a game, a core state and a draw that go on."""
    unrolls = []
    for _ in range(2):
        torch.manual_seed(17)  # others that have drawn meanwhile
        model = loaded(saved)
        restore_progress(saved / "progress.zip", model, SEED)
        model.learn(UPDATE, reset_num_timesteps=False)
        assert model._actor is not None
        unrolls.append(model._actor.trajectory)
    whole = agent()
    whole.learn(6 * UPDATE)
    assert whole._actor is not None
    expected = whole._actor.trajectory
    assert not expected.starts[0].any()  # in mid-episode
    for unroll in unrolls:
        assert unroll.actions.equal(expected.actions)
        assert unroll.rewards.equal(expected.rewards)
        assert unroll.starts.equal(expected.starts)
        assert isinstance(unroll.observations, torch.Tensor)
        assert unroll.observations.equal(expected.observations)
        for leaf, leaf_of_whole in zip(unroll.initial_state, expected.initial_state, strict=True):
            assert leaf.equal(leaf_of_whole)
            assert leaf.any()


def test_returns_in_the_log_go_on(saved: Path) -> None:
    whole = agent().learn(5 * UPDATE)
    model = loaded(saved)
    restore_progress(saved / "progress.zip", model, SEED)
    assert whole.ep_info_buffer
    assert model.ep_info_buffer is not None
    assert [episode["r"] for episode in model.ep_info_buffer] == [episode["r"] for episode in whole.ep_info_buffer]
    assert model.ep_info_buffer.maxlen == whole.ep_info_buffer.maxlen


def test_the_model_is_written_when_the_progress_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed between the two, a run must find the checkpoint before: what has no model is none, and is swept away."""
    folder = RunFolder.create(tmp_path / "run", "seed: 5")
    save = A2C.save

    def spy(model: A2C, path: Path) -> None:
        assert folder.progress(model.num_timesteps, 0).exists()
        if model.num_timesteps == 3 * UPDATE:
            raise KeyboardInterrupt
        save(model, path)

    monkeypatch.setattr(A2C, "save", spy)
    with pytest.raises(KeyboardInterrupt):
        agent().learn(9 * UPDATE, Checkpoint(folder, minutes=0, seed=SEED))
    assert [path.stem for path in folder.checkpoints()] == [f"model_{2 * UPDATE}", f"model_{UPDATE}"]
    folder.drop_old_checkpoints()
    progress = [folder.progress(updates * UPDATE, 0) for updates in (1, 2)]
    assert sorted((tmp_path / "run" / "checkpoints").glob("progress_*")) == progress


def with_position(change: Callable[[dict[str, Any]], None]) -> Callable[[dict[str, Any], dict[str, Any]], None]:
    return lambda data, tensors: change(data["parts"]["agent"]["dict"]["actor"]["dict"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data, tensors: data["run"].update(seed=6), "seed was 6, and is 5"),
        (lambda data, tensors: data["run"].update(replicas=2), "replicas was 2, and is 1"),
        (lambda data, tensors: data["run"].update(steps=1), f"steps was 1, and is {5 * UPDATE}"),
        (lambda data, tensors: data.pop("run"), "run"),
        (lambda data, tensors: data["parts"].pop("envs"), "envs"),
        (lambda data, tensors: tensors.pop("random/0"), "not a snapshot"),
        (lambda data, tensors: tensors.update({"agent/0": torch.zeros(2)}), r"position must be .*float32 \(2,\)"),
        (with_position(lambda position: position.pop("starts")), "position must be"),
        (with_position(lambda position: position.update(state=None)), "position must be .*None"),
    ],
)
def test_what_does_not_fit_is_named(change: Any, message: str, saved: Path, tmp_path: Path) -> None:
    data, tensors = load_checkpoint(saved / "progress.zip", "progress")
    change(data, tensors)
    save_checkpoint(tmp_path / "progress.zip", "progress", data, tensors)
    with pytest.raises(CheckpointError, match=rf"cannot go on from .*progress\.zip: .*{message}"):
        restore_progress(tmp_path / "progress.zip", loaded(saved), SEED)


def test_another_number_of_environments(saved: Path) -> None:
    with pytest.raises(CheckpointError, match="position must be"):
        restore_progress(saved / "progress.zip", loaded(saved, n_envs=2), SEED)


def test_environments_without_a_snapshot_have_no_progress(saved: Path, tmp_path: Path) -> None:
    """No file at all, rather than one that is not exact; and the reason can be told."""
    model = agent("CartPole-v1")
    model.learn(2 * UPDATE, SaveAt(tmp_path, 1))
    assert (tmp_path / "model.zip").exists()
    assert not (tmp_path / "progress.zip").exists()
    assert why_no_progress(model) == "CartPoleEnv has no get_state and set_state"
    model = loaded(saved)
    model.learn(UPDATE)
    assert why_no_progress(model) is None

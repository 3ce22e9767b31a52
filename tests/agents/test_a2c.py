"""A2C as a Stable-Baselines3 algorithm: whatever works with SB3 works with it."""

import csv
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from stable_baselines3 import PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import (
    BaseCallback,
    CheckpointCallback,
    EvalCallback,
    StopTrainingOnMaxEpisodes,
)
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.logger import configure
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor, VecNormalize
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor

from agents import A2C
from agents.hyperparameters import Hyperparameters
from agents.trajectory import Trajectory
from benchmarks.recall import CUES, Recall
from rmc_rl.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from rmc_rl.normalizer import read_statistics
from rmc_rl.policies import POLICIES, GRUPolicy, LSTMPolicy, RecurrentPolicy, RMCPolicy
from rmc_rl.vec_env import make_vec_env

SMALL: dict[str, Any] = {"core_kwargs": {"hidden_size": 7}, "embedding_size": 6}
N_ENVS, UNROLL = 3, 5
UPDATE = N_ENVS * UNROLL  # steps per update


def build(env: Any = Recall, n_envs: int = N_ENVS, policy: Any = "GRUPolicy", **kwargs: Any) -> A2C:
    kwargs = {"policy_kwargs": SMALL, "unroll_length": UNROLL, "seed": 0, **kwargs}
    return A2C(policy, env, n_envs, **kwargs)


def weights(model: A2C) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.policy.state_dict().items()}


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    assert a.keys() == b.keys()
    return all(torch.equal(tensor, b[name]) for name, tensor in a.items())


def observations(model: A2C, count: int = 4) -> Any:
    model.observation_space.seed(0)
    return np.stack([model.observation_space.sample() for _ in range(count)])


# Learning


@pytest.mark.parametrize("policy", POLICIES)
def test_learns_with_every_policy(policy: str) -> None:
    special = {"RMCPolicy": {"mem_slots": 2, "head_size": 3}, "DNCPolicy": {"memory_size": 4}, "FeedForwardPolicy": {}}
    policy_kwargs = {"core_kwargs": special.get(policy, {"hidden_size": 7}), "embedding_size": 6}
    core = {"core": "gru"} if policy == "RecurrentPolicy" else {}
    model = build(policy=policy, policy_kwargs=policy_kwargs | core)
    assert isinstance(model, BaseAlgorithm)
    before = weights(model)
    assert model.learn(4 * UPDATE) is model
    assert (model.num_timesteps, model._n_updates) == (4 * UPDATE, 4)
    after = weights(model)
    assert all(not torch.equal(after[name], before[name]) for name in before if "weight" in name)
    action, state = model.predict(observations(model, 1)[0])
    assert model.action_space.contains(action.item())
    assert isinstance(state, tuple)


def test_learns_for_at_least_the_steps_asked_for() -> None:
    assert build().learn(UPDATE + 1).num_timesteps == 2 * UPDATE


@pytest.mark.parametrize("policy", [RMCPolicy, LSTMPolicy, GRUPolicy])
def test_policies_by_class_and_by_name_are_the_same(policy: type[RecurrentPolicy]) -> None:
    by_class = build(policy=policy, policy_kwargs={"embedding_size": 6})
    by_name = build(policy=policy.__name__, policy_kwargs={"embedding_size": 6})
    assert type(by_class.policy) is type(by_name.policy) is policy
    assert equal(weights(by_class), weights(by_name))


def test_policy_aliases_are_the_policies() -> None:
    assert A2C.policy_aliases == POLICIES


@pytest.fixture
def recall_id() -> Any:
    gym.register("Recall-v0", Recall)
    yield "Recall-v0"
    gym.registry.pop("Recall-v0")


def sync() -> SyncVectorEnv:
    return SyncVectorEnv([Recall] * N_ENVS, autoreset_mode=AutoresetMode.SAME_STEP)


def test_environments_of_every_kind_are_the_same(recall_id: str) -> None:
    """An id, a callable, a Gymnasium vector environment and a VecEnv: the same seed gives the same parameters."""
    trained = [
        weights(build(env, n_envs).learn(5 * UPDATE))
        for env, n_envs in [
            (recall_id, N_ENVS),
            (Recall, N_ENVS),
            (sync(), 1),
            (DummyVecEnv([Recall] * N_ENVS), 1),
            (VecMonitor(DummyVecEnv([Recall] * N_ENVS)), 1),
        ]
    ]
    assert all(equal(trained[0], other) for other in trained[1:])


def test_one_environment_made_already() -> None:
    assert build(Recall(), n_envs=1).learn(2 * UNROLL).num_timesteps == 2 * UNROLL


def test_arguments_of_environments(recall_id: str) -> None:
    for env in (recall_id, Recall):
        model = build(env, env_kwargs={"delay": 5}).learn(4 * UPDATE)
        assert {episode["l"] for episode in model.ep_info_buffer} == {6}  # type: ignore[union-attr]


def test_previous_action_and_reward_are_observed_on_request() -> None:
    model = build(previous_action_reward=True).learn(2 * UPDATE)
    assert set(model.observation_space) == {"observation", "previous_action", "previous_reward"}  # type: ignore[call-overload]


def test_same_seed_same_parameters() -> None:
    """And another seed other parameters, from the start and after training; whatever was drawn before."""
    models = []
    for seed in (1, 1, 2):
        torch.rand(len(models))
        models.append(build(seed=seed))
        models[-1].initial = weights(models[-1])  # type: ignore[attr-defined]
        models[-1].learn(5 * UPDATE)
    one, same, other = models
    assert equal(one.initial, same.initial)  # type: ignore[attr-defined]
    assert not equal(one.initial, other.initial)  # type: ignore[attr-defined]
    assert equal(weights(one), weights(same))
    assert not equal(weights(one), weights(other))


def test_learning_goes_on_without_a_reset() -> None:
    """Two calls in a row train as one does: episodes, states and counters go on."""
    once = build().learn(4 * UPDATE)
    twice = build().learn(2 * UPDATE).learn(2 * UPDATE, reset_num_timesteps=False)
    assert twice.num_timesteps == 4 * UPDATE
    assert equal(weights(twice), weights(once))


def test_learning_again_starts_afresh() -> None:
    """With the first observations of new episodes, though the last ones were not over."""
    model = build().learn(2 * UPDATE)
    firsts = []

    def keep(local_variables: dict[str, Any], _: dict[str, Any]) -> bool:
        assert model._actor is not None
        trajectory = model._actor.trajectory
        firsts.append((trajectory.observations[0].clone(), trajectory.starts[0].clone()))  # type: ignore[index]
        return True

    model.learn(3 * UPDATE, callback=keep)
    assert (model.num_timesteps, model._n_updates) == (3 * UPDATE, 5)
    observation, starts = firsts[0]
    assert starts.all()
    assert (observation.argmax(dim=-1) < CUES).all()  # the cue, which only the first observation shows


def test_learning_rate_falls_linearly_to_zero(log_to_csv: Callable[[A2C], None], tmp_path: Path) -> None:
    model = build(learning_rate=0.5, learning_rate_schedule="linear", max_gradient_norm=1e-6)
    log_to_csv(model)
    model.learn(5 * UPDATE, log_interval=1)
    rates = [float(row["train/learning_rate"]) for row in read_csv(tmp_path)]
    np.testing.assert_allclose(rates, [0.4, 0.3, 0.2, 0.1, 0.0], atol=1e-6)
    assert model.learner.optimizer.param_groups[0]["lr"] == pytest.approx(0.0, abs=1e-9)


def test_learning_rate_stays_by_default() -> None:
    model = build(learning_rate=3e-3).learn(3 * UPDATE)
    assert model.learner.optimizer.param_groups[0]["lr"] == 3e-3


def test_learning_rate_is_never_negative() -> None:
    """Also when the last unroll goes beyond the steps asked for."""
    model = build(learning_rate_schedule="linear").learn(UPDATE + 1)
    assert model.learner.optimizer.param_groups[0]["lr"] == 0.0


@pytest.mark.parametrize(("schedule", "expected"), [("linear", [0.6, 0.4, 0.2, 0.0]), ("constant", [0.8] * 4)])
def test_entropy_cost_follows_its_schedule(
    schedule: str, expected: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build(entropy_cost=0.8, entropy_cost_schedule=schedule)
    loss, costs = model.learner.loss, []

    def record(*batch: Any) -> Any:
        total, parts = loss(*batch)
        others = parts["policy_loss"] + model.hyperparameters.value_cost * parts["value_loss"]
        costs.append((total.detach() - others) / parts["entropy_loss"])
        return total, parts

    monkeypatch.setattr(model.learner, "loss", record)
    model.learn(4 * UPDATE)
    np.testing.assert_allclose(costs, expected, atol=1e-5)


# Callbacks


def test_callbacks_are_called_in_order() -> None:
    """Once per vector step, with Stable-Baselines3's local variables."""
    calls: list[str] = []

    class Record(BaseCallback):
        def _on_training_start(self) -> None:
            assert self.locals["total_timesteps"] == 2 * UPDATE
            calls.append("training start")

        def _on_rollout_start(self) -> None:
            calls.append("rollout start")

        def _on_step(self) -> bool:
            assert self.locals["rewards"].shape == self.locals["dones"].shape == (N_ENVS,)
            assert len(self.locals["infos"]) == N_ENVS
            assert self.num_timesteps == self.n_calls * N_ENVS
            calls.append("step")
            return True

        def _on_rollout_end(self) -> None:
            calls.append("rollout end")

        def _on_training_end(self) -> None:
            calls.append("training end")

    build().learn(2 * UPDATE, callback=Record())
    one_rollout = ["rollout start", *["step"] * UNROLL, "rollout end"]
    assert calls == ["training start", *one_rollout, *one_rollout, "training end"]


def test_a_callable_stops_training() -> None:
    """Before the next update; learning can go on afterwards."""
    model = build()
    before = weights(model)
    model.learn(10 * UPDATE, callback=lambda local_variables, _: model.num_timesteps < 2 * N_ENVS)
    assert model.num_timesteps == 2 * N_ENVS
    assert equal(weights(model), before)
    model.learn(UPDATE, reset_num_timesteps=False)
    assert model.num_timesteps == 2 * N_ENVS + UPDATE
    assert not equal(weights(model), before)


def test_stop_after_a_number_of_episodes() -> None:
    model = build()
    model.learn(100 * UPDATE, callback=StopTrainingOnMaxEpisodes(2))  # per environment, of 4 steps each
    assert model.num_timesteps == 2 * 4 * N_ENVS


def test_evaluation_and_checkpoints(tmp_path: Path) -> None:
    """Several callbacks at once; what they save can be loaded."""
    evaluation = EvalCallback(
        make_vec_env(Recall, 2),
        n_eval_episodes=4,
        eval_freq=2 * UNROLL,
        log_path=str(tmp_path),
        best_model_save_path=str(tmp_path),
        verbose=0,
    )
    checkpoints = CheckpointCallback(2 * UNROLL, str(tmp_path), name_prefix="a2c")
    model = build().learn(4 * UPDATE, callback=[evaluation, checkpoints])
    saved = np.load(tmp_path / "evaluations.npz")
    assert saved["timesteps"].tolist() == [2 * UPDATE, 4 * UPDATE]
    assert saved["results"].shape == (2, 4)
    assert 0.0 <= evaluation.best_mean_reward <= 1.0
    last, best = A2C.load(tmp_path / f"a2c_{4 * UPDATE}_steps.zip"), A2C.load(tmp_path / "best_model")
    assert last.num_timesteps == 4 * UPDATE
    assert best.num_timesteps in (2 * UPDATE, 4 * UPDATE)
    # The callback ran before the last update.
    assert last._n_updates == model._n_updates - 1


def test_evaluation_by_sb3() -> None:
    model = build().learn(UPDATE)
    mean, deviation = evaluate_policy(model, make_vec_env(Recall, 2), n_eval_episodes=6)
    assert 0.0 <= mean <= 1.0
    assert 0.0 <= deviation <= 0.5


@pytest.mark.filterwarnings("ignore:rich is experimental:tqdm.TqdmExperimentalWarning")  # Stable-Baselines3's bar
def test_progress_bar() -> None:
    assert build().learn(3 * UPDATE, progress_bar=True).num_timesteps == 3 * UPDATE


# The log


LOGGED = {
    "rollout/ep_rew_mean",
    "rollout/ep_len_mean",
    "time/fps",
    "train/entropy_loss",
    "train/policy_loss",
    "train/value_loss",
    "train/explained_variance",
    "train/learning_rate",
}
LOGGED_AS_TEXT = {"time/iterations", "time/time_elapsed", "time/total_timesteps", "train/n_updates"}


@pytest.fixture
def log_to_csv(tmp_path: Path) -> Iterator[Callable[[A2C], None]]:
    """Makes a model log to `progress.csv` in the test's folder, closed at the end."""
    logger = configure(str(tmp_path), ["csv"])
    yield lambda model: model.set_logger(logger)
    logger.close()


def read_csv(folder: Path) -> list[dict[str, str]]:
    with (folder / "progress.csv").open() as file:
        return list(csv.DictReader(file))


def test_names_in_csv(log_to_csv: Callable[[A2C], None], tmp_path: Path) -> None:
    """Those of Stable-Baselines3, every `log_interval` updates."""
    model = build()
    log_to_csv(model)
    model.learn(6 * UPDATE, log_interval=2)
    rows = read_csv(tmp_path)
    assert rows[0].keys() >= LOGGED | LOGGED_AS_TEXT
    assert [int(row["time/iterations"]) for row in rows] == [2, 4, 6]
    assert [int(row["train/n_updates"]) for row in rows] == [2, 4, 6]
    assert [int(row["time/total_timesteps"]) for row in rows] == [2 * UPDATE, 4 * UPDATE, 6 * UPDATE]
    for row in rows:
        assert float(row["rollout/ep_len_mean"]) == 4.0
        assert 0.0 <= float(row["rollout/ep_rew_mean"]) <= 1.0
        assert -np.log(CUES) - 1e-5 <= float(row["train/entropy_loss"]) < 0.0
        assert int(row["time/fps"]) > 0


def test_names_in_tensorboard(tmp_path: Path) -> None:
    build(tensorboard_log=str(tmp_path)).learn(4 * UPDATE, log_interval=2, tb_log_name="run")
    (folder,) = tmp_path.iterdir()
    assert folder.name == "run_1"
    events = EventAccumulator(str(folder)).Reload()
    assert set(events.Tags()["scalars"]) >= LOGGED
    assert [event.step for event in events.Scalars("rollout/ep_rew_mean")] == [2 * UPDATE, 4 * UPDATE]


def test_names_on_the_screen(capsys: pytest.CaptureFixture[str]) -> None:
    build(verbose=1).learn(2 * UPDATE, log_interval=2)
    printed = capsys.readouterr().out
    for name in LOGGED | LOGGED_AS_TEXT:
        assert f" {name.split('/')[1]} " in printed, name
    build(verbose=0).learn(2 * UPDATE, log_interval=2)
    assert capsys.readouterr().out == ""


def test_no_episode_has_ended_yet(log_to_csv: Callable[[A2C], None], tmp_path: Path) -> None:
    model = build(env_kwargs={"delay": 99})
    log_to_csv(model)
    model.learn(UPDATE, log_interval=1)
    assert "rollout/ep_rew_mean" not in read_csv(tmp_path)[0]


def test_returns_in_the_log_are_not_scaled() -> None:
    model = build(reward_scale=0.125, entropy_cost=0.0).learn(20 * UPDATE)
    assert {episode["r"] for episode in model.ep_info_buffer} == {0.0, 1.0}  # type: ignore[union-attr]


# Other environments


def test_set_env() -> None:
    model = build().learn(UPDATE)
    model.set_env(DummyVecEnv([lambda: Recall(delay=6)] * N_ENVS))
    model.learn(4 * UPDATE)
    assert {episode["l"] for episode in model.ep_info_buffer} == {7}  # type: ignore[union-attr]
    with pytest.raises(ValueError, match="Observation spaces do not match"):
        model.set_env(DummyVecEnv([lambda: gym.make("CartPole-v1")] * N_ENVS))


def test_normalized_observations_and_rewards() -> None:
    env = VecNormalize(VecMonitor(DummyVecEnv([Recall] * N_ENVS)), gamma=0.9)
    model = build(env, n_envs=1)
    assert model.get_vec_normalize_env() is env
    model.learn(20 * UPDATE)
    assert {episode["r"] for episode in model.ep_info_buffer} == {0.0, 1.0}  # type: ignore[union-attr]
    assert env.obs_rms.count > 20 * UPDATE  # type: ignore[union-attr]
    np.testing.assert_array_equal(model._actor.observation, model._last_obs)  # type: ignore[union-attr, arg-type]


class Counts(gym.Env[np.ndarray, int]):
    """Observations of whole numbers."""

    observation_space = gym.spaces.Box(0, 100, (3,), np.int64)
    action_space = gym.spaces.Discrete(2)

    def reset(self, **kwargs: Any) -> tuple[np.ndarray, dict[str, Any]]:
        return np.array([1, 2, 3]), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        return np.array([1, 2, 3]), 0.0, False, False, {}


def test_integers_that_are_normalized_are_refused() -> None:
    """They would be cut off, as the space is one of integers."""
    with pytest.raises(ValueError, match="observation must be int64, as its space says, got float32: if VecNormalize"):
        build(VecNormalize(VecMonitor(DummyVecEnv([Counts] * N_ENVS))), n_envs=1).learn(UPDATE)


def test_a_model_keeps_what_normalizes_its_observations(tmp_path: Path) -> None:
    """Without the statistics, a loaded policy would see other numbers than those it has learned from."""

    def normalized(**settings: Any) -> VecNormalize:
        return VecNormalize(VecMonitor(DummyVecEnv([Recall] * N_ENVS)), **settings)

    env, again = normalized(), normalized()
    build(env, n_envs=1).learn(20 * UPDATE).save(tmp_path / "model")
    A2C.load(tmp_path / "model").save(tmp_path / "model")  # where there is no normaliser, they are kept for later
    A2C.load(tmp_path / "model", again)
    statistics = read_statistics(env)
    assert statistics["returns"]["count"] > 20 * UPDATE
    np.testing.assert_equal(read_statistics(again), statistics)
    with pytest.raises(CheckpointError, match=r"model: the statistics do not fit env's normaliser: statistics must be"):
        A2C.load(tmp_path / "model", normalized(norm_obs=False))
    tamper(tmp_path / "model.zip", lambda data, tensors: data.update(statistics=[3]))
    with pytest.raises(CheckpointError, match=r"the statistics do not fit"):
        A2C.load(tmp_path / "model.zip", normalized())


def test_continuous_actions() -> None:
    model = A2C("GRUPolicy", "Pendulum-v1", 2, policy_kwargs=SMALL, unroll_length=4, seed=0).learn(24)
    actions, _ = model.predict(observations(model))
    assert actions.shape == (4, 1)
    assert (np.abs(actions) <= 2).all()


# Saving and loading


def trained(**kwargs: Any) -> A2C:
    return build(learning_rate=7e-3, discount=0.8, **kwargs).learn(4 * UPDATE)


def test_a_loaded_model_is_the_same(tmp_path: Path) -> None:
    """Predictions, parameters, optimizer, counters, hyperparameters; and again after saving it once more."""
    model = trained(learning_rate_schedule="linear")
    path = tmp_path / "model"
    for _ in range(2):
        model.save(path)
        loaded = A2C.load(path)
        assert type(loaded.policy) is GRUPolicy
        assert equal(weights(loaded), weights(model))
        assert loaded.hyperparameters == model.hyperparameters
        assert (loaded.n_envs, loaded.seed) == (N_ENVS, 0)
        assert (loaded.num_timesteps, loaded._n_updates) == (4 * UPDATE, 4)
        assert loaded.observation_space == model.observation_space
        seen = observations(model)
        actions, state = model.predict(seen, deterministic=True)
        same_actions, same_state = loaded.predict(seen, deterministic=True)
        np.testing.assert_array_equal(actions, same_actions)
        np.testing.assert_array_equal(state, same_state)
        ours, theirs = (m.learner.optimizer.state_dict()["state"] for m in (model, loaded))
        assert ours.keys() == theirs.keys()
        assert len(ours) == len(list(model.policy.parameters()))
        for place, state_of_one in ours.items():
            assert {name: tensor.tolist() for name, tensor in state_of_one.items()} == {
                name: tensor.tolist() for name, tensor in theirs[place].items()
            }
        model = loaded


def copy_of(trajectory: Trajectory) -> Trajectory:
    return pickle.loads(pickle.dumps(trajectory))


def test_learning_goes_on_as_if_nothing_had_happened(tmp_path: Path) -> None:
    """One more update on the same unroll gives the same parameters as without saving and loading."""
    model = trained()
    assert model._actor is not None
    trajectory = model._actor.unroll(lambda *step: True)
    assert trajectory is not None
    trajectory = copy_of(trajectory)
    model.save(tmp_path / "model")
    loaded = A2C.load(tmp_path / "model", Recall)
    fresh = build(learning_rate=7e-3, discount=0.8)
    fresh.policy.load_state_dict(model.policy.state_dict())
    for any_model in (model, loaded, fresh):
        any_model.learner.update(trajectory)
    assert equal(weights(loaded), weights(model))
    assert not equal(weights(fresh), weights(model))  # without the optimizer's state


def test_a_loaded_model_learns_on(tmp_path: Path) -> None:
    trained().save(tmp_path / "model")
    loaded = A2C.load(tmp_path / "model", Recall)
    loaded.learn(2 * UPDATE, reset_num_timesteps=False)
    assert (loaded.num_timesteps, loaded._n_updates) == (6 * UPDATE, 6)
    again = A2C.load(tmp_path / "model", Recall)
    again.learn(2 * UPDATE)
    assert again.num_timesteps == 2 * UPDATE


def test_a_seed_for_a_loaded_model(tmp_path: Path) -> None:
    trained().save(tmp_path / "model")
    first, second, other = (A2C.load(tmp_path / "model", Recall, seed=seed).learn(UPDATE) for seed in (5, 5, 6))
    assert equal(weights(first), weights(second))
    assert not equal(weights(first), weights(other))


@pytest.mark.parametrize(
    "make", [lambda: Recall, lambda: DummyVecEnv([Recall] * N_ENVS), sync, lambda: "benchmarks.recall:Recall-v0"]
)
def test_environments_for_a_loaded_model(make: Callable[[], Any], recall_id: str, tmp_path: Path) -> None:
    trained().save(tmp_path / "model")
    loaded = A2C.load(tmp_path / "model", make())
    assert loaded.env is not None
    assert loaded.env.num_envs == N_ENVS
    loaded.learn(UPDATE)


def test_another_number_of_environments_for_a_loaded_model(tmp_path: Path) -> None:
    trained().save(tmp_path / "model")
    for loaded, number in [
        (A2C.load(tmp_path / "model", DummyVecEnv([Recall] * 2)), 2),
        (A2C.load(tmp_path / "model", Recall, n_envs=5), 5),
    ]:
        assert loaded.n_envs == number
        assert loaded.learn(2 * UNROLL * number).num_timesteps == 2 * UNROLL * number


def test_previous_actions_and_arguments_for_a_loaded_model(tmp_path: Path) -> None:
    """Arguments of the constructor that make the environment work in `load` too."""
    build(previous_action_reward=True).save(tmp_path / "model")
    loaded = A2C.load(tmp_path / "model", Recall, previous_action_reward=True, env_kwargs={"delay": 5})
    loaded.learn(4 * UPDATE)
    assert {episode["l"] for episode in loaded.ep_info_buffer} == {6}  # type: ignore[union-attr]


def test_hyperparameters_can_be_changed_when_loading(tmp_path: Path) -> None:
    trained().save(tmp_path / "model")
    loaded = A2C.load(tmp_path / "model", Recall, learning_rate=1e-5, unroll_length=3)
    assert loaded.hyperparameters.discount == 0.8
    loaded.learn(2 * 3 * N_ENVS)
    assert loaded.learner.optimizer.param_groups[0]["lr"] == 1e-5
    assert loaded._n_updates == 4 + 2


def test_illegal_arguments_of_load_are_no_fault_of_the_file(tmp_path: Path) -> None:
    trained().save(tmp_path / "model")
    with pytest.raises(ValueError, match=r"^discount must be from 0 to 1, got 2"):
        A2C.load(tmp_path / "model", discount=2)
    with pytest.raises(TypeError, match="leraning_rate"):
        A2C.load(tmp_path / "model", leraning_rate=1e-5)
    with pytest.raises(ValueError, match="Observation spaces do not match"):
        A2C.load(tmp_path / "model", lambda: gym.make("CartPole-v1"))


def test_loading_without_an_environment_is_enough_to_predict(tmp_path: Path) -> None:
    model = trained()
    model.save(tmp_path / "model")
    loaded = A2C.load(tmp_path / "model")
    assert loaded.env is None
    evaluate_policy(loaded, make_vec_env(Recall, 2), 2)
    with pytest.raises(AssertionError):
        loaded.learn(UPDATE)


BIAS = "optimizer/network.value_head.bias"


def tamper(path: Path, change: Callable[[Any, Any], Any]) -> None:
    data, tensors = load_checkpoint(path, "model")
    change(data, tensors)
    save_checkpoint(path, "model", data, tensors)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data, tensors: data.update(algorithm="PPO"), "holds a 'PPO' model, not A2C"),
        (lambda data, tensors: data["policy"].update(policy="X"), "policy must be one of"),
        (lambda data, tensors: data.pop("counters"), "counters"),
        (lambda data, tensors: data["counters"].pop("num_timesteps"), "num_timesteps"),
        (lambda data, tensors: data["hyperparameters"].update(discount=2.0), "discount must be from 0 to 1"),
        (lambda data, tensors: data["hyperparameters"].update(no_such=2.0), "no_such"),
        (lambda data, tensors: data.pop("hyperparameters"), "hyperparameters"),
        (lambda data, tensors: tensors.pop("policy/network.value_head.bias"), "value_head.bias"),
        (
            lambda data, tensors: data["hyperparameters"].update(normalize_advantages="x"),
            "normalize_advantages must be bool",
        ),
        (
            lambda data, tensors: data["hyperparameters"].update(discount=True),
            "discount must be float or int, got True",
        ),
        (lambda data, tensors: data["hyperparameters"].update(optimizer=3), "optimizer must be str, got 3"),
        (lambda data, tensors: data.update(n_envs=0), "n_envs must be a whole number of at least 1, got 0"),
        (lambda data, tensors: data.update(n_envs=2.0), "n_envs must be a whole number of at least 1, got 2.0"),
        (lambda data, tensors: data.update(seed="x"), "seed must be a whole number of at least 0, got 'x'"),
        (lambda data, tensors: data["counters"].update(_n_updates=-1), "_n_updates must be .* at least 0, got -1"),
        (lambda data, tensors: data["counters"].update(_n_updates=True), "_n_updates must be .* at least 0, got True"),
        (lambda data, tensors: tensors.update(stray=torch.zeros(1)), r"tensors are unknown: \['stray'\]"),
        (
            lambda data, tensors: tensors.pop(f"{BIAS}:step"),
            r"value_head.bias must be \['exp_avg', 'exp_avg_sq', 'step'\]",
        ),
        (lambda data, tensors: tensors.update({f"{BIAS}:x": torch.zeros(1)}), r"value_head.bias must be .*got .*'x'"),
        (lambda data, tensors: tensors[f"{BIAS}:exp_avg"].fill_(torch.nan), "exp_avg must be finite"),
        (lambda data, tensors: tensors[f"{BIAS}:exp_avg_sq"].fill_(-1), "exp_avg_sq must be at least 0, got -1"),
        (lambda data, tensors: tensors.update({f"{BIAS}:exp_avg": torch.zeros(1).double()}), "must be torch.float32"),
        (
            lambda data, tensors: tensors.update({f"{BIAS}:step": torch.zeros(1)}),
            r"step must have shape \(\), got \(1,\)",
        ),
        (lambda data, tensors: tensors.update({"optimizer/nobody:exp_avg": torch.zeros(1)}), "nobody"),
        (
            lambda data, tensors: tensors.update({"optimizer/network.value_head.bias:exp_avg": torch.zeros(9)}),
            r"network.value_head.bias:exp_avg must have shape \(1,\)",
        ),
    ],
)
def test_damaged_models_are_named(change: Any, message: str, tmp_path: Path) -> None:
    path = tmp_path / "model.zip"
    trained().save(path)
    tamper(path, change)
    with pytest.raises(CheckpointError, match=rf"model\.zip: .*{message}"):
        A2C.load(path)


def test_models_of_sb3_and_policies_are_refused(tmp_path: Path) -> None:
    """Nothing pickled is ever read; a policy alone is no model, and a model no policy."""
    PPO("MlpPolicy", gym.make("CartPole-v1"), policy_kwargs={"net_arch": [4]}, device="cpu").save(tmp_path / "ppo")
    with pytest.raises(CheckpointError, match=r"ppo\.zip: .* pickled data"):
        A2C.load(tmp_path / "ppo")
    model = build()
    model.policy.save(tmp_path / "policy")
    with pytest.raises(CheckpointError, match="holds 'policy', not 'model'"):
        A2C.load(tmp_path / "policy")
    model.save(tmp_path / "model")
    with pytest.raises(CheckpointError, match="holds 'model', not 'policy'"):
        RecurrentPolicy.load(tmp_path / "model")


# Refused arguments


@pytest.mark.parametrize(
    ("field", "value", "legal"),
    [
        ("unroll_length", 0, "at least 1"),
        ("unroll_length", -3, "at least 1"),
        ("unroll_length", 2.5, "whole number"),
        ("unroll_length", True, "whole number"),
        ("learning_rate", 0.0, "above 0"),
        ("learning_rate", -1e-3, "above 0"),
        ("learning_rate", np.inf, "above 0"),
        ("learning_rate", np.nan, "above 0"),
        ("learning_rate_schedule", "cosine", "'constant' or 'linear'"),
        ("discount", -0.1, "from 0 to 1"),
        ("discount", 1.1, "from 0 to 1"),
        ("discount", np.nan, "from 0 to 1"),
        ("gae_lambda", -0.1, "from 0 to 1"),
        ("gae_lambda", 1.5, "from 0 to 1"),
        ("reward_scale", 0.0, "above 0"),
        ("reward_scale", np.inf, "above 0"),
        ("entropy_cost", -0.01, "at least 0"),
        ("entropy_cost", np.inf, "at least 0"),
        ("entropy_cost_schedule", "cosine", "'constant' or 'linear'"),
        ("value_cost", -0.5, "at least 0"),
        ("value_cost", np.nan, "at least 0"),
        ("max_gradient_norm", 0.0, "above 0"),
        ("max_gradient_norm", np.nan, "above 0"),
        ("max_gradient_norm", np.inf, "1e9 clips nothing"),
        ("rho_bar", np.inf, "1e9 clips nothing"),
        ("c_bar", np.inf, "1e9 clips nothing"),
    ],
)
def test_hyperparameters_out_of_range(field: str, value: Any, legal: str) -> None:
    """The message names field, value and range; before any environment is made."""
    with pytest.raises(ValueError, match=rf"{field} must be .*{legal}.*, got {value!r}"):
        build(lambda: pytest.fail("made an environment"), **{field: value})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("unroll_length", 1),
        ("discount", 0.0),
        ("discount", 1.0),
        ("gae_lambda", 0.0),
        ("gae_lambda", 1.0),
        ("entropy_cost", 0.0),
        ("value_cost", 0.0),
        ("max_gradient_norm", 1e9),
        ("rho_bar", 1e9),
        ("c_bar", 1e9),
    ],
)
def test_the_ends_of_the_ranges_are_legal(field: str, value: Any, tmp_path: Path) -> None:
    """They can be learned with, and saved."""
    model = build(**{field: value}).learn(2 * UPDATE)
    model.save(tmp_path / "model")
    assert getattr(A2C.load(tmp_path / "model").hyperparameters, field) == value
    assert all(tensor.isfinite().all() for tensor in model.policy.state_dict().values())


def test_unknown_hyperparameters() -> None:
    with pytest.raises(TypeError, match="gamma"):
        build(gamma=0.9)
    with pytest.raises(TypeError, match="n_steps"):
        Hyperparameters(n_steps=5)  # type: ignore[call-arg]


@pytest.mark.parametrize("policy", ["MlpPolicy", "rmc", "", None, 3, dict, torch.nn.Linear])
def test_unknown_policies(policy: Any) -> None:
    with pytest.raises(ValueError, match=r"policy must be one of \[.*'RMCPolicy'.*got "):
        build(policy=policy)


@pytest.mark.parametrize("n_envs", [0, -1, 2.5, True, "3"])
def test_number_of_environments(n_envs: Any) -> None:
    with pytest.raises(ValueError, match=f"n_envs must be a whole number of at least 1, got {n_envs!r}"):
        build(n_envs=n_envs)
    with pytest.raises(ValueError, match="n_envs must be left out or 3"):
        build(DummyVecEnv([Recall] * 3), n_envs=4)


@pytest.mark.parametrize(
    ("env", "message"),
    [
        ("NoSuch-v0", "env must be a registered id, got 'NoSuch-v0'"),
        (3, "env must be an id, a callable, .*, got 3"),
        (lambda: "no environment", "env must make one gymnasium.Env"),
    ],
)
def test_unknown_environments(env: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(env)


def test_unknown_arguments_of_the_policy() -> None:
    with pytest.raises(TypeError, match="net_arch"):
        build(policy_kwargs={"net_arch": [64]})
    with pytest.raises(ValueError, match="hidden_size must be a whole number"):
        build(policy_kwargs={"core_kwargs": {"hidden_size": 0}})

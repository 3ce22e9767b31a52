"""Our network in sb3-contrib's RecurrentPPO, which knows nothing of it: whatever works there works with it."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from sb3_contrib import TRPO, RecurrentPPO
from sb3_contrib.common.recurrent.type_aliases import RNNStates
from stable_baselines3 import A2C, DDPG, DQN, PPO, SAC
from stable_baselines3.common.callbacks import BaseCallback, CheckpointCallback, EvalCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor, VecNormalize

import agents
from benchmarks.recall import CUES, Recall
from rmc_rl import contrib, policies
from rmc_rl.cores import CORES, Core, RelationalMemory, State
from rmc_rl.masks import ActionMaskError
from rmc_rl.vec_env import make_vec_env
from rmc_rl.wrappers import ActionMasks
from tests.space_envs import ACTIONS, OBSERVATIONS, Anything, Masked

SMALL: dict[str, dict[str, Any]] = {
    "RMCPolicy": {"core_kwargs": {"mem_slots": 3, "head_size": 5, "num_heads": 2}},
    "LSTMPolicy": {"core_kwargs": {"hidden_size": 7}},
    "GRUPolicy": {"core_kwargs": {"hidden_size": 7}},
    "DeepLSTMPolicy": {"core_kwargs": {"hidden_size": 7, "num_layers": 3}},
    "DNCPolicy": {"core_kwargs": {"memory_size": 4, "word_size": 2, "num_reads": 3, "controller_size": 7}},
    "MinGRUPolicy": {"core_kwargs": {"hidden_size": 7}},
    "FeedForwardPolicy": {},
    "RecurrentPolicy": {"core": "rmc", "core_kwargs": {"mem_slots": 2, "head_size": 3}},
}
STATE_SIZES = {"RMCPolicy": 30, "LSTMPolicy": 14, "DNCPolicy": 68, "FeedForwardPolicy": 0, "RecurrentPolicy": 6}
N_ENVS, STEPS, BATCH = 3, 10, 13
"""Episodes of 4 steps begin in the midst of rollouts, and batches in the midst of episodes."""
every_policy = pytest.mark.parametrize("name", contrib.POLICIES)


class Truncated(Recall):
    """Cut off where Recall ends, so that RecurrentPPO asks for the value of the last observation."""

    def step(self, action: int) -> Any:
        observation, reward, ended, _, info = super().step(action)
        return observation, reward, False, ended, info


def recalls(number: int) -> VecMonitor:
    return VecMonitor(DummyVecEnv([Recall] * number))


def build(name: Any = "RMCPolicy", env: Any = None, **kwargs: Any) -> RecurrentPPO:
    """With a policy that is far from uniform, so that what it has seen shows in what it does."""
    key = name if isinstance(name, str) else name.__name__
    settings: dict[str, Any] = {
        "n_steps": STEPS,
        "batch_size": BATCH,
        "n_epochs": 2,
        "seed": 0,
        "device": "cpu",
        "policy_kwargs": {"embedding_size": 12, **SMALL.get(key, {})},
    }
    model = RecurrentPPO(name, recalls(N_ENVS) if env is None else env, **(settings | kwargs))
    with torch.no_grad():
        model.policy.network.policy_head.weight.normal_(std=1.0)
    return model


def observations(steps: int = 6, batch: int = N_ENVS) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(steps, batch, CUES + 1)).astype(np.float32)


class AtTheEndOfARollout(BaseCallback):
    """Calls a function with the model, once."""

    def __init__(self, function: Callable[[RecurrentPPO], None]) -> None:
        super().__init__()
        self.function, self.called = function, False

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        if self.num_timesteps > N_ENVS * STEPS and not self.called:  # not the first, which begins with fresh states
            self.called = True
            self.function(self.model)  # type: ignore[arg-type]


# Learning


@every_policy
def test_learns_with_every_policy(name: str) -> None:
    """By its name, and by its class: the same."""
    before = {key: tensor.clone() for key, tensor in build(name).policy.state_dict().items()}
    by_name = build(name).learn(2 * N_ENVS * STEPS)
    by_class = build(contrib.POLICIES[name]).learn(2 * N_ENVS * STEPS)
    assert by_name.num_timesteps == 2 * N_ENVS * STEPS
    assert type(by_name.policy) is contrib.POLICIES[name]
    for key, tensor in by_name.policy.state_dict().items():
        assert torch.equal(tensor, by_class.policy.state_dict()[key])
        assert not torch.equal(tensor, before[key]) or "weight" not in key
    if name in STATE_SIZES:
        assert by_name.policy.lstm_actor.hidden_size == STATE_SIZES[name]


def test_learns_to_recall() -> None:
    """What cannot be done without memory, by an RMC."""
    model = RecurrentPPO(
        "RMCPolicy",
        recalls(16),
        n_steps=20,
        batch_size=320,
        n_epochs=4,
        learning_rate=3e-3,
        gamma=0.9,
        seed=0,
        device="cpu",
        policy_kwargs={"core_kwargs": {"mem_slots": 2, "head_size": 8, "num_heads": 2}, "embedding_size": 16},
    )
    model.learn(10_000)
    mean, _ = evaluate_policy(model, recalls(20), 100)
    assert mean > 0.95  # chance is 1 / 3


@every_policy
def test_rollout_and_optimizer_agree_across_episode_ends(name: str) -> None:
    """Log-probabilities and values, of sequences that begin afresh and of such that begin within an episode."""
    counted = starts = sequences = 0

    def compare(model: RecurrentPPO) -> None:
        nonlocal counted, starts, sequences
        for batch in model.rollout_buffer.get(BATCH):
            values, log_prob, _ = model.policy.evaluate_actions(
                batch.observations, batch.actions.long().flatten(), batch.lstm_states, batch.episode_starts
            )
            mask = batch.mask > 0
            torch.testing.assert_close(log_prob[mask], batch.old_log_prob[mask], rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(values[mask], batch.old_values[mask], rtol=1e-5, atol=1e-5)
            counted += int(mask.sum())
            starts += int(batch.episode_starts.sum())
            sequences += batch.lstm_states.vf[0].shape[1]

    callback = AtTheEndOfARollout(compare)
    build(name).learn(2 * N_ENVS * STEPS, callback)
    assert callback.called
    assert counted == N_ENVS * STEPS
    assert 0 < starts < sequences < counted  # there is something to be restored, and something to be reset


@pytest.mark.parametrize("name", ["RMCPolicy", "LSTMPolicy", "MinGRUPolicy"])
def test_the_core_runs_once_per_step(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Actor and critic share its run: in a rollout, and in each batch of an epoch."""
    model = build(name, n_epochs=3)
    unroll, lengths = model.policy.network.core.unroll, []

    def count(x: Any, state: Any, starts: Any) -> Any:
        lengths.append(len(x))
        return unroll(x, state, starts)

    monkeypatch.setattr(model.policy.network.core, "unroll", count)
    model.learn(N_ENVS * STEPS)
    rollout, epochs = lengths[: STEPS + 1], lengths[STEPS + 1 :]
    assert rollout == [1] * STEPS + [1]  # and once for the value of the last observation
    assert len(epochs) == 3 * np.ceil(N_ENVS * STEPS / BATCH)
    assert max(epochs) == 4  # the steps of an episode


@every_policy
def test_gradients_of_values_and_actions_reach_the_core(name: str) -> None:
    policy = build(name).policy
    obs = torch.from_numpy(observations(4).swapaxes(0, 1).reshape(4 * N_ENVS, -1))
    offsets = torch.randn(1, N_ENVS, policy.lstm_actor.hidden_size) * 0.1
    state = (offsets, torch.zeros(1, N_ENVS, 1))
    starts = torch.zeros(4 * N_ENVS)
    values, log_prob, _ = policy.evaluate_actions(obs, torch.ones(4 * N_ENVS).long(), RNNStates(state, state), starts)
    for loss in (values.sum(), log_prob.sum()):
        for weight in (policy.network.embedding.weight, *policy.network.core.parameters()):
            (gradient,) = torch.autograd.grad(loss, weight, retain_graph=True)
            assert gradient.any()


def test_truncated_episodes_are_worth_what_would_have_followed() -> None:
    """RecurrentPPO's own bootstrap, from the state after the last step."""
    seen: list[tuple[Any, ...]] = []
    model = build(env=VecMonitor(DummyVecEnv([Truncated] * N_ENVS)))
    predict_values = model.policy.predict_values

    def note(*arguments: Any) -> Any:
        seen.append(arguments)
        return predict_values(*arguments)

    model.policy.predict_values = note  # type: ignore[method-assign]
    model.learn(N_ENVS * STEPS)
    ends = [arguments for arguments in seen if len(arguments[2]) == 1]
    assert len(ends) == N_ENVS * (STEPS // 4)
    for _, (h, _), starts in ends:
        assert not starts.any()
        assert h.abs().max() > 0.01  # not a fresh one


# predict


def reference(model: RecurrentPPO, name: str) -> policies.RecurrentPolicy:
    """The same policy as our own algorithms have it, with the same weights."""
    ours = policies.POLICIES[name](model.observation_space, model.action_space, **{"embedding_size": 12, **SMALL[name]})
    ours.load_state_dict(model.policy.state_dict())
    return ours


@every_policy
def test_predict_does_what_our_own_policy_does(name: str) -> None:
    """For one environment and for many, with and without a state, and where episodes start; weights move over."""
    model = build(name)
    ours = reference(model, name)
    for batch in (slice(None), slice(1), 0):
        state = our_state = starts = None
        for step, observation in enumerate(observations()[:, batch]):
            action, state = model.predict(observation, state, starts, deterministic=True)
            our_action, our_state = ours.predict(observation, our_state, starts, deterministic=True)
            np.testing.assert_array_equal(action, our_action)
            assert np.shape(action) == np.shape(our_action)
            restored = model.policy._restore(tuple(map(torch.from_numpy, state)))
            for leaf, our_leaf in zip(restored, our_state, strict=True):
                np.testing.assert_allclose(leaf, our_leaf, rtol=1e-5, atol=1e-6)
            starts = np.arange(len(state[0][0])) % 3 == step % 3


@every_policy
def test_zeros_and_none_and_a_start_are_all_fresh(name: str) -> None:
    """As everywhere in RecurrentPPO."""
    model = build(name)
    first, second = observations(2)
    _, (h, c) = model.predict(first)
    assert h.shape == (1, N_ENVS, model.policy.lstm_actor.hidden_size)
    every = np.ones(N_ENVS, dtype=bool)
    ruined = (np.full_like(h, np.nan), np.full_like(c, np.nan))
    for state, starts in [(None, every), ((0 * h, 0 * c), None), ((h, c), every), (ruined, every)]:
        _, (again, nothing) = model.predict(first, state, starts)
        np.testing.assert_allclose(again, h, rtol=1e-5, atol=1e-6)
        assert not nothing.any()
    if name != "FeedForwardPolicy":
        assert not np.allclose(model.predict(second, (h, c))[1][0], model.predict(second)[1][0])


def test_states_that_do_not_fit_are_rejected() -> None:
    """Those of our own policies among them."""
    model = build()
    (first,) = observations(1)
    _, (h, c) = model.predict(first)
    with pytest.raises(ValueError, match=r"state must be None or what predict returned, 2 arrays, got 1"):
        model.predict(first, (np.zeros((N_ENVS, 3, 10)),))
    for wrong in ((h[:, :2], c), (h[..., :-1], c), (h[0], c), (h, c[:, :1]), (h, c[0, 0])):
        with pytest.raises(ValueError, match=r"state must be None or .* \(1, 3, 30\) and \(1, 3, 1\), got") as error:
            model.predict(first, wrong)
        assert "\n" not in str(error.value)
    for wrong_starts in (np.ones(2, bool), np.ones((3, 2), bool)):
        with pytest.raises(ValueError, match=r"episode_start must have shape \(3,\), got"):
            model.predict(first, (h, c), wrong_starts)


@pytest.mark.parametrize("num_envs", [1, 5])
def test_evaluate_policy(num_envs: int) -> None:
    """On another number of environments than it was trained on, and with the same returns as our own policy."""
    model = build()
    results = []
    for policy in (model, reference(model, "RMCPolicy")):
        env = make_vec_env(Recall, num_envs)
        env.seed(2)
        results.append(evaluate_policy(policy, env, 20, deterministic=True, return_episode_rewards=True))  # type: ignore
    assert results[0] == results[1]


# Files


def same(a: RecurrentPPO | Any, b: RecurrentPPO | Any) -> bool:
    """Whether two do the same, step after step."""
    states: list[Any] = [None, None]
    for observation in observations():
        results = [
            each.predict(observation, state, deterministic=True) for each, state in zip((a, b), states, strict=True)
        ]
        states = [state for _, state in results]
        if not np.array_equal(results[0][0], results[1][0]) or not np.array_equal(states[0][0], states[1][0]):
            return False
    return True


@every_policy
def test_saved_and_loaded(name: str, tmp_path: Path) -> None:
    """A model and a policy; the model learns on, to where it would have come."""
    model = build(name).learn(N_ENVS * STEPS)
    model.save(tmp_path / "model")
    model.policy.save(tmp_path / "policy")
    loaded = RecurrentPPO.load(tmp_path / "model", recalls(N_ENVS), device="cpu")
    assert type(loaded.policy) is type(model.policy)
    assert loaded.policy.optimizer.state_dict()["state"].keys() == model.policy.optimizer.state_dict()["state"].keys()
    assert same(loaded, model)
    policy = type(model.policy).load(tmp_path / "policy", device="cpu")
    assert same(policy, model.policy)
    loaded.learn(N_ENVS * STEPS, reset_num_timesteps=False)
    assert loaded.num_timesteps == 2 * N_ENVS * STEPS
    assert name == "FeedForwardPolicy" or not same(loaded, model)


def test_another_number_of_environments(tmp_path: Path) -> None:
    """`load` takes them, and `set_env` says to use it."""
    model = build()
    model.save(tmp_path / "model")
    loaded = RecurrentPPO.load(tmp_path / "model", recalls(5), device="cpu")
    assert loaded.learn(5 * STEPS).num_timesteps == 5 * STEPS
    with pytest.raises(AssertionError, match=r"number of environments .* \(2 != 3\).*load\(path, env\)") as error:
        model.set_env(recalls(2))
    assert "\n" not in str(error.value)


def test_callbacks(tmp_path: Path) -> None:
    evaluation = EvalCallback(
        recalls(2), n_eval_episodes=4, eval_freq=STEPS, best_model_save_path=str(tmp_path), verbose=0
    )
    checkpoint = CheckpointCallback(STEPS, str(tmp_path), "model")
    model = build()
    model.learn(2 * N_ENVS * STEPS, [evaluation, checkpoint])
    assert 0 <= evaluation.last_mean_reward <= 1
    assert same(RecurrentPPO.load(tmp_path / f"model_{N_ENVS * STEPS}_steps", device="cpu"), build())
    assert isinstance(RecurrentPPO.load(tmp_path / "best_model").policy, contrib.RMCPolicy)


def test_normalised_observations_and_rewards(tmp_path: Path) -> None:
    env = VecNormalize(recalls(N_ENVS))
    model = build(env=env).learn(2 * N_ENVS * STEPS)
    model.save(tmp_path / "model")
    env.save(str(tmp_path / "statistics"))
    loaded_env = VecNormalize.load(str(tmp_path / "statistics"), recalls(N_ENVS))
    loaded = RecurrentPPO.load(tmp_path / "model", loaded_env, device="cpu")
    assert loaded.get_vec_normalize_env() is loaded_env
    assert same(loaded, model)
    loaded.learn(N_ENVS * STEPS)


@pytest.mark.filterwarnings("ignore:.*:UserWarning")  # of Stable-Baselines3, about the image
def test_observations_and_states_that_are_none() -> None:
    """Refused as our own policy refuses them; views are taken, also such as torch does not take."""
    model = build("LSTMPolicy")
    first, second = observations(2)
    _, (h, c) = model.predict(first)
    _, expected = model.predict(second, (h[:, ::-1].copy(), c), np.array([True, False, False]))
    _, found = model.predict(second, (h[:, ::-1], c[:, ::-1]), np.array([False, False, True])[::-1])
    np.testing.assert_array_equal(found[0], expected[0])
    with pytest.raises(ValueError, match=r"observation must be the observation alone, got a tuple of 2"):
        model.predict((first, {}))  # type: ignore[arg-type]
    first[1, 0] = np.nan
    with pytest.raises(FloatingPointError, match=r"environment 1: .* is not finite"):
        model.predict(first)
    spacious = build("GRUPolicy", spaced("Dict", "Discrete"))
    batch: Any = spacious.env.reset()  # type: ignore[union-attr]
    for key, part, message in [
        ("clock", np.array([1, 0, 3]), r"observation\['clock'\] must be from 1 to 3, got 0"),
        ("speed", np.zeros((2, 2)), r"all parts of an observation must be of one batch size, got .*'speed': 2"),
    ]:
        with pytest.raises(ValueError, match=message):
            spacious.predict(batch | {key: part})


# What is not finite


class Broken(Recall):
    """Has an observation that is not finite: in the midst of an episode, or the last one of one that is cut off."""

    steps = 0
    final = False

    def step(self, action: int) -> Any:
        observation, reward, ended, _, info = super().step(action)
        self.steps += 1
        if self.steps >= STEPS and ended == self.final:
            observation = np.full_like(observation, np.nan)
        return observation, reward, False, ended, info


class BrokenAtTheEnd(Broken):
    final = True


@pytest.mark.parametrize("env", [Broken, BrokenAtTheEnd])
def test_an_observation_that_is_not_finite_ends_training(env: type[Broken]) -> None:
    """Before a weight is touched: also where it is the last one of a rollout, or of an episode that is cut off."""
    model = build("LSTMPolicy", VecMonitor(DummyVecEnv([Recall, env, Recall])))
    row = 0 if env is BrokenAtTheEnd else 1  # RecurrentPPO asks for the value of one final observation at a time
    with pytest.raises(FloatingPointError, match=rf"environment {row}: .* is not finite \(NaN or infinite\)"):
        model.learn(10 * N_ENVS * STEPS)
    assert all(parameter.isfinite().all() for parameter in model.policy.parameters())


# States of whole numbers


class Tally(Core):
    """Counts the steps of an episode, from 5 on, and whether there were two more; the output is which it is."""

    def __init__(self, input_size: int, num_classes: int = 12) -> None:
        super().__init__(input_size, num_classes)
        self.linear = torch.nn.Linear(input_size, num_classes)

    def initial_state(self, batch_size: int) -> State:
        return torch.full((batch_size, 1), 5), torch.ones(batch_size, 2, dtype=torch.bool), torch.ones(batch_size)

    def forward(self, x: torch.Tensor, state: State) -> tuple[torch.Tensor, State]:
        count, even, mean = state
        shown = torch.nn.functional.one_hot(count[:, 0], self.output_size) * even[:, 1:]
        return self.linear(x) + shown * mean.unsqueeze(1), (count + 1, ~even, mean / 2)


def test_a_state_may_hold_counters_and_flags(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a core of one's own has there is what it finds there again, and learns from."""
    monkeypatch.setitem(CORES, "tally", Tally)
    settings = {"core": "tally", "embedding_size": 12}
    model = build("RecurrentPolicy", policy_kwargs=settings)
    ours = policies.RecurrentPolicy(model.observation_space, model.action_space, **settings)  # type: ignore[arg-type]
    ours.load_state_dict(model.policy.state_dict())
    state = our_state = None
    for observation in observations(4):
        action, state = model.predict(observation, state, deterministic=True)
        our_action, our_state = ours.predict(observation, our_state, deterministic=True)
        np.testing.assert_array_equal(action, our_action)
        restored = model.policy._restore(tuple(map(torch.from_numpy, state)))
        for leaf, our_leaf in zip(restored, our_state, strict=True):
            np.testing.assert_array_equal(leaf.numpy(), our_leaf)
            assert leaf.numpy().dtype == our_leaf.dtype
    model.learn(2 * N_ENVS * STEPS)


# Spaces


def spaced(observed: str, acted: str, kind: type[Anything] = Anything) -> VecMonitor:
    """Environments that refuse an action which is not of their space, or not legal; half of their episodes are cut."""
    return VecMonitor(DummyVecEnv([lambda: make_env(observed, acted, kind)] * N_ENVS))


def make_env(observed: str, acted: str, kind: type[Anything]) -> gym.Env[Any, Any]:
    env = kind(observed, acted)
    return ActionMasks(env) if kind is Masked else env


@pytest.mark.filterwarnings("ignore:.*:UserWarning")  # of Stable-Baselines3, about the bounds of a Box
@pytest.mark.parametrize(
    ("observed", "acted", "kind"),
    [
        *((name, "Discrete", Anything) for name in OBSERVATIONS),
        *(("vector", name, Anything) for name in ACTIONS if name != "Discrete"),
        *(("vector", name, Masked) for name in ACTIONS if name != "Box"),
    ],
)
def test_spaces(observed: str, acted: str, kind: type[Anything]) -> None:
    """What was done in rollouts, masks included, is what is learned from; padding may be of no space."""
    compared = padded = 0

    def compare(model: RecurrentPPO) -> None:
        nonlocal compared, padded
        for batch in model.rollout_buffer.get(BATCH):
            actions = batch.actions.long().flatten() if acted == "Discrete" else batch.actions
            arguments = batch.observations, actions, batch.lstm_states, batch.episode_starts
            values, log_prob, entropy = model.policy.evaluate_actions(*arguments)
            mask = batch.mask > 0
            torch.testing.assert_close(values[mask], batch.old_values[mask], rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(log_prob[mask], batch.old_log_prob[mask], rtol=1e-4, atol=1e-5)
            assert entropy.shape == log_prob.shape == values.shape
            assert entropy.isfinite().all()
            compared += int(mask.sum())
            padded += int((~mask).sum())

    env = spaced(observed, acted, kind)
    model = build("GRUPolicy", env)
    model.learn(2 * N_ENVS * STEPS, AtTheEndOfARollout(compare))
    assert compared == N_ENVS * STEPS < compared + padded
    assert all(parameter.isfinite().all() for parameter in model.policy.parameters())
    for deterministic in (False, True):
        actions, _ = model.predict(model.env.reset(), deterministic=deterministic)  # type: ignore[union-attr]
        env.step(actions)


@pytest.mark.parametrize("acted", ["Discrete", "MultiDiscrete", "MultiBinary", "Box", "int32", "uint8"])
def test_actions_are_of_the_dtype_of_their_space(acted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In training, where environments get them, and in `predict`."""
    monkeypatch.setitem(ACTIONS, "int32", gym.spaces.MultiDiscrete([2, 4], np.int32, start=[-3, 0]))
    monkeypatch.setitem(ACTIONS, "uint8", gym.spaces.MultiDiscrete([2, 4], np.uint8, start=[3, 0]))
    seen = set()

    class Noting(Anything):
        def step(self, action: Any) -> Any:
            seen.add(np.asarray(action).dtype)
            return super().step(action)

    model = build("GRUPolicy", spaced("vector", acted, Noting)).learn(N_ENVS * STEPS)
    assert seen == {ACTIONS[acted].dtype}
    assert model.predict(model.env.reset())[0].dtype == ACTIONS[acted].dtype  # type: ignore[union-attr]


def test_a_mask_that_allows_nothing_is_an_error() -> None:
    model = build("GRUPolicy", spaced("vector", "Discrete", Masked))
    observation = model.env.reset()  # type: ignore[union-attr]
    observation["action_mask"][1] = 0
    with pytest.raises(ActionMaskError, match="environment 1: action_mask allows no action"):
        model.predict(observation)
    state = tuple(torch.zeros(1, N_ENVS, 7) for _ in range(2))
    tensors = {key: torch.from_numpy(part) for key, part in observation.items()}
    with pytest.raises(ActionMaskError, match="environment 1"):
        model.policy(tensors, RNNStates(state, state), torch.zeros(N_ENVS))


# Refused


def test_arguments_that_are_refused() -> None:
    for kwargs, error, message in [
        ({"policy_kwargs": {"squash_output": True}}, TypeError, "squash_output"),
        ({"policy_kwargs": {"net_arch": [4]}}, TypeError, "net_arch"),
        ({"policy_kwargs": {"core": "gru"}}, ValueError, "core of a RMCPolicy must be left out, .* got 'gru'"),
        ({"policy_kwargs": {"core_kwargs": {"mem_slots": 0}}}, ValueError, "mem_slots must be"),
    ]:
        with pytest.raises(error, match=message):
            build(**kwargs)
    with pytest.raises(ValueError, match="use_sde must be False with a RMCPolicy, got True"):
        build(env=spaced("vector", "Box"), use_sde=True)


@pytest.fixture
def cart_pole() -> Iterator[gym.Env[Any, Any]]:
    env = gym.make("CartPole-v1")
    yield env
    env.close()


@pytest.mark.parametrize("algorithm", [PPO, A2C, DQN, RecurrentPPO])
def test_our_own_policies_are_for_our_own_algorithms(algorithm: Any, cart_pole: Any) -> None:
    with pytest.raises(
        TypeError, match=r"RMCPolicy carries a state.*A2C or IMPALA.*rmc_rl\.contrib\.RMCPolicy with"
    ) as error:
        algorithm(policies.RMCPolicy, cart_pole, device="cpu")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("algorithm", [PPO, A2C, DQN, SAC, TRPO])
def test_algorithms_without_a_state_know_whose_our_names_are(algorithm: Any) -> None:
    """Instead of `Policy RMCPolicy unknown`."""
    env = "Pendulum-v1" if algorithm is SAC else "CartPole-v1"
    with pytest.raises(TypeError, match=r"MinGRUPolicy carries a state.*A2C or IMPALA.*MinGRUPolicy with Recurr") as e:
        algorithm("MinGRUPolicy", env)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize(("algorithm", "env"), [(DQN, "CartPole-v1"), (SAC, "Pendulum-v1"), (DDPG, "Pendulum-v1")])
def test_off_policy_algorithms_cannot_have_recurrent_ppos_policies(algorithm: Any, env: str) -> None:
    with pytest.raises(TypeError, match=r"GRUPolicy carries a state.*rmc_rl\.contrib\.GRUPolicy with Recurr") as e:
        algorithm(contrib.GRUPolicy, env, device="cpu", buffer_size=7)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("algorithm", [PPO, A2C])
def test_recurrent_ppos_policies_are_for_recurrent_ppo(algorithm: Any, cart_pole: Any) -> None:
    model = algorithm(contrib.GRUPolicy, cart_pole, device="cpu")
    with pytest.raises(TypeError, match=r"GRUPolicy carries a state.*rmc_rl\.contrib\.GRUPolicy with Recurr") as error:
        model.learn(10)
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match=r"a subclass of rmc_rl\.policies\.RecurrentPolicy, got .*contrib\.GRUPolicy"):
        agents.A2C(contrib.GRUPolicy, Recall)  # type: ignore[arg-type]


def test_the_memory_is_not_started_from_zeros() -> None:
    """In which all slots of an RMC would stay alike for ever: what offsets are for."""
    model = build()
    core = model.policy.network.core
    assert isinstance(core, RelationalMemory)
    _, stored = model.predict(observations(1)[0])
    (memory,) = model.policy._restore(tuple(map(torch.from_numpy, stored)))
    assert (memory[:, 0] - memory[:, 1]).abs().max() > 0.1

"""Actor and learner: what an unroll holds, that both see the same, truncation, and what stops training."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor

from agents import A2C
from agents.actor import Actor
from agents.hyperparameters import Hyperparameters
from agents.learner import Learner
from agents.sources import LockStep
from agents.trajectory import Trajectory
from rmc_rl.masks import ActionMaskError
from rmc_rl.network import RecurrentActorCritic
from rmc_rl.vec_env import make_vec_env
from tests.space_envs import Masked

CORES: dict[str, dict[str, Any]] = {
    "rmc": {"mem_slots": 3, "head_size": 5, "num_heads": 2},
    "lstm": {"hidden_size": 7},
    "gru": {"hidden_size": 7},
    "identity": {},
}
ACTIONS = {
    "Discrete": spaces.Discrete(4, start=-1),
    "MultiDiscrete": spaces.MultiDiscrete([2, 3], start=[0, 5]),
    "MultiBinary": spaces.MultiBinary(3),
    "Box": spaces.Box(-0.5, 0.5, (2,), np.float32),
}
STEPS, BATCH = 11, 3
every_core = pytest.mark.parametrize("core", CORES)


class Log(gym.Env[Any, Any]):
    """Observes noise; episodes of 1 to 6 steps, odd ones truncated, even ones terminated; keeps what happened."""

    observation_space: spaces.Space[Any] = spaces.Box(-1.0, 1.0, (5,), np.float32)

    def __init__(self, action_space: spaces.Space[Any] | None = None) -> None:
        self.action_space = ACTIONS["Discrete"] if action_space is None else action_space
        self.log: list[dict[str, Any]] = []

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.clock, self.length = 0, int(self.np_random.integers(1, 7))
        self.seen = self._observe()
        return self.seen, {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.clock += 1
        ended = self.clock == self.length
        terminated, truncated = ended and self.length % 2 == 0, ended and self.length % 2 == 1
        reward = float(self.np_random.normal())
        before, self.seen = self.seen, self._observe()
        self.log.append(
            {
                "observation": before,
                "start": self.clock == 1,
                "action": np.array(action),
                "reward": reward,
                "terminated": terminated,
                "truncated": truncated,
                "next": self.seen,
            }
        )
        return self.seen, reward, terminated, truncated, {}

    def _observe(self) -> Any:
        return self.np_random.uniform(-1, 1, 5).astype(np.float32)


class DictLog(Log):
    """The same with pixels and a discrete part."""

    observation_space = spaces.Dict(
        {"clock": spaces.Discrete(7, start=3), "image": spaces.Box(0, 255, (5, 6, 3), np.uint8)}
    )

    def _observe(self) -> Any:
        return {"clock": self.clock + 3, "image": self.np_random.integers(256, size=(5, 6, 3), dtype=np.uint8)}


def build(
    core: str = "gru", env: Any = Log, num_envs: int = BATCH, previous: bool = False, **settings: Any
) -> tuple[Actor, Learner]:
    """An actor at the first observations, and a learner, of one network whose outputs are far from constant."""
    torch.manual_seed(6)
    vec_env = make_vec_env(env, num_envs, previous_action_reward=previous)
    network = RecurrentActorCritic(vec_env.observation_space, vec_env.action_space, core, CORES[core], embedding_size=9)
    with torch.no_grad():
        network.policy_head.weight.normal_(std=0.7)
    hyperparameters = Hyperparameters(**{"unroll_length": STEPS, **settings})
    vec_env.seed(8)
    actor = Actor(vec_env, network, hyperparameters)
    actor.start(vec_env.reset())  # type: ignore[arg-type]
    return actor, Learner(network, hyperparameters)


def go_on(rewards: NDArray[Any], dones: NDArray[np.bool_], infos: list[dict[str, Any]]) -> bool:
    return True


def unroll(actor: Actor) -> Trajectory:
    trajectory = actor.unroll(go_on)
    assert trajectory is not None
    return trajectory


def logs(actor: Actor) -> list[list[dict[str, Any]]]:
    return [env.unwrapped.log for env in actor.env.unwrapped.envs]  # type: ignore[attr-defined]


def part(observations: Any, key: str | None, *place: int) -> NDArray[Any]:
    """One observation, or one part of it, as numpy."""
    return (observations if key is None else observations[key])[place].numpy()  # type: ignore[no-any-return]


# What an unroll holds


@pytest.mark.parametrize(("env", "keys"), [(Log, [None]), (DictLog, ["clock", "image"])])
def test_unrolls_hold_what_happened(env: Any, keys: list[str | None]) -> None:
    """Observations, starts, actions, rewards and ends, in three unrolls on end."""
    actor, _ = build(env=env, discount=0.0)  # so that truncated rewards are bare
    ends = set()
    for number in range(3):
        trajectory = unroll(actor)
        for b, log in enumerate(logs(actor)):
            for t, step in enumerate(log[number * STEPS :]):
                for key in keys:
                    seen = step["observation"] if key is None else step["observation"][key]
                    np.testing.assert_array_equal(part(trajectory.observations, key, t, b), seen)
                assert trajectory.starts[t, b] == step["start"]
                assert trajectory.actions[t, b] == step["action"] + 1  # the space counts from -1, the network from 0
                assert trajectory.rewards[t, b].item() == pytest.approx(step["reward"], rel=1e-6)
                assert trajectory.terminated[t, b] == step["terminated"]
                assert trajectory.truncated[t, b] == step["truncated"]
                ends.add((step["terminated"], step["truncated"]))
    assert ends == {(False, False), (True, False), (False, True)}


def test_the_last_observation_of_an_unroll_is_the_first_of_the_next() -> None:
    actor, _ = build()
    last = start = state = None
    for _ in range(4):
        trajectory = unroll(actor)
        if last is not None:
            assert torch.equal(trajectory.observations[0], last)
            assert torch.equal(trajectory.starts[0], start)
            for leaf, expected in zip(trajectory.initial_state, state, strict=True):
                assert torch.equal(leaf, expected)
        last, start = trajectory.observations[-1].clone(), trajectory.starts[-1].clone()
        state = [leaf.clone() for leaf in actor.state]


def test_observations_keep_their_type() -> None:
    """Pixels stay bytes: an unroll of many environments is large."""
    actor, _ = build(env=DictLog)
    observations = unroll(actor).observations
    assert isinstance(observations, dict)
    assert {key: value.dtype for key, value in observations.items()} == {"clock": torch.int64, "image": torch.uint8}
    assert {key: value.shape for key, value in observations.items()} == {
        "clock": (STEPS + 1, BATCH),
        "image": (STEPS + 1, BATCH, 5, 6, 3),
    }


@pytest.mark.parametrize("kind", ACTIONS)
def test_environments_get_the_actions_that_were_sampled(kind: str) -> None:
    """Counted from the space's start; a Box's are cut to its bounds for the environment only."""
    space = ACTIONS[kind]
    actor, _ = build(env=lambda: Log(space))
    trajectory = unroll(actor)
    sampled = trajectory.actions.numpy()
    for b, log in enumerate(logs(actor)):
        for t, step in enumerate(log):
            assert space.contains(step["action"].astype(space.dtype))
            expected = sampled[t, b]
            if isinstance(space, spaces.Box):
                expected = expected.clip(space.low, space.high)
            elif not isinstance(space, spaces.MultiBinary):
                expected = expected + space.start
            np.testing.assert_array_equal(step["action"], expected)
    if isinstance(space, spaces.Box):
        assert (np.abs(sampled) > 0.5).any()


@pytest.mark.parametrize("env", [Log, DictLog])
def test_unrolls_go_where_they_are_wanted(env: Any) -> None:
    """Into some rows of a larger trajectory: the same numbers as in the actor's own, and no other row is touched."""
    own, _ = build(env=env)
    placed, _ = build(env=env)
    large = Trajectory.allocate(STEPS, 3 * BATCH, placed.network, "cpu")
    for part in large.split(1):
        for tensor in part.tensors():
            tensor.fill_(1)
    places = large.split(BATCH)
    for actor, place in ((own, None), (placed, places[1])):
        torch.manual_seed(0)
        for _ in range(2):  # the second begins from a state that is not the initial one
            assert actor.unroll(go_on, place) is (place or actor.trajectory)
    for tensor, expected in zip(places[1].tensors(), own.trajectory.tensors(), strict=True):
        assert torch.equal(tensor, expected)
    for place in (places[0], places[2]):
        assert all((tensor == 1).all() for tensor in place.tensors())
    places[2].copy_(places[1])
    for tensor, expected in zip(places[2].tensors(), own.trajectory.tensors(), strict=True):
        assert torch.equal(tensor, expected)


def test_rewards_are_scaled_for_the_learner_alone() -> None:
    actor, _ = build(reward_scale=0.25, discount=0.0)
    reported = []

    def on_step(rewards: NDArray[Any], dones: NDArray[np.bool_], infos: list[dict[str, Any]]) -> bool:
        reported.append(rewards.copy())
        return True

    trajectory = actor.unroll(on_step)
    assert trajectory is not None
    np.testing.assert_allclose(trajectory.rewards.numpy(), 0.25 * np.stack(reported), rtol=1e-6)
    np.testing.assert_allclose(reported[2], [log[2]["reward"] for log in logs(actor)], rtol=1e-6)


@pytest.mark.parametrize("env", [Log, DictLog])
def test_previous_actions_and_rewards_are_observed(env: Any) -> None:
    """Those of the step before, and zeros where an episode starts."""
    actor, _ = build(env=env, previous=True, discount=0.0)
    for _ in range(2):
        trajectory = unroll(actor)
        observations = trajectory.observations
        assert isinstance(observations, dict)
        one_hot = torch.nn.functional.one_hot(trajectory.actions, 4).float()
        goes_on = (~trajectory.starts[1:]).float().unsqueeze(-1)
        assert torch.equal(observations["previous_action"][1:], one_hot * goes_on)
        assert torch.equal(observations["previous_reward"][1:], trajectory.rewards.unsqueeze(-1) * goes_on)
    assert 0 < goes_on.mean() < 1


def test_stopping_in_the_middle() -> None:
    """`on_step` stops the actor there and then; it can go on afterwards, where it stood."""
    actor, _ = build()
    counts = iter(range(1, 100))
    assert actor.unroll(lambda *step: next(counts) < 4) is None
    assert next(counts) == 5
    assert [len(log) for log in logs(actor)] == [4] * BATCH
    trajectory = unroll(actor)
    for b, log in enumerate(logs(actor)):
        np.testing.assert_array_equal(part(trajectory.observations, None, 0, b), log[4]["observation"])
        assert trajectory.starts[0, b] == log[4]["start"]


# Actor and learner see the same


@every_core
@pytest.mark.parametrize("kind", ACTIONS)
def test_learner_computes_what_the_actor_did(core: str, kind: str) -> None:
    """The log probabilities of an unroll in which episodes end, and the state after it, to float round-off.

    In later unrolls too, with the parameters changed between: the learner gets the state from which the actor went on.
    """
    actor, learner = build(core, lambda: Log(ACTIONS[kind]))
    network, recurrent = actor.network, core != "identity"
    for _ in range(3):
        trajectory = unroll(actor)
        assert trajectory.starts[1:-1].any()
        with torch.no_grad():
            observations = trajectory.observations[:-1]
            output, state = network(observations, trajectory.initial_state, trajectory.starts[:-1])
            blind, _ = network(observations, trajectory.initial_state, torch.zeros_like(trajectory.starts[:-1]))
        torch.testing.assert_close(
            log_probs(network, output.policy, trajectory), trajectory.behaviour_log_probs, rtol=1e-4, atol=1e-5
        )
        for leaf, expected in zip(actor.state, state, strict=True):
            torch.testing.assert_close(leaf, expected, rtol=1e-4, atol=1e-5)
        # That the starts matter is what makes this a test of them.
        assert torch.allclose(blind.policy, output.policy, atol=1e-3) != recurrent
        learner.update(trajectory)


@pytest.mark.parametrize("kind", ["Discrete", "MultiDiscrete", "MultiBinary"])
@pytest.mark.parametrize("previous", [False, True])
def test_learner_computes_what_the_actor_did_within_masks(kind: str, previous: bool) -> None:
    """The log probabilities are those of the masked distribution, on both sides."""
    torch.manual_seed(6)
    vec_env = make_vec_env(partial(Masked, "vector", kind), BATCH, previous_action_reward=previous)
    network = RecurrentActorCritic(vec_env.observation_space, vec_env.action_space, "gru", CORES["gru"])
    settings = Hyperparameters(unroll_length=STEPS)
    actor, learner = Actor(vec_env, network, settings), Learner(network, settings)
    actor.start(vec_env.reset())  # type: ignore[arg-type]
    for _ in range(3):
        trajectory = unroll(actor)
        assert isinstance(trajectory.observations, dict)
        assert trajectory.observations["action_mask"].dtype == torch.int8
        with torch.no_grad():
            output, _ = network(trajectory.observations, trajectory.initial_state, trajectory.starts)
            actual = log_probs(network, output.policy, trajectory)
        torch.testing.assert_close(actual, trajectory.behaviour_log_probs, rtol=1e-4, atol=1e-5)
        assert (actual > -10).all()  # no forbidden action has been taken
        learner.update(trajectory)


def log_probs(network: RecurrentActorCritic, policy: Tensor, trajectory: Trajectory) -> Tensor:
    """[T, B], each by itself."""
    columns = [network.distribution(policy[t]).log_prob(actions) for t, actions in enumerate(trajectory.actions)]
    return torch.stack(columns)


@every_core
def test_the_actor_does_not_reset_states(core: str) -> None:
    """After an episode's end the state is still that of its last step; the flag alone says that it is over."""
    actor, _ = build(core, unroll_length=1)
    ends = 0
    for _ in range(12):
        trajectory = unroll(actor)
        with torch.no_grad():
            _, state = actor.network.step(trajectory.observation(0), trajectory.initial_state, trajectory.starts[0])
        ended = trajectory.terminated[0] | trajectory.truncated[0]
        assert torch.equal(trajectory.starts[1], ended)
        ends += int(ended.sum())
        for leaf, expected, fresh in zip(actor.state, state, actor.network.initial_state(BATCH), strict=True):
            torch.testing.assert_close(leaf, expected)
            assert not torch.isclose(leaf, fresh).flatten(1).all(dim=1).any()
    assert ends > 3


def test_starting_again_forgets_the_episodes_before() -> None:
    actor, _ = build()
    unroll(actor)
    actor.env.seed(8)
    actor.start(actor.env.reset())  # type: ignore[arg-type]
    torch.manual_seed(0)
    again = unroll(actor)
    assert again.starts[0].all()
    fresh, _ = build()
    torch.manual_seed(0)
    torch.testing.assert_close(again.behaviour_log_probs, unroll(fresh).behaviour_log_probs)


# Truncation


@every_core
@pytest.mark.parametrize("env", [Log, DictLog])
def test_a_truncated_episode_is_worth_its_final_observation(core: str, env: Any) -> None:
    """gamma V of it, from the state after the last step without a reset, on top of the scaled reward."""
    actor, _ = build(core, env, discount=0.7, reward_scale=3.0)
    network = actor.network
    for number in range(2):
        trajectory = unroll(actor)
        assert trajectory.truncated.any()
        assert trajectory.terminated.any()
        state = trajectory.initial_state
        for t in range(STEPS):
            with torch.no_grad():
                _, state = network.step(trajectory.observation(t), state, trajectory.starts[t])
            for b, log in enumerate(logs(actor)):
                step = log[number * STEPS + t]
                expected = 3.0 * step["reward"]
                if step["truncated"]:
                    final = step["next"]
                    observation: Any = (
                        {key: torch.as_tensor(value)[None] for key, value in final.items()}
                        if isinstance(final, dict)
                        else torch.from_numpy(final)[None]
                    )
                    row = tuple(leaf[b : b + 1] for leaf in state)
                    with torch.no_grad():
                        output, _ = network.step(observation, row, torch.tensor([False]))
                    expected += 0.7 * output.value.item()
                assert trajectory.rewards[t, b].item() == pytest.approx(expected, rel=1e-4, abs=1e-5)


class Ones(gym.Env[Any, Any]):
    """Reward 1 for ever; every 7 steps the episode is cut off, or ends by itself."""

    observation_space = spaces.Box(0.0, 1.0, (2,), np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self, truncate: bool) -> None:
        self.truncate = truncate

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        self.clock = 0
        return np.ones(2, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.clock += 1
        ended = self.clock == 7
        return np.ones(2, np.float32), 1.0, ended and not self.truncate, ended and self.truncate, {}


@pytest.mark.parametrize("core", ["identity", "gru"])
@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_values_of_rewards_that_never_end(core: str, scale: float) -> None:
    """Truncated every 7 steps, V tends to scale / (1 - gamma) everywhere; terminated, it stays far below."""
    values = {}
    for truncate in (True, False):
        actor, learner = build(
            core,
            lambda truncate=truncate: Ones(truncate),
            num_envs=4,
            discount=0.8,
            reward_scale=scale,
            learning_rate=0.02,
            learning_rate_schedule="linear",
            max_gradient_norm=10.0,
        )
        for update in range(150):
            for group in learner.optimizer.param_groups:
                group["lr"] = 0.02 * (1 - update / 150)
            learner.update(unroll(actor))
        trajectory = unroll(actor)
        with torch.no_grad():
            output, _ = actor.network(trajectory.observations, trajectory.initial_state, trajectory.starts)
        values[truncate] = output.value / scale
    torch.testing.assert_close(values[True], torch.full((STEPS + 1, 4), 5.0), rtol=0.05, atol=0)
    assert values[False].mean() < 4.0  # 5 (1 - mean of 0.8^k for k = 1 to 7) = 2.7, if every step counts the same


# The learner


def literal_loss(trajectory: Trajectory, network: RecurrentActorCritic, settings: Hyperparameters) -> Tensor:
    """The loss on policy, step by step and row by row, with GAE as its recursion reads."""
    output, _ = network(trajectory.observations, trajectory.initial_state, trajectory.starts)
    log_p, entropies, errors, advantages = [], [], [], []
    for b in range(BATCH):
        following = 0.0
        for t in reversed(range(STEPS)):
            over = bool(trajectory.terminated[t, b] or trajectory.truncated[t, b])
            discount = 0.0 if over else settings.discount
            value, next_value = output.value[t, b], output.value[t + 1, b].item()
            delta = trajectory.rewards[t, b].item() + discount * next_value - value.item()
            following = delta + discount * settings.gae_lambda * following
            advantages.append(following)
            errors.append((value.item() + following - value) ** 2)
            log_softmax = torch.log_softmax(output.policy[t, b], dim=0)
            log_p.append(log_softmax[trajectory.actions[t, b]])
            entropies.append(-(log_softmax.exp() * log_softmax).sum())
    advantage = torch.tensor(advantages)
    if settings.normalize_advantages:
        advantage = (advantage - advantage.mean()) / advantage.std(correction=0)
    return (
        -(torch.stack(log_p) * advantage).mean()
        + settings.value_cost * 0.5 * torch.stack(errors).mean()
        - settings.entropy_cost * torch.stack(entropies).mean()
    )


@every_core
@pytest.mark.parametrize("normalize", [False, True])
def test_loss_is_what_the_docs_say(core: str, normalize: bool) -> None:
    """And so is its gradient."""
    settings = {"gae_lambda": 0.8, "discount": 0.9, "entropy_cost": 0.03, "value_cost": 0.4}
    actor, learner = build(core, normalize_advantages=normalize, **settings)
    unroll(actor)
    trajectory = unroll(actor)
    loss, metrics = learner.loss(trajectory)
    expected = literal_loss(trajectory, learner.network, learner.settings)
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-5)
    parameters = list(learner.network.parameters())
    for actual, wanted in zip(
        torch.autograd.grad(loss, parameters), torch.autograd.grad(expected, parameters), strict=True
    ):
        torch.testing.assert_close(actual, wanted, rtol=1e-3, atol=1e-5)
    assert {"policy_loss", "value_loss", "entropy_loss", "explained_variance"} <= metrics.keys()


def test_an_actor_that_lags_is_corrected_for() -> None:
    """Where the actor's policy made an action twice as likely as the learner's, the action counts half."""
    actor, learner = build(normalize_advantages=False, gae_lambda=0.0, entropy_cost=0.0, value_cost=0.0)
    trajectory = unroll(actor)
    on_policy, _ = learner.loss(trajectory)
    lagging = replace(trajectory, behaviour_log_probs=trajectory.behaviour_log_probs + np.log(2))
    off_policy, _ = learner.loss(lagging)
    torch.testing.assert_close(off_policy, on_policy / 2, rtol=1e-4, atol=1e-6)


def test_update_follows_the_gradient_and_cuts_it() -> None:
    actor, learner = build(max_gradient_norm=1e-3)
    trajectory = unroll(actor)
    before = [parameter.clone() for parameter in learner.network.parameters()]
    metrics = learner.update(trajectory)
    norm = torch.stack([p.grad.norm() for p in learner.network.parameters() if p.grad is not None]).norm()
    assert metrics["gradient_norm"] > 1e-3
    assert norm.item() == pytest.approx(1e-3, rel=1e-2)
    assert any(not torch.equal(a, b) for a, b in zip(before, learner.network.parameters(), strict=True))
    assert all(isinstance(value, float) and np.isfinite(value) for value in metrics.values())


def test_updates_lower_the_loss() -> None:
    """On one and the same unroll, again and again."""
    actor, learner = build(learning_rate=1e-3)
    trajectory = unroll(actor)
    losses = [learner.update(trajectory)["value_loss"] for _ in range(30)]
    assert losses[-1] < 0.9 * losses[0]


def test_the_shortest_unroll() -> None:
    """One step of one environment: nothing is divided by the number of steps less one."""
    actor, learner = build(num_envs=1, unroll_length=1)
    for _ in range(5):
        learner.update(unroll(actor))
    assert all(parameter.isfinite().all() for parameter in learner.network.parameters())


def test_a_gradient_that_is_not_finite_changes_nothing() -> None:
    actor, learner = build()
    learner.update(unroll(actor))
    before = {name: tensor.clone() for name, tensor in learner.network.state_dict().items()}
    trajectory = unroll(actor)
    trajectory.rewards[2, 1] = torch.inf
    with pytest.raises(FloatingPointError, match="gradient is not finite"):
        learner.update(trajectory)
    for name, tensor in learner.network.state_dict().items():
        assert torch.equal(tensor, before[name]), name


# What is not finite stops training


def test_a_mask_that_allows_nothing_stops_training() -> None:
    """In the environment that is named, and before an action is taken."""

    class Stuck(Masked):
        def _draw(self) -> None:
            super()._draw()
            self.mask &= self.clock < 2

    envs = iter([Masked("vector", "MultiDiscrete"), Stuck("vector", "MultiDiscrete")])
    model = A2C("GRUPolicy", lambda: next(envs), 2, unroll_length=STEPS, seed=0)
    with pytest.raises(
        ActionMaskError, match=r"^environment 1: action_mask allows no value of the action's component 0, where it must"
    ):
        model.learn(100)


class Broken(Log):
    """After 30 steps an observation, a reward or a final observation is not finite."""

    def __init__(self, what: str, value: float, length: int = 4) -> None:
        super().__init__()
        self.what, self.value, self.fixed_length, self.steps = what, value, length, 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        observation, info = super().reset(seed=seed)
        self.length = self.fixed_length
        return observation, info

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = super().step(action)
        self.steps += 1
        breaks = self.steps >= 30 and (terminated or truncated) == (self.what == "final observation")
        if breaks and "observation" in self.what:
            observation = observation.copy()
            observation[2] = self.value
        return observation, self.value if breaks and self.what == "reward" else reward, terminated, truncated, info


def breaking(what: str, value: float, length: int = 4) -> Iterator[Any]:
    """Two environments, of which the second breaks."""
    return iter([Log(), Broken(what, value, length)])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
    ("what", "length", "message"),
    [
        ("observation", 4, "environment 1: observation is not finite"),
        ("reward", 4, "environment 1: reward is not finite"),
        ("final observation", 5, "environment 1: final observation is not finite"),
    ],
)
def test_numbers_that_are_not_finite_stop_training(what: str, length: int, message: str, value: float) -> None:
    """With a message that names them, and the parameters of the last good update."""
    environments = breaking(what, value, length)
    model = A2C("GRUPolicy", lambda: next(environments), n_envs=2, unroll_length=7, seed=0)
    good: dict[str, Tensor] = {}

    class Keep:
        def __call__(self, *_: Any) -> bool:
            good.update({name: tensor.clone() for name, tensor in model.policy.state_dict().items()})
            return True

    with pytest.raises(FloatingPointError, match=message):
        model.learn(1000, callback=Keep())
    assert 28 <= model.num_timesteps // 2 <= 34
    for name, tensor in model.policy.state_dict().items():
        assert tensor.isfinite().all(), name
        assert torch.equal(tensor, good[name]), name


def test_the_final_observation_of_a_terminated_episode_does_not_matter() -> None:
    """Nothing is computed from it."""
    environments = breaking("final observation", np.nan, length=4)
    model = A2C("GRUPolicy", lambda: next(environments), n_envs=2, unroll_length=7, seed=0)
    model.learn(140)
    assert all(tensor.isfinite().all() for tensor in model.policy.state_dict().values())


@pytest.mark.parametrize("key", ["previous_reward", "observation"])
def test_the_part_of_a_dict_is_named(key: str) -> None:
    actor, _ = build(previous=True)
    assert isinstance(actor.observation, dict)
    actor.observation[key][2] = np.nan
    with pytest.raises(FloatingPointError, match=rf"environment 2: observation\['{key}'\]"):
        unroll(actor)


@every_core
def test_the_learner_takes_over_what_the_actor_has_computed(core: str) -> None:
    """A batch that is one unroll is recorded, if the core can, and what is learned changes by round-off only."""
    (with_it, learner), (without, other_learner) = (build(core) for _ in range(2))
    source = LockStep(with_it, BATCH)
    for seed in range(3):
        torch.manual_seed(seed)
        recorded = source.batch(go_on)
        torch.manual_seed(seed)
        plain = unroll(without)
        assert recorded is not None
        torch.testing.assert_close(recorded.rewards, plain.rewards)
        assert source.recording is not None
        assert (source.recording.core is not None) == (core != "identity")
        learner.update(recorded, source.recording)
        source.updated()
        assert source.recording is None, "the parameters have changed"
        other_learner.update(plain)
    for one, other in zip(with_it.network.parameters(), without.network.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("batch_size", [1, 2 * BATCH])
def test_batches_that_are_not_one_unroll_are_not_recorded(batch_size: int) -> None:
    source = LockStep(build("lstm")[0], batch_size)
    assert source.batch(go_on) is not None
    assert source.recording is None

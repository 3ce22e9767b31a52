"""Evaluation: fair shares, seeds, agreement with Stable-Baselines3's, and what it leaves alone."""

from itertools import islice
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecEnv

from agents.evaluate import Evaluation, evaluate, rollout
from rmc_rl.policies import POLICIES, RecurrentPolicy
from rmc_rl.vec_env import make_vec_env


class Lottery(gym.Env[Any, Any]):
    """Observes noise, rewards the action times the noise; episodes of 1 to 9 steps."""

    observation_space = spaces.Box(-1.0, 1.0, (3,), np.float32)
    action_space = spaces.Discrete(4)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.clock, self.length = 0, int(self.np_random.integers(1, 10))
        return self._observe(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.clock += 1
        ended, reward = self.clock == self.length, float(action * self.noise[0])
        info = {"level": self.length} if ended else {}
        return self._observe(), reward, ended and self.length % 2 == 0, ended and self.length % 2 == 1, info

    def _observe(self) -> Any:
        self.noise = self.np_random.uniform(-1, 1, 3).astype(np.float32)
        return self.noise


def policy(name: str = "GRUPolicy") -> RecurrentPolicy:
    torch.manual_seed(3)
    core = "lstm" if POLICIES[name].core is None else None
    built = POLICIES[name](Lottery.observation_space, Lottery.action_space, core=core, embedding_size=6)
    with torch.no_grad():
        built.network.policy_head.weight.normal_(std=1.0)
    return built


def environments(num_envs: int = 3) -> VecEnv:
    return make_vec_env(Lottery, num_envs)


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("name", POLICIES)
def test_agrees_with_sb3(name: str, deterministic: bool) -> None:
    """The same seeds give the same actions, so the same episodes, here and in `evaluate_policy`."""
    evaluated, env = policy(name), environments()
    ours = evaluate(evaluated, env, 11, seed=5, deterministic=deterministic)
    env.seed(5)
    torch.manual_seed(5)
    returns, lengths = evaluate_policy(evaluated, env, 11, deterministic, return_episode_rewards=True)  # type: ignore
    # Stable-Baselines3 lists episodes as they end, we environment by environment.
    theirs = sorted(zip(lengths, returns, strict=True))
    np.testing.assert_allclose(sorted(zip(ours.lengths, ours.returns, strict=True)), theirs, rtol=1e-5, atol=1e-5)
    assert len(set(lengths)) > 3


def test_rollouts_take_the_actions_that_sb3_takes() -> None:
    evaluated, env = policy(), environments(2)
    torch.manual_seed(9)
    ours = [step.actions for step in islice(rollout(evaluated, env, seed=5), 12)]
    theirs: list[Any] = []
    env.seed(5)
    torch.manual_seed(9)

    def record(local_variables: dict[str, Any], _: dict[str, Any]) -> None:
        if local_variables["i"] == 0:
            theirs.append(local_variables["actions"])

    evaluate_policy(evaluated, env, 100, deterministic=False, callback=record)  # type: ignore[arg-type]
    np.testing.assert_array_equal(ours, theirs[:12])


def test_every_environment_plays_its_share() -> None:
    """8 episodes in 3 environments are 2, 3 and 3: the first ones of each, not the shortest of all."""
    env, evaluated = environments(3), policy()
    evaluation = evaluate(evaluated, env, 8, seed=5)
    expected: list[list[tuple[float, int]]] = [[], [], []]
    returns, lengths = np.zeros(3), np.zeros(3, int)
    torch.manual_seed(5)
    for step in islice(rollout(evaluated, env, seed=5), 60):
        returns, lengths = returns + step.rewards, lengths + 1
        for i in np.flatnonzero(step.dones):
            expected[i].append((returns[i], lengths[i]))
            returns[i] = lengths[i] = 0
    wanted = [episode for row, share in zip(expected, (2, 3, 3), strict=True) for episode in row[:share]]
    assert list(zip(evaluation.returns.tolist(), evaluation.lengths.tolist(), strict=True)) == wanted
    assert [info["level"] for info in evaluation.infos] == evaluation.lengths.tolist()


@pytest.mark.parametrize(("episodes", "num_envs"), [(1, 3), (2, 3), (3, 3), (7, 2), (5, 1)])
def test_number_of_episodes(episodes: int, num_envs: int) -> None:
    """Exactly as many as asked, also fewer than environments."""
    evaluation = evaluate(policy(), environments(num_envs), episodes, seed=1)
    assert len(evaluation.returns) == len(evaluation.lengths) == len(evaluation.infos) == episodes


def test_seed_decides_everything() -> None:
    def returns(seed: int) -> list[float]:
        return evaluate(policy(), environments(), 9, seed).returns.tolist()

    assert returns(1) == returns(1)
    assert returns(1) != returns(2)


def test_global_random_numbers_are_left_alone() -> None:
    """Evaluating during training does not change the training."""
    evaluated, env = policy(), environments()
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    evaluate(evaluated, env, 4, seed=1)
    assert torch.equal(torch.rand(3), expected)


def test_the_memory_starts_afresh_with_each_episode() -> None:
    """What a policy with a memory does in an episode depends on nothing before it."""
    evaluated, env = policy("LSTMPolicy"), environments(1)
    env.seed(5)
    observation, state, first = env.reset(), None, True
    actions = []
    for _ in range(40):
        action, state = evaluated.predict(observation, None if first else state, deterministic=True)
        observation, _, dones, _ = env.step(action)
        first = bool(dones[0])
        actions.append(action)
    steps = list(islice(rollout(evaluated, env, seed=5, deterministic=True), 40))
    np.testing.assert_array_equal(actions, [step.actions for step in steps])
    assert sum(step.dones[0] for step in steps) > 4


def test_summary() -> None:
    infos = [{"level": 1}, {"level": 2}, {"level": 6}]
    summary = Evaluation(np.array([1.0, 2.0, 6.0]), np.array([3, 4, 8]), infos).summary()
    assert summary == {
        "episodes": 3,
        "mean_return": 3.0,
        "standard_error": pytest.approx(np.sqrt((4 + 1 + 9) / 2 / 3)),
        "mean_length": 5.0,
        "mean_level": 3.0,
    }
    one = Evaluation(np.array([1.0]), np.array([3]), [{}]).summary()
    assert np.isnan(one.pop("standard_error"))
    assert one == {"episodes": 1, "mean_return": 1.0, "mean_length": 3.0}


@pytest.mark.parametrize("episodes", [0, -2])
def test_no_episodes(episodes: int) -> None:
    with pytest.raises(ValueError, match=f"episodes must be at least 1, got {episodes}"):
        evaluate(policy(), environments(), episodes, seed=0)

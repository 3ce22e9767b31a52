"""Learning what cannot be learned without memory: the agents with a memory do it, the one without cannot."""

from typing import Any

import numpy as np
import pytest
import torch

from agents import A2C
from agents.evaluate import evaluate
from benchmarks.recall import CUES, Recall
from rmc_rl.vec_env import make_vec_env

SETTINGS: dict[str, dict[str, Any]] = {
    "RMCPolicy": {"core_kwargs": {"mem_slots": 2, "head_size": 8, "num_heads": 2}, "learning_rate": 5e-3},
    "LSTMPolicy": {"core_kwargs": {"hidden_size": 16}, "learning_rate": 2e-2},
    "GRUPolicy": {"core_kwargs": {"hidden_size": 16}, "learning_rate": 2e-2},
    "FeedForwardPolicy": {"core_kwargs": {}, "learning_rate": 1e-2},
}
EPISODES = 400


def train(policy: str, steps: int, precision: str = "fp32") -> A2C:
    model = A2C(
        policy,
        Recall,
        n_envs=32,
        seed=0,
        policy_kwargs={
            "core_kwargs": SETTINGS[policy]["core_kwargs"],
            "embedding_size": 16,
            "precision": precision,
        },
        unroll_length=10,  # no multiple of the episodes' length: they go on from one unroll into the next
        learning_rate=SETTINGS[policy]["learning_rate"],
        learning_rate_schedule="linear",
        discount=0.9,
    )
    return model.learn(steps)


def mean_return(model: A2C) -> float:
    return float(evaluate(model.policy, make_vec_env(Recall, 20), EPISODES, seed=1).returns.mean())


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(("policy", "steps"), [("RMCPolicy", 40_000), ("LSTMPolicy", 60_000), ("GRUPolicy", 60_000)])
def test_agents_with_a_memory_learn_to_recall(policy: str, steps: int, precision: str) -> None:
    assert mean_return(train(policy, steps, precision)) > 0.95


def test_agents_without_a_memory_stay_at_chance() -> None:
    """The observation on which the rewarded action is taken is the same after every cue.

    A policy that sees it alone gives each action the same probability whatever the cue, and each cue comes up with
    probability 1 / CUES: no training can raise the expected return above that.
    """
    model = train("FeedForwardPolicy", 20_000)
    standard_error = np.sqrt(1 / CUES * (1 - 1 / CUES) / EPISODES)
    assert abs(mean_return(model) - 1 / CUES) < 4 * standard_error


def test_recall_shows_the_cue_once_and_says_nothing_after() -> None:
    """What the two tests above rest on."""
    env = Recall(delay=3)
    after: dict[int, list[tuple[Any, ...]]] = {}
    for seed in range(30):
        first, _ = env.reset(seed=seed)
        seen = [first, *(env.step(0)[0] for _ in range(3))]
        assert np.argmax(seen[0]) == env.cue
        after.setdefault(env.cue, []).append(tuple(map(tuple, seen[1:])))
        assert env.step(env.cue)[1:4] == (1.0, True, False)
        env.reset(seed=seed)
        rewards = [env.step((env.cue + (step == 3)) % CUES)[1] for step in range(4)]
        assert rewards == [0.0] * 4  # neither the cue too early nor a wrong one at the end
    assert set(after) == set(range(CUES))
    assert len({episode for episodes in after.values() for episode in episodes}) == 1


def test_a_policy_without_memory_cannot_tell_cues_apart() -> None:
    """Whatever its weights; one with a memory can."""
    for name, differs in [("FeedForwardPolicy", False), ("GRUPolicy", True)]:
        torch.manual_seed(0)
        model = A2C(name, Recall, policy_kwargs={"embedding_size": 16})
        last_outputs = []
        for cue in range(CUES):
            observations = torch.eye(CUES + 1)[[cue, CUES, CUES, CUES]].unsqueeze(1)  # [T, 1, CUES + 1]
            network = model.policy.network
            output, _ = network(observations, network.initial_state(1), torch.zeros(4, 1, dtype=torch.bool))
            last_outputs.append(output.policy[-1])
        assert torch.equal(last_outputs[0], last_outputs[1]) != differs

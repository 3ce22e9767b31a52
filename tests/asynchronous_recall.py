"""What IMPALA is asked to learn with actors that lag behind, however much: the machine decides, not the seed."""

from collections.abc import Callable
from typing import Any

import numpy as np

from agents import IMPALA, Placement
from agents.evaluate import evaluate
from benchmarks.recall import Recall
from rmc_rl.vec_env import make_vec_env

ENOUGH, EPISODES = 0.99, 1_000
"""A return, and of how many episodes in a row: among as many as 100, a lucky stretch passes for what is learned."""
AT_MOST_STEPS = 500_000
"""Several times what was ever needed: now and then, two of three cues are all that is known for a long time."""


def mean_return_after_learning(placement: Placement, on_step: Callable[[], None] = lambda: None) -> float:
    """Train until nearly every cue is recalled; chance is 1 / 3, and no more is possible without memory."""
    model = IMPALA(
        "GRUPolicy",
        Recall,
        32,
        policy_kwargs={"core_kwargs": {"hidden_size": 16}, "embedding_size": 16},
        placement=placement,
        batch_size=32,
        unroll_length=10,
        learning_rate=1e-2,
        discount=0.9,
        optimizer="adam",
        loss_reduction="mean",
        max_gradient_norm=0.5,
        normalize_advantages=True,
        stats_window_size=EPISODES,
        seed=0,
        device="cpu",
    )

    def go_on(*_: Any) -> bool:
        on_step()
        last = [episode["r"] for episode in model.ep_info_buffer or ()]
        return len(last) < EPISODES or float(np.mean(last)) < ENOUGH

    model.learn(AT_MOST_STEPS, callback=go_on)
    return float(evaluate(model.policy, make_vec_env(Recall, 20), 400, seed=1).returns.mean())

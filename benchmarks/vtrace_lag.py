"""What V-trace is worth: `python -m benchmarks.vtrace_lag --output vtrace_lag.png`.

An agent with an LSTM learns to recall a cue (`benchmarks.recall`) from an actor whose parameters are a fixed number of
updates old, once with V-trace's importance weights and once as if the unrolls were its own policy's (all weights 1).
Prints one JSON object for each lag and kind, the mean return of the last tenth of training with its standard error over
the seeds, and draws the learning curves.
"""

import argparse
import json
import sys
from collections import deque
from copy import deepcopy
from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray

from agents.actor import Actor, VecObservation
from agents.hyperparameters import Hyperparameters
from agents.learner import Learner
from agents.trajectory import Trajectory
from rmc_rl.network import RecurrentActorCritic
from rmc_rl.vec_env import make_vec_env

from .recall import Recall

LAGS = (1, 4, 16)
NUM_ENVS, DELAY = 32, 3
EPISODE_STEPS = DELAY + 1
SETTINGS = Hyperparameters(
    unroll_length=12,
    learning_rate=5e-3,
    discount=0.9,
    gae_lambda=1.0,
    normalize_advantages=False,
    entropy_cost=0.05,
    max_gradient_norm=0.1,
)


def train(lag: int, corrected: bool, seed: int, updates: int) -> NDArray[np.float64]:
    """The mean return of the episodes of every unroll, [updates]."""
    torch.manual_seed(seed)
    env = make_vec_env(lambda: Recall(DELAY), NUM_ENVS)
    env.seed(seed)
    network = RecurrentActorCritic(
        env.observation_space, env.action_space, "lstm", {"hidden_size": 16}, embedding_size=16
    )
    learner, actor = Learner(network, SETTINGS), Actor(env, deepcopy(network), SETTINGS)
    actor.start(cast(VecObservation, env.reset()))
    versions = deque([deepcopy(network.state_dict())], maxlen=lag + 1)  # the actor acts with the oldest
    returns = np.zeros(updates)
    for update in range(updates):
        actor.network.load_state_dict(versions[0])
        trajectory = actor.unroll(lambda *_: True)
        assert trajectory is not None
        if not corrected:
            call_on_policy(network, trajectory)
        learner.update(trajectory)
        versions.append(deepcopy(network.state_dict()))
        returns[update] = trajectory.rewards.sum() / trajectory.terminated.sum()
    return returns


@torch.no_grad()
def call_on_policy(network: RecurrentActorCritic, trajectory: Trajectory) -> None:
    """Make the behaviour policy look like the network's, so that every importance weight is 1."""
    output, _ = network(trajectory.observations, trajectory.initial_state, trajectory.starts)
    distribution = network.distribution(output.policy[:-1].flatten(0, 1))
    log_probs = distribution.log_prob(trajectory.actions.flatten(0, 1))
    trajectory.behaviour_log_probs.copy_(log_probs.view_as(trajectory.behaviour_log_probs))


def draw(curves: dict[tuple[int, bool], NDArray[np.float64]], path: Path) -> None:
    """One panel for each lag: mean over the seeds, and the range between them, in blocks of updates."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3), layout="constrained")
    for axes, lag in zip(figure.subplots(1, len(LAGS), sharex=True, sharey=True), LAGS, strict=True):
        for corrected, label in ((True, "V-trace"), (False, "no correction")):
            found = curves[lag, corrected]  # [seeds, updates]
            block = max(1, found.shape[1] // 50)
            smooth = found[:, : found.shape[1] // block * block].reshape(len(found), -1, block).mean(axis=2)
            steps = (np.arange(smooth.shape[1]) + 0.5) * block * NUM_ENVS * SETTINGS.unroll_length / 1000
            (line,) = axes.plot(steps, smooth.mean(axis=0), label=label)
            axes.fill_between(steps, smooth.min(axis=0), smooth.max(axis=0), color=line.get_color(), alpha=0.2)
        axes.set(title=f"actor {lag} update{'s' if lag > 1 else ''} behind", xlabel="thousand steps", ylim=(0, 1.02))
        axes.axhline(1 / 3, color="grey", linewidth=0.8, linestyle=":")
    figure.axes[0].set_ylabel("return")
    figure.axes[0].legend(loc="lower right")
    figure.savefig(path, dpi=120)


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser("python -m benchmarks.vtrace_lag", description=__doc__)
    parser.add_argument("--seeds", type=int, default=5, help="runs of each kind")
    parser.add_argument("--updates", type=int, default=800, help="of each run")
    parser.add_argument("--output", type=Path, metavar="PNG", help="also draw a picture")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    curves = {}
    for lag in LAGS:
        for corrected in (True, False):
            runs = [train(lag, corrected, seed, options.updates) for seed in range(options.seeds)]
            curves[lag, corrected] = np.stack(runs)
            last = curves[lag, corrected][:, -options.updates // 10 :].mean(axis=1)  # [seeds]
            figures = {
                "mean_return": round(float(last.mean()), 3),
                "standard_error": round(float(last.std(ddof=1) / np.sqrt(len(last))), 3),
                "worst": round(float(last.min()), 3),
            }
            print(json.dumps({"lag": lag, "v_trace": corrected, "seeds": options.seeds, **figures}), flush=True)
    if options.output:
        draw(curves, options.output)


if __name__ == "__main__":
    main(sys.argv[1:])

"""Trained steps/s of sb3-contrib's RecurrentPPO with our RMC and with its own LSTM: `python -m benchmarks.contrib`.

Prints one JSON object a line. The RMC has 4 slots of 64 numbers; the LSTM's h and c hold as many, 2 x 128, or twice as
many, 2 x 256. All else of the policies is their default. Episodes have 25 steps (a cue is to be recalled). One setting
is RecurrentPPO's default (10 epochs in batches of 128) with 8 environments, the other is made for speed (one epoch in
one batch) with 64. The policies take turns; a ratio is the median of the rounds' own ratios, with the lowest and the
highest.
"""

import argparse
import json
import statistics
import sys
import time
from typing import Any

import torch
from sb3_contrib import RecurrentPPO
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.vec_env import DummyVecEnv

import rmc_rl  # noqa: F401, it adds our policies

from .cores import spread
from .recall import Recall

OURS = "RMC 4 x 64"
POLICIES: dict[str, tuple[str, dict[str, Any]]] = {
    OURS: ("RMCPolicy", {}),
    "LSTM 128": ("MlpLstmPolicy", {"lstm_hidden_size": 128}),
    "LSTM 256": ("MlpLstmPolicy", {"lstm_hidden_size": 256}),
}
SETTINGS: dict[str, dict[str, Any]] = {
    "defaults": {"num_envs": 8, "n_steps": 128, "batch_size": 128, "n_epochs": 10},
    "one epoch": {"num_envs": 64, "n_steps": 40, "batch_size": 64 * 40, "n_epochs": 1},
}


def make_agent(policy: str, policy_kwargs: dict[str, Any], num_envs: int, **settings: Any) -> RecurrentPPO:
    env = DummyVecEnv([lambda: Recall(delay=24)] * num_envs)
    agent = RecurrentPPO(policy, env, policy_kwargs=policy_kwargs, seed=0, device="cpu", **settings)
    agent.set_logger(Logger(None, []))
    return agent


def steps_per_second(agent: RecurrentPPO, seconds: float) -> float:
    """Of rollouts and updates, for at least so long."""
    begin, before = time.perf_counter(), agent.num_timesteps
    while (elapsed := time.perf_counter() - begin) < seconds:
        agent.learn(agent.n_steps * agent.n_envs, reset_num_timesteps=False)
    return (agent.num_timesteps - before) / elapsed


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser("python -m benchmarks.contrib", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="of each policy under each setting")
    parser.add_argument("--seconds", type=float, default=5.0, help="of one round of one policy, at least")
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    for name, settings in SETTINGS.items():
        agents = {policy: make_agent(*POLICIES[policy], **settings) for policy in POLICIES}
        for agent in agents.values():
            agent.learn(agent.n_steps * agent.n_envs)
        rounds = [
            {policy: steps_per_second(agent, options.seconds) for policy, agent in agents.items()}
            for _ in range(options.rounds)
        ]
        for policy in POLICIES:
            line: dict[str, Any] = {"settings": name, "policy": policy, "threads": options.threads}
            line["steps_per_second"] = round(statistics.median(one[policy] for one in rounds))
            if policy != OURS:
                line["ratio"] = spread([one[OURS] / one[policy] for one in rounds])  # ours to this one
            print(json.dumps(line | {"rounds": options.rounds}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])

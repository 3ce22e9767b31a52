"""IMPALA with actors that are killed again and again: `python -m benchmarks.soak --output soak.csv`.

Trains on Mini-Pacman with placement `local` and kills one actor process every so many seconds. Prints one JSON object:
restarts, steps, resident memory of the learner and of an actor after one minute and at the end, blocks of shared memory
and open files before and after, and the mean return over the first and the last tenth of the time. The CSV has a row
for every ten seconds.
"""

import argparse
import csv
import json
import math
import multiprocessing
import os
import random
import signal
import sys
import time
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.utils import safe_mean

from agents import IMPALA
from agents.placement import Placement

from .memory import resident_bytes
from .train import CORES, ENVIRONMENT

SAMPLE_SECONDS = 10.0


@dataclass(frozen=True)
class Sample:
    """The state of things at one moment."""

    seconds: float
    steps: int
    kills: int
    mean_return: float
    learner_mb: float
    actors_mb: float
    """Of all together."""
    actors: int
    shared_memory_blocks: int
    open_files: int


class Killer(BaseCallback):
    """Kills an actor now and then, and takes samples."""

    def __init__(self, seconds: float, interval: float) -> None:
        super().__init__()
        self.seconds, self.interval = seconds, interval
        self.random = random.Random(0)
        self.kills = 0
        self.samples: list[Sample] = []

    def _on_training_start(self) -> None:
        self.begin = self.last_kill = self.last_sample = time.monotonic()

    def _on_step(self) -> bool:
        now = time.monotonic()
        if now - self.last_kill >= self.interval:
            self.last_kill = now
            self._kill()
        if now - self.last_sample >= SAMPLE_SECONDS:
            self.last_sample = now
            self.samples.append(self._sample(now - self.begin))
        return now - self.begin < self.seconds

    def _kill(self) -> None:
        actors = [child for child in multiprocessing.active_children() if child.name.startswith("actor")]
        if actors:
            os.kill(self.random.choice(actors).pid or 0, signal.SIGKILL)
            self.kills += 1

    def _sample(self, seconds: float) -> Sample:
        actors = [child.pid or 0 for child in multiprocessing.active_children()]
        in_actors = sum(map(resident_bytes, actors))
        return Sample(
            seconds=round(seconds, 1),
            steps=self.num_timesteps,
            kills=self.kills,
            mean_return=round(safe_mean([episode["r"] for episode in self.model.ep_info_buffer or ()]), 1),
            learner_mb=round((resident_bytes(os.getpid()) - in_actors) / 2**20, 1),
            actors_mb=round(in_actors / 2**20, 1),
            actors=len(actors),
            shared_memory_blocks=len(os.listdir("/dev/shm")),
            open_files=len(os.listdir("/proc/self/fd")),
        )


def make_agent(num_actors: int, interval: float) -> IMPALA:
    policy, core_kwargs = CORES["RMC 4 x 64"]
    agent = IMPALA(
        policy,
        "envs:MiniPacman-v0",
        128,
        env_kwargs=ENVIRONMENT,
        previous_action_reward=True,
        policy_kwargs={"core_kwargs": core_kwargs},
        placement=Placement(kind="local", actors=num_actors, max_restarts=int(2 * 600 / interval)),
        seed=0,
        device="cpu",
        unroll_length=20,
        batch_size=64,
        reward_scale=0.1,
        stats_window_size=500,
    )
    agent.set_logger(Logger(None, []))
    return agent


def figures(samples: list[Sample]) -> dict[str, Any]:
    first = next(sample for sample in samples if sample.seconds >= min(60, samples[-1].seconds / 2))
    last, tenth = samples[-1], max(1, len(samples) // 10)
    return {
        "minutes": round(last.seconds / 60, 1),
        "kills": last.kills,
        "steps": last.steps,
        "first": asdict(first),
        "last": asdict(last),
        "return_of_first_tenth": mean_return(samples[:tenth]),
        "return_of_last_tenth": mean_return(samples[-tenth:]),
    }


def mean_return(samples: list[Sample]) -> float:
    """Of those that have any: the first episodes take their time to end."""
    return round(safe_mean([sample.mean_return for sample in samples if not math.isnan(sample.mean_return)]), 1)


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser("python -m benchmarks.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--interval", type=float, default=20.0, help="seconds between two kills")
    parser.add_argument("--actors", type=int, default=2)
    parser.add_argument("--output", type=Path, metavar="CSV", help="also write every sample")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", RuntimeWarning)  # of every restart
    killer = Killer(60 * options.minutes, options.interval)
    make_agent(options.actors, options.interval).learn(10**12, killer)
    found = figures(killer.samples) | {
        "left": {
            "processes": len(multiprocessing.active_children()),
            "shared_memory_blocks": len(os.listdir("/dev/shm")),
        }
    }
    print(json.dumps(found))
    if options.output:
        with options.output.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(asdict(killer.samples[0])))
            writer.writeheader()
            writer.writerows(map(asdict, killer.samples))


if __name__ == "__main__":
    main(sys.argv[1:])

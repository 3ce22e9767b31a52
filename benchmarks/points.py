"""What an agent's points on Mini-Pacman are made of: `python -m benchmarks.points RUN [RUN ...]`.

Trained agents play fresh games in the mode `regular`, actions sampled. Prints one JSON object for each agent: the mean
return of a game with its standard error, and what was eaten in it of food (1 point), pills (2) and ghosts (5).
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from agents.config import EnvironmentConfig
from agents.evaluate import rollout
from play import Parser, whole
from rmc_rl.policies import RecurrentPolicy
from rmc_rl.vec_env import make_vec_env

from .trained import Trained

SEED = 5_000_000
"""Of the first game; those of training, evaluation, videos and the probe are below it."""


class Eaten(NamedTuple):
    """In one step of each game, or in a whole game."""

    food: NDArray[np.int64]
    pills: NDArray[np.int64]
    ghosts: NDArray[np.int64]

    @classmethod
    def of(cls, rewards: NDArray[np.float32]) -> "Eaten":
        """What a step's rewards say: at most one of each is eaten in it, and each sum of 1, 2 and 5 is made one way."""
        points = rewards.astype(np.int64)
        return cls(points % 5 % 2, points % 5 // 2, points // 5)


def play(policy: RecurrentPolicy, environment: EnvironmentConfig, games: int) -> dict[str, Any]:
    """Means over so many games, one in each environment.

    Raises:
        ValueError: another game, or another mode of it.
    """
    if "MiniPacman" not in environment.id or environment.kwargs.get("mode", "regular") != "regular":
        raise ValueError(f"environment must be Mini-Pacman in mode regular, got {environment.id}, {environment.kwargs}")
    env = make_vec_env(environment.id, games, environment.kwargs, environment.previous_action_reward)
    eaten, playing = np.zeros((len(Eaten._fields), games)), np.ones(games, np.bool_)
    torch.manual_seed(SEED)
    for step in rollout(policy, env, SEED):
        eaten += np.array(Eaten.of(step.rewards)) * playing
        playing &= ~step.dones
        if not playing.any():
            break
    returns = np.array([1, 2, 5]) @ eaten  # [games]
    figures = {
        "mean_return": returns.mean(),
        "standard_error": returns.std(ddof=1) / np.sqrt(games),
        **Eaten(*eaten.mean(axis=1))._asdict(),
    }
    return {name: round(float(figure), 2) for name, figure in figures.items()} | {"games": games}


def main(arguments: list[str]) -> int:
    """Returns the exit code: 0, 2 for bad input, 130 if interrupted."""
    parser = Parser(
        "python -m benchmarks.points", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="a run's folder, or an agent of pretrained/")
    parser.add_argument("--games", type=whole(2), default=1000, metavar="N", help="of each agent; default: 1000")
    options = parser.parse_args(arguments)
    try:
        for run in options.runs:
            agent = Trained.read(run)
            found = play(agent.policy, agent.environment, options.games)
            print(json.dumps({"agent": agent.name, **found}), flush=True)
    except (ValueError, OSError) as error:
        print(f"points: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

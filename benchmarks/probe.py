"""What a memory holds: `python -m benchmarks.probe RUN [RUN ...]`.

Trained agents play fresh games of Mini-Pacman through their viewport, and a linear probe (`benchmarks.linear_probe`)
reads from the core's state what the last window does not show: for each cell of the maze outside of it, whether there
is food, among moments with as much food left (in steps of 5); and for each direction, whether a ghost is within 3 cells
outside of it, among moments with as many ghosts. Beside the state, on the same moments, it reads

- `untrained`: the state of the same network with fresh weights, which is shown the same games;
- `window`: the last observation alone: the window, the previous action and reward;
- `window, state` and `window, untrained`: both, for what a state adds to the window.

A core without a state is probed at its output. Prints one JSON object for each figure (`gain` is the AUC less that of
the window; chance is 0.5), and writes probe.csv, a line for each label and input, and probe.png.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np
import torch

from agents.actor import VecObservation
from agents.config import EnvironmentConfig
from envs import MiniPacmanVectorEnv
from envs.mini_pacman.maze import COLUMNS, FREE, ROWS
from play import Parser, whole
from rmc_rl.figures import COLORS, save
from rmc_rl.policies import NumpyState, RecurrentPolicy
from rmc_rl.run_folder import write_text
from rmc_rl.vec_env import make_vec_env

from .linear_probe import Features, Labels, Mask, can_be_probed, mean_with_interval, probe
from .tables import comma_separated
from .trained import Trained

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SEED = 4_000_000
"""Of the first game; those of training, evaluation and videos are below it."""
MOST_STEPS = 3000
"""Of a game; a longer one is cut there."""
STEPS_BETWEEN_MOMENTS = 5
REACH = 3
"""Cells outside of the window within which a ghost counts."""
INPUTS = ("window", "state", "untrained", "window, state", "window, untrained")
NAMES = {
    "food": [f"food {row} {column}" for row, column in np.argwhere(FREE)],
    "ghost": [f"ghost {direction}" for direction in ("right", "up", "left", "down")],
}
"""Of the labels, by their kind."""
TITLES = {"food": "food in a cell outside of the window", "ghost": f"a ghost within {REACH} cells outside of it"}


class Moments(NamedTuple):
    """What was seen of N moments in G games."""

    inputs: dict[str, Features]
    """[N, F] each, by the name in `INPUTS`."""
    labels: dict[str, Labels]
    """By their kind."""


class Player:
    """A policy that plays, or only looks on, and what its core holds after each step."""

    def __init__(self, policy: RecurrentPolicy) -> None:
        self.policy = policy
        self.state: NumpyState | None = None
        self.embedding = torch.empty(0)
        policy.network.embedding.register_forward_hook(self._keep)

    def _keep(self, _: object, __: object, output: torch.Tensor) -> None:
        self.embedding = torch.relu(output)

    def act(self, observation: VecObservation, starts: Mask, deterministic: bool = False) -> np.ndarray:
        actions, self.state = self.policy.predict(observation, self.state, starts, deterministic)
        return actions

    def features(self) -> Features:
        """[B, F]: the state after the last observation; without one, the embedding, which is that core's output."""
        return joined(self.state or [self.embedding.cpu().numpy()])


def joined(parts: Sequence[Any]) -> Features:
    """Parts [B, ...] as one, [B, F]."""
    return np.concatenate([np.asarray(part, np.float32).reshape(len(part), -1) for part in parts], axis=1)


def outside(pacman: Sequence[int], viewport: int) -> tuple[Mask, Mask]:
    """Free cells outside of the window, [15, 19], and those of them within REACH in each direction, [4, 15, 19].

    A cell on a diagonal is in two directions.
    """
    rows, columns = np.ogrid[:ROWS, :COLUMNS]
    down, right = rows - pacman[0], columns - pacman[1]  # [15, 1], [1, 19]
    beyond = np.maximum(abs(down), abs(right)) - viewport // 2  # [15, 19]
    sides = np.stack([right >= abs(down), -down >= abs(right), -right >= abs(down), down >= abs(right)])
    return FREE & (beyond > 0), FREE & (beyond > 0) & (beyond <= REACH) & sides


def label(game: int, state: Mapping[str, Any], viewport: int) -> dict[str, tuple[Any, ...]]:
    """A moment of `Labels` for each kind: of food in each free cell, and of ghosts in each direction.

    A cell is asked for when it is outside of the window; a direction, when the maze has cells there.
    """
    cells, near = outside(state["pacman"], viewport)
    rows, columns = state["ghosts"].T
    return {
        "food": (game, state["food"].sum() // 5, state["food"][FREE], cells[FREE]),
        "ghost": (game, len(rows), near[:, rows, columns].any(axis=1), near.any(axis=(1, 2))),
    }


def play(policy: RecurrentPolicy, environment: EnvironmentConfig, games: int) -> Moments:
    """Have an agent play so many games, actions sampled, and look at every fifth step.

    Raises:
        ValueError: another environment than Mini-Pacman through a viewport.
    """
    env = make_vec_env(environment.id, games, environment.kwargs, environment.previous_action_reward)
    game = getattr(getattr(env.unwrapped, "env", None), "unwrapped", None)
    viewport = environment.kwargs.get("viewport", 5)
    if not isinstance(game, MiniPacmanVectorEnv) or not isinstance(viewport, int):
        raise ValueError(f"environment must be Mini-Pacman through a viewport, got {environment.id} with {viewport=}")
    torch.manual_seed(SEED)
    fresh = type(policy)(policy.observation_space, policy.action_space, **policy.network_kwargs)
    player, untrained = Player(policy), Player(fresh)
    env.seed(SEED)
    observation, starts = env.reset(), np.ones(games, np.bool_)
    playing, seen = np.ones(games, np.bool_), []
    for step in range(MOST_STEPS):
        shown = cast(VecObservation, observation)
        actions = player.act(shown, starts)
        untrained.act(shown, starts, deterministic=True)  # draws no random numbers
        if step % STEPS_BETWEEN_MOMENTS == 0:
            rows = np.flatnonzero(playing).tolist()
            states = [game.get_state(row) for row in rows]
            window = joined(list(shown.values()) if isinstance(shown, dict) else [shown])
            inputs = [window[rows], player.features()[rows], untrained.features()[rows]]
            seen.append((inputs, [label(row, state, viewport) for row, state in zip(rows, states, strict=True)]))
        observation, _, starts, _ = env.step(actions)
        playing &= ~starts
        if not playing.any():
            break
    parts, labels = zip(*seen, strict=True)
    inputs = [np.concatenate(each) for each in zip(*parts, strict=True)]
    inputs += [joined([inputs[0], inputs[1]]), joined([inputs[0], inputs[2]])]
    found = [moment for moments in labels for moment in moments]
    kinds = {kind: Labels(*map(np.array, zip(*(one[kind] for one in found), strict=True))) for kind in NAMES}
    return Moments(dict(zip(INPUTS, inputs, strict=True)), kinds)


def study(run: Path, games: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """An agent's figures, one for each kind of label and input, and its lines of probe.csv.

    Raises:
        ValueError: no run or agent of that name, one that cannot be read, another game, or too few games.
    """
    agent_name, policy, environment = Trained.read(run)
    moments = play(policy, environment, games)
    figures, lines = [], []
    for kind, labels in moments.labels.items():
        probed = can_be_probed(labels)
        if not probed.any():
            raise ValueError(f"{run}: no label of {kind} varies enough to be probed: try more --games")
        labels = labels._replace(true=labels.true[:, probed], asked=labels.asked[:, probed])
        shares = (labels.true & labels.asked).sum(axis=0) / labels.asked.sum(axis=0)
        probes = {name: probe(features, labels) for name, features in moments.inputs.items()}
        for name, (aucs, penalty) in probes.items():
            agent = {"agent": agent_name, "core": policy.core, "input": name}
            figures.append(
                {
                    **agent,
                    "label": kind,
                    "features": moments.inputs[name].shape[1],
                    **rounded(("auc", "low", "high"), mean_with_interval(aucs)),
                    **rounded(("gain", "gain_low", "gain_high"), mean_with_interval(aucs - probes["window"][0])),
                    **rounded(("share_true",), [shares.mean()]),
                    "labels": int(probed.sum()),
                    "moments": len(labels.game),
                    "games": games,
                    "penalty": penalty,
                }
            )
            for one, share, auc in zip(np.array(NAMES[kind])[probed], shares, aucs[0], strict=True):
                lines.append({**agent, "label": one, **rounded(("share_true", "auc"), (share, auc))})
    return figures, lines


def rounded(names: Sequence[str], values: Sequence[float]) -> dict[str, float]:
    return {name: round(float(value), 3) for name, value in zip(names, values, strict=True)}


def draw(figures: Sequence[Mapping[str, Any]]) -> "Figure":
    """The AUC of every input for each agent, a panel for each kind of label."""
    from matplotlib.figure import Figure

    agents = list(dict.fromkeys(line["agent"] for line in figures))
    figure = Figure(figsize=(12, 4), layout="constrained")
    for axes, kind in zip(figure.subplots(1, 2, sharey=True), NAMES, strict=True):
        for number, (color, name) in enumerate(zip(COLORS, INPUTS, strict=False)):
            lines = [line for line in figures if (line["label"], line["input"]) == (kind, name)]
            auc, low, high = np.array([[line[column] for column in ("auc", "low", "high")] for line in lines]).T
            x = [agents.index(line["agent"]) + 0.12 * (number - 2) for line in lines]
            axes.errorbar(x, auc, (auc - low, high - auc), fmt="o", color=color, capsize=3, label=name)
        axes.axhline(0.5, color="#888888", linestyle="--", linewidth=1, label="chance")
        axes.set_xticks(range(len(agents)), agents, rotation=20)
        axes.set(title=TITLES[kind], xlim=(-0.6, len(agents) - 0.4))
        axes.grid(axis="y", color="#dddddd", linewidth=0.8)
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].set_ylabel("AUC (mean over cells or directions)")
    figure.legend(*figure.axes[0].get_legend_handles_labels(), edgecolor="none", loc="outside right center")
    return figure


def main(arguments: list[str]) -> int:
    """Returns the exit code: 0, 2 for bad input, 130 if interrupted."""
    parser = Parser("python -m benchmarks.probe", description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="a run's folder, or an agent of pretrained/")
    parser.add_argument("--games", type=whole(10), default=200, metavar="N", help="of each agent; default: 200")
    parser.add_argument("--output", type=Path, default=Path("runs", "probe"), help="folder; default: runs/probe")
    options = parser.parse_args(arguments)
    figures: list[dict[str, Any]] = []
    lines: list[dict[str, Any]] = []
    try:
        for run in options.runs:
            found, found_lines = study(run, options.games)
            print("\n".join(map(json.dumps, found)), flush=True)
            figures += found
            lines += found_lines
        options.output.mkdir(parents=True, exist_ok=True)
        write_text(options.output / "probe.csv", comma_separated(lines))
        save(draw(figures), options.output / "probe.png")
    except (ValueError, OSError) as error:
        print(f"probe: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

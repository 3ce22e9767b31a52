"""What the probe of a memory asks for, and that it runs from a run's folder to its figures."""

import csv
import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from gymnasium import spaces

from agents.config import AgentRun, EnvironmentConfig, PolicyConfig
from agents.training import make_agent
from benchmarks import linear_probe
from benchmarks.probe import INPUTS, NAMES, Player, label, main
from envs import MiniPacmanEnv
from envs.mini_pacman.maze import COLUMNS, FREE, ROWS
from play import PRETRAINED
from rmc_rl.policies import RecurrentPolicy
from rmc_rl.run_folder import RunFolder


def position(pacman: tuple[int, int], food: list[tuple[int, int]], ghosts: Any) -> dict[str, Any]:
    """What the probe needs of a state."""
    cells = np.zeros((ROWS, COLUMNS), bool)
    cells[tuple(np.transpose(food))] = True
    return {"pacman": np.array(pacman), "food": cells, "ghosts": np.array(ghosts, int).reshape(-1, 2)}


@pytest.mark.parametrize(
    ("ghosts", "viewport", "found"),
    [
        ([(3, 13)], 5, ["right"]),
        ([(3, 14)], 5, ["right"]),
        ([(3, 15)], 5, []),  # too far
        ([(3, 11), (1, 9)], 5, []),  # in the window
        ([(3, 11)], 3, ["right"]),
        ([(6, 12)], 5, ["right", "down"]),  # on the diagonal
        ([(3, 5), (9, 12)], 5, ["left"]),
        ([(7, 12), (8, 6)], 5, ["down"]),
        ([], 5, []),
    ],
)
def test_ghosts(ghosts: list[tuple[int, int]], viewport: int, found: list[str]) -> None:
    """From Pacman at (3, 9); the maze ends before there could be a ghost above."""
    game, stratum, true, asked = label(6, position((3, 9), [], ghosts), viewport)["ghost"]
    assert (game, stratum) == (6, len(ghosts))
    assert [name for name, one in zip(NAMES["ghost"], true, strict=True) if one] == [f"ghost {each}" for each in found]
    assert asked.tolist() == [True, viewport == 3, True, True]


def test_food() -> None:
    """Four pieces, of which one is in the window."""
    food = [(3, 1), (3, 10), (9, 17), (13, 8)]
    game, stratum, true, asked = label(6, position((3, 9), food, []), 5)["food"]
    names = [f"food {row} {column}" for row, column in food]
    assert (game, stratum) == (6, 0)
    assert [name for name, one in zip(NAMES["food"], true, strict=True) if one] == names
    assert [name for name, one in zip(NAMES["food"], true & asked, strict=True) if one] == [names[0], *names[2:]]


@pytest.mark.parametrize("viewport", [5, 9])
def test_what_is_asked_for_is_what_is_not_seen(viewport: int) -> None:
    env = MiniPacmanEnv(viewport=viewport, observation="planes")
    env.reset(seed=3)
    for row, column in np.argwhere(FREE)[::11]:
        state = env.get_state() | {"pacman": (row, column), "food": FREE}
        env.set_state(state)
        *_, asked = label(0, env.get_state(), viewport)["food"]
        assert (~asked).sum() == env.observe()[..., 1].sum()


@pytest.mark.parametrize(("core", "size"), [("lstm", 2 * 3), ("identity", 7)])
def test_features_are_what_the_core_holds(core: str, size: int) -> None:
    """After two steps, of which the second begins an episode in one row; without a state, what the core puts out."""
    space = spaces.Box(-1.0, 1.0, (4,))
    kwargs = {"core_kwargs": {"hidden_size": 3} if core == "lstm" else {}, "embedding_size": 7}
    policy = RecurrentPolicy(space, spaces.Discrete(2), core=core, **kwargs)
    player, state = Player(policy), policy.network.initial_state(5)
    for starts in (np.ones(5, bool), np.arange(5) == 2):
        observation = np.random.default_rng(starts.sum()).normal(size=(5, 4)).astype(np.float32)
        player.act(observation, starts)
        with torch.no_grad():
            output, state = policy.network.step(torch.tensor(observation), state, torch.tensor(starts))
    features = torch.tensor(player.features())
    assert features.shape == (5, size)
    if state:
        torch.testing.assert_close(features, torch.cat(state, dim=1))
    head = policy.network.value_head
    torch.testing.assert_close(head(features[:, : head.in_features])[:, 0].detach(), output.value)


def test_from_a_run_to_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the first steps of a trained agent's games."""
    monkeypatch.setattr(linear_probe, "PENALTIES", (0.1, 1.0))
    shutil.copytree(PRETRAINED / "quick_start", tmp_path / "run")
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    config["environment"]["kwargs"]["frame_cap"] = 45
    (tmp_path / "run" / "config.yaml").write_text(yaml.safe_dump(config))
    assert main([str(tmp_path / "run"), "--games", "26", "--output", str(tmp_path / "found")]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(line["label"], line["input"]) for line in lines] == [(kind, name) for kind in NAMES for name in INPUTS]
    sizes = {"state": 4 * 64, "untrained": 4 * 64, "window": 5 * 5 * 6 + 5 + 1}
    for line in lines:
        assert line["features"] == sum(sizes[part] for part in line["input"].split(", "))
        assert 0 < line["low"] <= line["auc"] <= line["high"] < 1
        assert line["moments"] <= 26 * 45 / 5
        assert (line["gain"] == 0) == (line["input"] == "window")
    with (tmp_path / "found" / "probe.csv").open() as file:
        assert len(list(csv.DictReader(file))) == sum(line["labels"] for line in lines)
    assert (tmp_path / "found" / "probe.png").stat().st_size > 0


def write_run(path: Path, environment: dict[str, Any]) -> None:
    """The folder of a run that has learned nothing."""
    policy = PolicyConfig(name="FeedForwardPolicy", embedding_size=7)
    config = AgentRun(environment=EnvironmentConfig(num_envs=2, **environment), policy=policy, device="cpu", replicas=1)
    make_agent(config).save(RunFolder.create(path, yaml.safe_dump(asdict(config))).model)


@pytest.mark.parametrize(
    ("arguments", "environment", "reason"),
    [
        (["nothing"], None, "there is no run folder nothing"),
        (["run"], {"id": "CartPole-v1"}, "environment must be Mini-Pacman through a viewport, got CartPole-v1"),
        (["run"], {"kwargs": {"viewport": None}}, "got envs:MiniPacman-v0 with viewport=None"),
        (["run"], {"kwargs": {"viewport": "centred"}}, "got envs:MiniPacman-v0 with viewport='centred'"),
        (["run", "--games", "10"], {"kwargs": {"frame_cap": 3}}, "run: no label of food varies enough to be probed"),
    ],
)
def test_bad_input(
    arguments: list[str],
    environment: dict[str, Any] | None,
    reason: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    if environment is not None:
        write_run(tmp_path / "run", environment)
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    lines = [line for line in err.splitlines() if not line.startswith("compiling ")]
    assert (out, len(lines)) == ("", 1), err
    assert lines[0].startswith("probe: ")
    assert reason in lines[0]

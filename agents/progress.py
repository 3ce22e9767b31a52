"""Where one replica of a run stands beside its model: games, core state and random numbers, in a file of its own."""

from collections import deque
from pathlib import Path
from typing import Any

from rmc_rl.checkpoint import CheckpointError, load_checkpoint, one_line, save_checkpoint, tensor_group
from rmc_rl.env_snapshot import restore_envs, snapshot_envs, why_no_snapshot
from rmc_rl.random_state import random_states, restore_random_states
from rmc_rl.snapshot import Snapshot, pack, unpack

from . import replicas
from .actor import Actor
from .actor_critic import ActorCritic

KIND = "progress"
EPISODE = ("r", "l", "t")  # what a monitor says of an episode


def why_no_progress(agent: ActorCritic) -> str | None:
    """Why `save_progress` would write nothing though the agent steps its environments itself; None if it would."""
    return None if agent._actor is None else why_no_snapshot(agent._actor.env)


def save_progress(path: Path, agent: ActorCritic, seed: int) -> None:
    """Write all that the agent's next steps depend on, but for its model; nothing where that cannot be had.

    It cannot where actors are processes of their own, or the environments have no snapshot.

    Args:
        path: the file.
        agent: in a call of `learn`, between two updates, with no batch left over.
        seed: the run's; `restore_progress` asks for the same.

    Raises:
        CheckpointError: the file cannot be written.
    """
    actor = agent._actor
    envs = None if actor is None else snapshot_envs(actor.env)
    if actor is None or envs is None:
        return
    assert agent.ep_info_buffer is not None
    episodes = [{name: episode[name] for name in EPISODE} for episode in agent.ep_info_buffer]
    parts = {
        "envs": envs,
        "agent": pack({"actor": actor.position(), "seed": agent.seed, "episodes": episodes}),
        "random": random_states(),
    }
    data = {name: part.data for name, part in parts.items()}
    tensors = {f"{name}/{key}": tensor for name, part in parts.items() for key, tensor in part.tensors.items()}
    save_checkpoint(path, KIND, {"run": _run(agent, seed), "parts": data}, tensors)


def restore_progress(path: Path, agent: ActorCritic, seed: int) -> None:
    """Have an agent that was loaded from the model's file go on from where the saved one stood, bit for bit.

    Raises:
        CheckpointError: no such file, or it is damaged, of another run, or does not fit the agent. What the agent
            draws and plays next is then undefined: it needs a seed and fresh episodes.
    """
    data, tensors = load_checkpoint(path, KIND)
    try:
        for name, value in _run(agent, seed).items():
            if data["run"][name] != value:
                raise ValueError(f"{name} was {data['run'][name]!r}, and is {value!r}")
        parts = {name: Snapshot(part, tensor_group(tensors, f"{name}/")) for name, part in data["parts"].items()}
        _restore_agent(agent, unpack(parts["agent"]))
        assert agent.env is not None
        restore_envs(agent.env, parts["envs"])
        restore_random_states(parts["random"])  # last, so that nothing draws after it
    except Exception as error:  # a file may hold anything
        raise CheckpointError(f"cannot go on from {path}: {one_line(error)}") from error


def _run(agent: ActorCritic, seed: int) -> dict[str, int]:
    """What must be the same for a run to go on exactly, and cannot be seen from the parts."""
    return {"steps": agent.num_timesteps, "replicas": replicas.count(), "seed": seed}


def _restore_agent(agent: ActorCritic, state: dict[str, Any]) -> None:
    assert agent.env is not None
    episodes = [{name: float(episode[name]) for name in EPISODE} for episode in state["episodes"]]
    actor = Actor(agent.env, agent.policy.network, agent.hyperparameters)
    actor.move_to(state["actor"])
    agent.seed = None if state["seed"] is None else int(state["seed"])
    agent.ep_info_buffer = deque(episodes, maxlen=agent._stats_window_size)
    agent.ep_success_buffer = deque(maxlen=agent._stats_window_size)
    agent._actor, agent._last_obs = actor, actor.observation  # the same object: `learn` goes by it

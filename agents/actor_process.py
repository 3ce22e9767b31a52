"""An actor in a process of its own: what it is told, what it says, and what it does."""

import time
import traceback
from contextlib import closing
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.utils import check_for_correct_spaces, set_random_seed
from torch import Tensor

from rmc_rl.cores import Core, register_core
from rmc_rl.network import RecurrentActorCritic
from rmc_rl.policies import RecurrentPolicy

from .actor import Actor, VecObservation
from .environments import Recipe
from .hyperparameters import Hyperparameters
from .placement import SLOTS, Placement
from .processes import follow_parent, settled
from .shared_parameters import SharedParameters
from .trajectory import Trajectory

REPORTED = ("episode", "TimeLimit.truncated")
"""What the learner hears of an ended episode's info: the rest may be large, or nothing that can be sent."""


@dataclass(frozen=True)
class Slots:
    """Shared memory for the unrolls of all actors of a learner, side by side."""

    trajectory: Trajectory
    """[T, K * SLOTS * E] steps of K actors with E environments each."""
    rewards: Tensor
    """[T, K * SLOTS * E], as the environments gave them."""

    @classmethod
    def allocate(cls, unroll_length: int, num_envs: int, network: RecurrentActorCritic) -> "Slots":
        """For all actors, which have `num_envs` environments together."""
        trajectory = Trajectory.allocate(unroll_length, SLOTS * num_envs, network, "cpu").share_memory()
        rewards = torch.zeros(unroll_length, SLOTS * num_envs).share_memory_()  # type: ignore[no-untyped-call]
        return cls(trajectory, rewards)

    def split(self, width: int) -> "list[Slots]":
        """Parts of `width` rows each."""
        return [
            Slots(*parts)
            for parts in zip(self.trajectory.split(width), torch.split(self.rewards, width, dim=1), strict=True)
        ]


@dataclass(frozen=True)
class Blueprint:
    """How an actor is made, wherever it is to run."""

    recipe: Recipe
    policy_class: type[RecurrentPolicy]
    observation_space: spaces.Space[Any]
    action_space: spaces.Space[Any]
    network_kwargs: dict[str, Any]
    core: tuple[str, type[Core]]
    """Name and class: where the actor runs, one of a user's own may not be registered."""
    settings: Hyperparameters
    seed: int

    @classmethod
    def of(
        cls, policy: RecurrentPolicy, recipe: Recipe, settings: Hyperparameters, placement: Placement, seed: int
    ) -> "Blueprint":
        """Of an actor with a policy like this one, which plays the recipe's environments."""
        spaces_of = (policy.observation_space, policy.action_space)
        core = str(policy.core), type(policy.network.core)
        network_kwargs = dict(policy.network_kwargs)
        if placement.precision is not None:
            network_kwargs["precision"] = placement.precision
        return cls(recipe, type(policy), *spaces_of, network_kwargs, core, settings, seed)

    def make(self) -> Actor:
        """The actor, at the first observations of fresh episodes. Its environments are the caller's to close."""
        register_core(*self.core)
        policy = self.policy_class(self.observation_space, self.action_space, **self.network_kwargs)
        env = self.recipe.make()
        check_for_correct_spaces(env, self.observation_space, self.action_space)
        set_random_seed(self.seed)
        env.seed(self.seed)
        actor = Actor(env, policy.network, self.settings)
        actor.start(cast(VecObservation, env.reset()))
        return actor


@dataclass(frozen=True)
class Task:
    """All that an actor in a process of its own needs."""

    blueprint: Blueprint
    slots: Slots
    first_slot: int
    """Its own are this one and the next, of as many rows each as it has environments."""
    parameters: SharedParameters


class Ready(NamedTuple):
    """An actor's first message: its environments are made."""


class Unroll(NamedTuple):
    """A slot is full."""

    slot: int
    """0 to SLOTS - 1."""
    version: int
    """Of the parameters that it was begun, and acted, with."""
    ends: list[tuple[int, int, dict[str, Any]]]
    """Of each episode that ended: step, row and info."""
    begun: float
    finished: float
    """Seconds of the monotonic clock, which all processes of a machine share."""
    waited: float
    """Seconds without a free slot before it."""


class Failure(NamedTuple):
    """An actor's last message."""

    reason: str
    """In one line."""
    traceback: str
    """Empty if there was no error in Python."""

    @classmethod
    def of(cls, error: Exception) -> "Failure":
        """For the error that is being handled."""
        return cls(" ".join(f"{type(error).__name__}: {error}".split()), traceback.format_exc())


class _LearnerGoneError(Exception):
    pass


def run_actor(task: Task, connection: Connection) -> None:
    """Fill the slots whose numbers arrive, until the connection is closed at its other end."""
    follow_parent()
    torch.set_num_threads(1)
    try:
        _act(task, connection)
    except _LearnerGoneError:
        pass
    except Exception as error:
        connection.send(Failure.of(error))


def _act(task: Task, connection: Connection) -> None:
    actor = task.blueprint.make()
    slots = task.slots.split(actor.env.num_envs)[task.first_slot : task.first_slot + SLOTS]
    with closing(actor.env):
        _send(connection, Ready())
        with settled():
            while True:
                _fill_next(actor, slots, task.parameters, connection)


def _fill_next(actor: Actor, slots: list[Slots], parameters: SharedParameters, connection: Connection) -> None:
    waits = time.monotonic()
    slot = _receive(connection)
    begun = time.monotonic()
    version = parameters.read(actor.network)
    report = Report(slots[slot].rewards)
    actor.unroll(report.on_step, slots[slot].trajectory)
    _send(connection, Unroll(slot, version, report.ends, begun, time.monotonic(), begun - waits))


class Report:
    """What the learner's callbacks will be told of an unroll."""

    def __init__(self, rewards: Tensor) -> None:
        self.rewards, self.steps = rewards, 0
        self.ends: list[tuple[int, int, dict[str, Any]]] = []

    def on_step(self, rewards: NDArray[Any], dones: NDArray[np.bool_], infos: list[dict[str, Any]]) -> bool:
        self.rewards[self.steps] = torch.from_numpy(rewards)
        for row in np.flatnonzero(dones).tolist():
            self.ends.append((self.steps, row, {key: infos[row][key] for key in REPORTED if key in infos[row]}))
        self.steps += 1
        return True


def _receive(connection: Connection) -> int:
    try:
        return cast(int, connection.recv())
    except (EOFError, OSError) as error:
        raise _LearnerGoneError from error


def _send(connection: Connection, message: Ready | Unroll) -> None:
    try:
        connection.send(message)
    except OSError as error:
        raise _LearnerGoneError from error

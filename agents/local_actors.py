"""Actors in processes of their own on the learner's machine."""

import multiprocessing
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

import numpy as np

from rmc_rl.policies import RecurrentPolicy
from rmc_rl.stop import StopRequest

from .actor import OnStep
from .actor_process import Blueprint, Failure, Slots, Task, Unroll, run_actor
from .environments import Recipe
from .hyperparameters import Hyperparameters
from .lag_log import LagLog
from .placement import SLOTS, Placement
from .processes import BeginError, end, start
from .restarts import Restarts, with_traceback
from .shared_parameters import SharedParameters
from .trajectory import Trajectory
from .unroll_queue import Chunk, UnrollQueue

LOOK_AFTER = 1.0
"""Seconds without a message after which the processes are looked after, and a wish to stop is heeded; a death is a
message as a rule."""


@dataclass
class ActorProcess:
    """An actor as the learner sees it."""

    process: BaseProcess
    connection: Connection
    failure: Failure | None = None
    heard: float = field(default_factory=time.monotonic)
    """When it last began, delivered, or was given a slot."""

    def end(self) -> Failure:
        """Why it has ended."""
        return self.failure or Failure(f"it ended with exit code {self.process.exitcode}", traceback="")


class LocalActors:
    """Processes that fill unrolls in shared memory, and the learner's end of their channels.

    Each actor has a pipe and two slots of its own: no lock is shared, so that one that is killed blocks nobody. Pipes
    carry small messages only: the number of a free slot one way, that of a full one the other. An actor without a free
    slot waits. Full slots are learned from in the order in which they arrive.

    An actor that fails or hangs is replaced, and what it had begun is lost, until too many have failed within 10
    minutes.

    Args:
        recipe: of all environments of this learner.
        policy: the learner's.
        settings: of the actor.
        placement: how many actors, and what is borne from them.
        batch_size: rows of this learner's batches.
        seed: of row 0; None draws one from the system.
        stop: once it is requested, nothing is waited for.

    Raises:
        BeginError: an actor cannot begin.
    """

    has_batch = False
    recording = None

    def __init__(
        self,
        recipe: Recipe,
        policy: RecurrentPolicy,
        settings: Hyperparameters,
        placement: Placement,
        batch_size: int,
        seed: int | None,
        stop: StopRequest,
    ) -> None:
        self.network, self.placement, self.stop = policy.network, placement, stop
        self.num_rows = recipe.n_envs // placement.actors
        self.seed = int(np.random.SeedSequence().generate_state(1)[0] >> 1) if seed is None else seed
        self.width = min(self.num_rows, batch_size)  # of a chunk
        self.version = 0
        self.parameters = SharedParameters(policy.network)
        self.parameters.write(policy.network, self.version)
        self.unroll_length = settings.unroll_length
        slots = Slots.allocate(self.unroll_length, recipe.n_envs, policy.network)
        self.parts = [slot.split(self.width) for slot in slots.split(self.num_rows)]  # by slot
        self.trajectory = Trajectory.allocate(self.unroll_length, batch_size, policy.network, policy.device)
        blueprint = Blueprint.of(policy, replace(recipe, n_envs=self.num_rows), settings, placement, self.seed)
        self.task = Task(blueprint, slots, first_slot=0, parameters=self.parameters)
        self.log = LagLog(placement.actors)
        self.full = UnrollQueue(self.trajectory, self.width, placement.max_policy_lag, self._hand_back, self.log)
        self.restarts = Restarts(placement.max_restarts, self.seed)
        self.actors: list[ActorProcess] = []
        try:
            self._start_all()
        except BaseException:
            self.close()
            raise

    def batch(self, on_step: OnStep) -> Trajectory | None:
        """The next batch, copied from the oldest full slots; None also if there is none yet and a stop is requested.

        Raises:
            ActorError: actors fail again and again.
        """
        began = time.monotonic()
        chunks = self._collect()
        self.log.waited(time.monotonic() - began)
        return None if chunks is None else self.full.batch(chunks, on_step)

    def updated(self) -> None:
        self.version += 1
        self.parameters.write(self.network, self.version)

    def metrics(self) -> dict[str, float]:
        return self.log.take() | {"restarts": self.restarts.total}

    def close(self) -> None:
        for actor in self.actors:
            actor.connection.close()  # what an actor waits for
        end(actor.process for actor in self.actors)
        self.actors.clear()

    # The actors' lives

    def _start_all(self) -> None:
        for index in range(self.placement.actors):
            self.actors.append(self._start(index, self.seed + index * self.num_rows, range(SLOTS)))
        for index, actor in enumerate(self.actors):
            while not actor.connection.poll(LOOK_AFTER):
                if self.stop.requested:
                    return
                if self._hangs(index):
                    raise BeginError(f"actor {index} cannot begin: {self.placement.silence()}")
            try:
                message = actor.connection.recv()
            except (EOFError, OSError):
                message = None
                actor.process.join()
            if message is None or isinstance(message, Failure):
                actor.failure = message
                raise with_traceback(BeginError(f"actor {index} cannot begin: {actor.end().reason}"), actor.end())
            actor.heard = time.monotonic()

    def _start(self, index: int, seed: int, free: Iterable[int]) -> ActorProcess:
        context = multiprocessing.get_context("spawn")
        here, there = context.Pipe()
        task = replace(self.task, blueprint=replace(self.task.blueprint, seed=seed), first_slot=index * SLOTS)
        process = context.Process(target=run_actor, args=(task, there), name=f"actor {index}")
        start(process)
        there.close()
        for slot in free:
            here.send(slot)
        return ActorProcess(process, here)

    def _replace(self, index: int) -> None:
        """Start another actor in the place of one that has ended; it gets the slots that the learner does not need."""
        actor = self.actors[index]
        actor.connection.close()
        actor.process.kill()  # it may be alive with its pipe broken
        actor.process.join()
        seed = self.restarts.next_seed(index, actor.end())
        free = set(range(SLOTS)) - self.full.held(index)
        self.actors[index] = self._start(index, seed, free)

    def _hangs(self, index: int) -> bool:
        """Whether an actor has been silent for too long with a slot to fill."""
        is_silent = time.monotonic() - self.actors[index].heard > self.placement.max_silence
        return is_silent and len(self.full.held(index)) < SLOTS

    # Their unrolls

    def _collect(self) -> list[Chunk] | None:
        """As many of the oldest chunks as a batch takes, once there are so many that are not too old."""
        while (chunks := self.full.take(self.version)) is None and not self.stop.requested:
            self._receive()
        return chunks

    def _receive(self) -> None:
        """Wait for messages, and take one from each actor that has sent any."""
        ready = wait([actor.connection for actor in self.actors], LOOK_AFTER)
        for index, actor in enumerate(self.actors):
            if actor.connection in ready:
                self._read(index)
            elif not actor.process.is_alive() and not actor.connection.poll():
                self._replace(index)
            elif self._hangs(index):
                actor.failure = Failure(self.placement.silence(), traceback="")
                self._replace(index)

    def _read(self, index: int) -> None:
        actor = self.actors[index]
        try:
            message: Any = actor.connection.recv()
        except (EOFError, OSError):
            self._replace(index)
            return
        actor.heard = time.monotonic()
        if isinstance(message, Failure):
            actor.failure = message
            self._replace(index)
        elif isinstance(message, Unroll):
            self.full.add(index, message, self.parts[index * SLOTS + message.slot])

    def _hand_back(self, index: int, slot: int) -> None:
        # The actor may have ended, which `_receive` will see; the next one gets all slots that are free.
        self.actors[index].heard = time.monotonic()
        with suppress(OSError):
            self.actors[index].connection.send(slot)

"""Actors in processes of their own on the learner's machine."""

import multiprocessing
import time
import warnings
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rmc_rl.policies import RecurrentPolicy

from .actor import OnStep
from .actor_process import Failure, Slots, Task, Unroll, run_actor
from .environments import Recipe
from .hyperparameters import Hyperparameters
from .lag_log import LagLog
from .placement import SLOTS, Placement
from .processes import ActorError, end
from .shared_parameters import SharedParameters
from .trajectory import Trajectory

RESTART_WINDOW = 600.0
"""Seconds within which restarts are counted."""
LOOK_AFTER = 1.0
"""Seconds without a message after which the processes are looked after; a death is a message as a rule."""


@dataclass
class ActorProcess:
    """An actor as the learner sees it."""

    process: BaseProcess
    connection: Connection
    failure: Failure | None = None

    def reason(self) -> str:
        """Why it has ended."""
        return self.failure.reason if self.failure else f"it ended with exit code {self.process.exitcode}"


@dataclass(frozen=True)
class Chunk:
    """Rows of a full slot, as many as a batch takes from it."""

    actor: int
    unroll: Unroll
    first_row: int
    slots: Slots
    is_last: bool
    """The slot is free once this is used."""


class LocalActors:
    """Processes that fill unrolls in shared memory, and the learner's end of their channels.

    Each actor has a pipe and two slots of its own: no lock is shared, so that one that is killed blocks nobody. Pipes
    carry small messages only: the number of a free slot one way, that of a full one the other. An actor without a free
    slot waits. Full slots are learned from in the order in which they arrive.

    An actor that fails is replaced, and what it had begun is lost, until too many have failed within 10 minutes.

    Args:
        recipe: of all environments of this learner.
        policy: the learner's.
        settings: of the actor.
        placement: how many actors, and what is borne from them.
        batch_size: rows of this learner's batches.
        seed: of row 0; None draws one from the system.

    Raises:
        ActorError: an actor cannot begin.
    """

    has_batch = False

    def __init__(
        self,
        recipe: Recipe,
        policy: RecurrentPolicy,
        settings: Hyperparameters,
        placement: Placement,
        batch_size: int,
        seed: int | None,
    ) -> None:
        self.network, self.placement = policy.network, placement
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
        self.task = Task(
            replace(recipe, n_envs=self.num_rows),
            type(policy),
            policy.observation_space,
            policy.action_space,
            policy.network_kwargs,
            settings,
            slots,
            first_slot=0,
            parameters=self.parameters,
            seed=self.seed,
        )
        self.full: deque[Chunk] = deque()
        self.restarts: deque[float] = deque()
        self.num_restarts = 0
        self.log = LagLog(placement.actors)
        self.actors: list[ActorProcess] = []
        try:
            self._start_all()
        except BaseException:
            self.close()
            raise

    def batch(self, on_step: OnStep) -> Trajectory | None:
        """The next batch, copied from the oldest full slots.

        Raises:
            ActorError: actors fail again and again.
        """
        began = time.monotonic()
        chunks = self._collect()
        self.log.waited(time.monotonic() - began)
        for part, chunk in zip(self.trajectory.split(self.width), chunks, strict=True):
            part.copy_(chunk.slots.trajectory)
        steps = _Steps(chunks)
        for chunk in chunks:
            self._hand_back(chunk)
        goes_on = all(on_step(*step) for step in steps)
        return self.trajectory if goes_on else None

    def updated(self) -> None:
        self.version += 1
        self.parameters.write(self.network, self.version)

    def metrics(self) -> dict[str, float]:
        return self.log.take() | {"restarts": self.num_restarts}

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
            try:
                message = actor.connection.recv()
            except (EOFError, OSError):
                message = None
                actor.process.join()
            if message is None or isinstance(message, Failure):
                actor.failure = message
                raise _error(f"actor {index} cannot begin: {actor.reason()}", actor)

    def _start(self, index: int, seed: int, free: Iterable[int]) -> ActorProcess:
        context = multiprocessing.get_context("spawn")
        here, there = context.Pipe()
        task = replace(self.task, first_slot=index * SLOTS, seed=seed)
        process = context.Process(target=run_actor, args=(task, there), name=f"actor {index}")
        process.start()
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
        now = time.monotonic()
        self.restarts.append(now)
        while now - self.restarts[0] > RESTART_WINDOW:
            self.restarts.popleft()
        number, most = len(self.restarts), self.placement.max_restarts
        if number > most:
            raise _error(
                f"{number} actors failed within {RESTART_WINDOW / 60:.0f} minutes, more than "
                f"placement.max_restarts, {most}; the last one, actor {index}: {actor.reason()}",
                actor,
            )
        warnings.warn(
            f"actor {index} is restarted ({number} of at most {most} within {RESTART_WINDOW / 60:.0f} minutes): "
            f"{actor.reason()}",
            RuntimeWarning,
            stacklevel=2,
        )
        self.num_restarts += 1
        sequence = np.random.SeedSequence([self.seed, index, self.num_restarts])  # games that were not played yet
        held = {chunk.unroll.slot for chunk in self.full if chunk.actor == index}
        free = [slot for slot in range(SLOTS) if slot not in held]
        self.actors[index] = self._start(index, int(sequence.generate_state(1)[0] >> 1), free)

    # Their unrolls

    def _collect(self) -> list[Chunk]:
        """As many of the oldest chunks as a batch takes, once there are so many that are not too old."""
        number = self.trajectory.batch_size // self.width
        while True:
            self._drop_old()
            if len(self.full) >= number:
                chunks = [self.full.popleft() for _ in range(number)]
                now = time.monotonic()
                for chunk in chunks:
                    lag, steps = self.version - chunk.unroll.version, self.width * self.unroll_length
                    self.log.consumed(lag, now - chunk.unroll.finished, steps)
                return chunks
            self._receive()

    def _drop_old(self) -> None:
        chunks = list(self.full)
        self.full.clear()
        for chunk in chunks:
            if self.version - chunk.unroll.version > self.placement.max_policy_lag:
                self.log.dropped += 1
                self._hand_back(chunk)
            else:
                self.full.append(chunk)

    def _receive(self) -> None:
        """Wait for messages, and take one from each actor that has sent any."""
        ready = wait([actor.connection for actor in self.actors], LOOK_AFTER)
        for index, actor in enumerate(self.actors):
            if actor.connection in ready:
                self._read(index)
            elif not actor.process.is_alive() and not actor.connection.poll():
                self._replace(index)

    def _read(self, index: int) -> None:
        actor = self.actors[index]
        try:
            message: Any = actor.connection.recv()
        except (EOFError, OSError):
            self._replace(index)
            return
        if isinstance(message, Failure):
            actor.failure = message
            self._replace(index)
        elif isinstance(message, Unroll):
            self.log.produced(message, self.num_rows * self.unroll_length)
            parts = self.parts[index * SLOTS + message.slot]
            for i, part in enumerate(parts):
                self.full.append(Chunk(index, message, i * self.width, part, is_last=part is parts[-1]))

    def _hand_back(self, chunk: Chunk) -> None:
        # An actor may have ended, which `_receive` will see; the next one gets all slots that are free.
        if chunk.is_last:
            with suppress(OSError):
                self.actors[chunk.actor].connection.send(chunk.unroll.slot)


class _Steps:
    """A batch as the vector steps of which it was made, for `on_step`."""

    def __init__(self, chunks: list[Chunk]) -> None:
        self.rewards = np.concatenate([chunk.slots.rewards.numpy() for chunk in chunks], axis=1)  # [T, B]
        trajectories = [chunk.slots.trajectory for chunk in chunks]
        ends = [(trajectory.terminated | trajectory.truncated).numpy() for trajectory in trajectories]
        self.dones = np.concatenate(ends, axis=1)  # [T, B]
        num_steps, batch_size = self.rewards.shape
        self.infos: list[list[dict[str, Any]]] = [[{} for _ in range(batch_size)] for _ in range(num_steps)]
        width = batch_size // len(chunks)
        for place, chunk in enumerate(chunks):
            for step, row, info in chunk.unroll.ends:
                if chunk.first_row <= row < chunk.first_row + width:
                    self.infos[step][place * width + row - chunk.first_row] = info

    def __iter__(self) -> Iterator[tuple[NDArray[Any], NDArray[np.bool_], list[dict[str, Any]]]]:
        return zip(self.rewards, self.dones, self.infos, strict=True)


def _error(line: str, actor: ActorProcess) -> ActorError:
    error = ActorError(line)
    if actor.failure:
        error.add_note(actor.failure.traceback)
    return error

"""Unrolls on their way from actors to a learner: kept in order, dropped when too old, copied into batches."""

import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .actor import OnStep
from .actor_process import Slots, Unroll
from .lag_log import LagLog
from .trajectory import Trajectory


@dataclass(frozen=True)
class Chunk:
    """Rows of an unroll, as many as a batch takes from it."""

    actor: int
    unroll: Unroll
    first_row: int
    slots: Slots
    is_last: bool
    """The slot is free once this is used."""


class UnrollQueue:
    """Unrolls in the order in which they arrive, until they are learned from or too old.

    It is as long as actors have slots: one whose slots are all here is not given another.

    Args:
        batch: memory of a batch.
        width: rows that it takes from an unroll.
        max_policy_lag: an unroll that was begun more versions ago is dropped.
        hand_back: called with the number of an actor and of its slot, once all of an unroll is used or dropped.
        log: is told what is used and what is dropped.
    """

    def __init__(
        self, batch: Trajectory, width: int, max_policy_lag: int, hand_back: Callable[[int, int], None], log: LagLog
    ) -> None:
        self.trajectory, self.width, self.max_policy_lag = batch, width, max_policy_lag
        self.hand_back, self.log = hand_back, log
        self.unroll_length = batch.rewards.shape[0]
        self.chunks: deque[Chunk] = deque()

    def __len__(self) -> int:
        return len(self.chunks)

    def __iter__(self) -> Iterator[Chunk]:
        return iter(self.chunks)

    def add(self, actor: int, unroll: Unroll, parts: list[Slots]) -> None:
        """An actor has filled a slot, here in parts of `width` rows."""
        rows = len(parts) * self.width
        self.log.produced(unroll, rows * self.unroll_length)
        for i, part in enumerate(parts):
            self.chunks.append(Chunk(actor, unroll, i * self.width, part, is_last=part is parts[-1]))

    def held(self, actor: int) -> set[int]:
        """An actor's slots of which something is here."""
        return {chunk.unroll.slot for chunk in self.chunks if chunk.actor == actor}

    def take(self, version: int) -> list[Chunk] | None:
        """The oldest chunks that make a batch and are not too old at this version; None if there are too few."""
        self._drop_old(version)
        number = self.trajectory.batch_size // self.width
        if len(self.chunks) < number:
            return None
        chunks = [self.chunks.popleft() for _ in range(number)]
        now = time.monotonic()
        for chunk in chunks:
            lag, steps = version - chunk.unroll.version, self.width * self.unroll_length
            self.log.consumed(lag, now - chunk.unroll.finished, steps)
        return chunks

    def batch(self, chunks: list[Chunk], on_step: OnStep) -> Trajectory | None:
        """Copies of what was taken, side by side; None if `on_step` said stop."""
        for part, chunk in zip(self.trajectory.split(self.width), chunks, strict=True):
            part.copy_(chunk.slots.trajectory)
        steps = _Steps(chunks)
        for chunk in chunks:
            self.release(chunk)
        goes_on = all(on_step(*step) for step in steps)
        return self.trajectory if goes_on else None

    def _drop_old(self, version: int) -> None:
        chunks = list(self.chunks)
        self.chunks.clear()
        for chunk in chunks:
            if version - chunk.unroll.version > self.max_policy_lag:
                self.log.dropped += 1
                self.release(chunk)
            else:
                self.chunks.append(chunk)

    def release(self, chunk: Chunk) -> None:
        """This is not needed any more."""
        if chunk.is_last:
            self.hand_back(chunk.actor, chunk.unroll.slot)


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

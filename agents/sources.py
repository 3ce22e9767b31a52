"""Where a learner's batches come from: what every placement of actors gives, and the actor in lock step."""

from collections import deque
from typing import Protocol

from rmc_rl.network import NetworkRecording

from .actor import Actor, OnStep
from .trajectory import Trajectory


class Source(Protocol):
    """Batches of unrolls, one after the other."""

    @property
    def recording(self) -> NetworkRecording | None:
        """What the network has computed of the last batch with the learner's present parameters, if that was kept."""

    @property
    def has_batch(self) -> bool:
        """Whether unrolls are left whose steps `on_step` has seen: training does not end before they are used."""

    def batch(self, on_step: OnStep) -> Trajectory | None:
        """The next batch, valid until the next call; None if `on_step` said stop.

        Raises:
            FloatingPointError: the environment gave an observation or a reward that is not finite.
        """

    def updated(self) -> None:
        """The learner has made an update: act with its parameters from now on."""

    def metrics(self) -> dict[str, float]:
        """What to log, since the last call."""

    def close(self) -> None:
        """End whatever was started."""


class LockStep:
    """One actor, which waits while the learner learns and acts with the learner's own parameters.

    Several unrolls of few environments make one batch, none of which lags. One unroll of many environments makes
    several batches, of which only the first does not lag.
    """

    def __init__(self, actor: Actor, batch_size: int) -> None:
        self.actor, self.batch_size = actor, batch_size
        self.recording: NetworkRecording | None = None
        num_envs = actor.env.num_envs
        self.trajectory = (
            Trajectory.allocate(actor.settings.unroll_length, batch_size, actor.network, actor.device)
            if batch_size > num_envs
            else actor.trajectory
        )
        self.left: deque[Trajectory] = deque()

    @property
    def has_batch(self) -> bool:
        return bool(self.left)

    def batch(self, on_step: OnStep) -> Trajectory | None:
        if not self.left:
            for part in self.trajectory.split(self.actor.env.num_envs):
                if self.actor.unroll(on_step, part, self._record()) is None:
                    return None
            self.left.extend(self.trajectory.split(self.batch_size))
        return self.left.popleft()

    def _record(self) -> NetworkRecording | None:
        """Where the actor keeps what it computes, which the learner would compute again, if a batch is one unroll."""
        if self.batch_size == self.actor.env.num_envs:
            self.recording = self.actor.network.record(self.actor.settings.unroll_length + 1, self.batch_size)
        return self.recording

    def updated(self) -> None:
        """The parameters are the learner's own; what was recorded is past."""
        self.recording = None

    def metrics(self) -> dict[str, float]:
        return {}

    def close(self) -> None:
        """Nothing was started."""

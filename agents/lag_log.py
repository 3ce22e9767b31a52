"""How actors and learner keep up with each other, in numbers."""

import time

from .actor_process import Unroll


class LagLog:
    """Counts since the last `take`.

    Args:
        num_actors: how many share the time.
    """

    def __init__(self, num_actors: int) -> None:
        self.num_actors = num_actors
        self._reset()

    def _reset(self) -> None:
        self.since = time.monotonic()
        self.lags: list[int] = []
        self.waits: list[float] = []
        self.learner_waited = self.actors_waited = 0.0
        self.steps_produced = self.steps_consumed = self.dropped = 0

    def produced(self, unroll: Unroll, steps: int) -> None:
        """An actor has filled a slot with so many steps."""
        self.steps_produced += steps
        self.actors_waited += unroll.waited

    def consumed(self, lag: int, waited: float, steps: int) -> None:
        """The learner takes steps so many versions after they were begun, and so many seconds after the last one."""
        self.steps_consumed += steps
        self.lags.append(lag)
        self.waits.append(waited)

    def waited(self, seconds: float) -> None:
        """The learner had to wait for a batch."""
        self.learner_waited += seconds

    def take(self) -> dict[str, float]:
        """The figures, under the names of the log.

        policy_lag_mean, policy_lag_max: updates made between the beginning of an unroll and its use;
        queue_seconds: between the end of an unroll and its use, on average;
        learner_idle, actors_idle: shares of the time in which they waited for each other;
        actor_steps_per_second, learner_steps_per_second: collected by the actors together, and learned from;
        dropped: unrolls, or parts of them, that were too old.
        """
        seconds = max(time.monotonic() - self.since, 1e-9)
        count = max(len(self.lags), 1)
        figures = {
            "policy_lag_mean": sum(self.lags) / count,
            "policy_lag_max": max(self.lags, default=0),
            "queue_seconds": sum(self.waits) / count,
            "learner_idle": self.learner_waited / seconds,
            "actors_idle": min(1.0, self.actors_waited / seconds / self.num_actors),
            "actor_steps_per_second": self.steps_produced / seconds,
            "learner_steps_per_second": self.steps_consumed / seconds,
            "dropped": self.dropped,
        }
        self._reset()
        return figures

"""Actors that fail: how many are borne, what is said of them, and which games their successors play."""

import time
import warnings
from collections import deque

import numpy as np

from .actor_process import Failure
from .processes import ActorError

RESTART_WINDOW = 600.0
"""Seconds within which restarts are counted."""


class Restarts:
    """Counts the actors of a learner that have failed.

    Args:
        most: how many may fail within the window.
        seed: of the learner's actors.
    """

    def __init__(self, most: int, seed: int) -> None:
        self.most, self.seed = most, seed
        self.total = 0
        self.recent: deque[float] = deque()

    def next_seed(self, index: int, failure: Failure) -> int:
        """Warn that an actor is restarted; returns the seed of games that were not played yet.

        Raises:
            ActorError: too many have failed.
        """
        now = time.monotonic()
        self.recent.append(now)
        while now - self.recent[0] > RESTART_WINDOW:
            self.recent.popleft()
        number, minutes = len(self.recent), f"{RESTART_WINDOW / 60:.0f} minutes"
        if number > self.most:
            line = (
                f"{number} actors failed within {minutes}, more than placement.max_restarts, {self.most}; "
                f"the last one, actor {index}: {failure.reason}"
            )
            raise with_traceback(ActorError(line), failure)
        warnings.warn(
            f"actor {index} is restarted ({number} of at most {self.most} within {minutes}): {failure.reason}",
            RuntimeWarning,
            stacklevel=2,
        )
        self.total += 1
        sequence = np.random.SeedSequence([self.seed, index, self.total])
        return int(sequence.generate_state(1)[0] >> 1)


def with_traceback(error: ActorError, failure: Failure) -> ActorError:
    """The error, with the failure's traceback, if there is one, as a note."""
    if failure.traceback:
        error.add_note(failure.traceback)
    return error

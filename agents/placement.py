"""Where IMPALA's actors run: one choice, with its checks. Imports nothing heavy."""

from dataclasses import dataclass, fields
from typing import Literal

SLOTS = 2
"""Unrolls of each actor in a process of its own: one is being filled while the other waits."""


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Where actors run, and what is done when they lag or fail.

    Raises:
        ValueError: a value outside its range; the message names field, value and range.
    """

    kind: Literal["sync", "local"] = "sync"
    """sync: in the learner's process, in lock step with it; local: in processes of their own on this machine."""
    actors: int = 1
    """local: actor processes of each learner, which share its environments."""
    max_policy_lag: int = 20
    """local: an unroll that was begun more than so many updates ago is dropped."""
    max_restarts: int = 10
    """local: how many actors may fail, and be restarted, within 10 minutes; one more ends training."""

    def __post_init__(self) -> None:
        self._check("kind", self.kind in ("sync", "local"), "'sync' or 'local'")
        self._check("actors", isinstance(self.actors, int) and self.actors >= 1, "a whole number of at least 1")
        self._check("max_policy_lag", self.max_policy_lag >= 0, "at least 0")
        self._check("max_restarts", self.max_restarts >= 0, "at least 0")
        idle = [field.name for field in fields(self) if getattr(self, field.name) != field.default]
        self._check("kind", self.kind == "local" or not idle, f"'local' where {', '.join(idle)} is set")

    def check_shares(self, num_envs: int, batch_size: int, learners: int = 1) -> None:
        """Raise a ValueError unless learners and actors can share the environments and the batch evenly.

        Args:
            num_envs: environments of all learners together.
            batch_size: unrolls in a batch, of all learners together.
            learners: replicas.
        """
        if batch_size % learners:
            raise ValueError(f"batch_size must be a multiple of the number of replicas, {learners}, got {batch_size}")
        share, parts = batch_size // learners, learners * self.actors
        if num_envs % parts:
            raise ValueError(f"the number of environments must be a multiple of the {parts} actors, got {num_envs}")
        rows = num_envs // parts
        replicas = f" and {learners} replicas" if learners > 1 else ""
        if rows % share and share % rows:
            raise ValueError(
                f"batch_size must be a multiple or divisor of {rows * learners}, which one actor of each learner gives "
                f"({num_envs} environments, {self.actors} actors{replicas}), got {batch_size}"
            )
        most = SLOTS * num_envs
        if self.kind == "local" and batch_size > most:
            raise ValueError(
                f"batch_size must be at most {most}, which is what the actors can hold ready ({num_envs} environments, "
                f"{SLOTS} unrolls each), got {batch_size}"
            )

    def _check(self, field: str, holds: bool, legal: str) -> None:
        if not holds:
            raise ValueError(f"placement.{field} must be {legal}, got {getattr(self, field)!r}")

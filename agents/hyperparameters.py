"""The settings of actor and learner: one place for names, defaults, meaning and checks. Imports nothing heavy."""

import math
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Hyperparameters:
    """What an actor-critic agent is trained with.

    Raises:
        ValueError: a value outside its range; the message names field, value and range.
    """

    unroll_length: int = 40
    """Steps per environment between two updates, and the length of backpropagation through time."""
    learning_rate: float = 5e-4
    """Adam's step size."""
    learning_rate_schedule: Literal["constant", "linear"] = "constant"
    """Whether the learning rate stays or falls linearly to 0 at the last step."""
    discount: float = 0.99
    """Gamma: what a reward is worth one step earlier."""
    gae_lambda: float = 0.95
    """Mix of n-step returns in targets and advantages: 0 is one-step, 1 the whole unroll."""
    reward_scale: float = 1.0
    """Rewards are multiplied by it before learning; logs and evaluation show them unscaled."""
    entropy_cost: float = 0.01
    """Weight of the entropy bonus, which keeps the policy exploring."""
    value_cost: float = 0.5
    """Weight of the value loss."""
    max_gradient_norm: float = 0.5
    """Gradients are scaled down to this global norm when they exceed it."""
    normalize_advantages: bool = True
    """Whether advantages are brought to mean 0 and deviation 1 in every update."""

    def __post_init__(self) -> None:
        whole = isinstance(self.unroll_length, int) and not isinstance(self.unroll_length, bool)
        self._check("unroll_length", whole and self.unroll_length >= 1, "a whole number of at least 1")
        self._check("learning_rate", 0 < self.learning_rate < math.inf, "above 0")
        self._check(
            "learning_rate_schedule", self.learning_rate_schedule in ("constant", "linear"), "'constant' or 'linear'"
        )
        self._check("discount", 0 <= self.discount <= 1, "from 0 to 1")
        self._check("gae_lambda", 0 <= self.gae_lambda <= 1, "from 0 to 1")
        self._check("reward_scale", 0 < self.reward_scale < math.inf, "above 0")
        self._check("entropy_cost", 0 <= self.entropy_cost < math.inf, "at least 0")
        self._check("value_cost", 0 <= self.value_cost < math.inf, "at least 0")
        self._check("max_gradient_norm", self.max_gradient_norm > 0, "above 0")

    def _check(self, field: str, holds: bool, legal: str) -> None:
        if not holds:
            raise ValueError(f"{field} must be {legal}, got {getattr(self, field)!r}")

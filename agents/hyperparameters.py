"""The settings of actor and learner: one place for names, defaults, meaning and checks. Imports nothing heavy."""

import math
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Hyperparameters:
    """What an actor-critic agent is trained with; the defaults are A2C's.

    Raises:
        ValueError: a value outside its range; the message names field, value and range.
    """

    unroll_length: int = 40
    """Steps per environment between two updates, and the length of backpropagation through time."""
    learning_rate: float = 5e-4
    """The optimizer's step size."""
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
    entropy_cost_schedule: Literal["constant", "linear"] = "constant"
    """Whether the entropy cost stays or falls linearly to 0 at the last step."""
    value_cost: float = 0.5
    """Weight of the value loss."""
    max_gradient_norm: float = 0.5
    """Gradients are scaled down to this global norm when they exceed it."""
    normalize_advantages: bool = True
    """Whether advantages are brought to mean 0 and deviation 1 in every update."""
    loss_reduction: Literal["mean", "sum"] = "mean"
    """Whether the loss is the mean over all steps of a batch, or their sum: that of all replicas' steps."""
    rho_bar: float = 1.0
    """V-trace: importance weights of temporal differences and of the policy gradient are clipped here."""
    c_bar: float = 1.0
    """V-trace: importance weights along the trace are clipped here."""
    optimizer: Literal["adam", "rmsprop"] = "adam"
    """adam, or rmsprop as in TensorFlow: epsilon stands inside the root, and the mean square begins at 1."""
    rmsprop_decay: float = 0.99
    """RMSProp: what remains of the mean square in every update."""
    rmsprop_epsilon: float = 0.01
    """RMSProp: added to the mean square, inside the root."""
    rmsprop_momentum: float = 0.0
    """RMSProp: what remains of the last step in every update."""

    def __post_init__(self) -> None:
        self._check("unroll_length", _is_positive_int(self.unroll_length), "a whole number of at least 1")
        self._check("learning_rate", 0 < self.learning_rate < math.inf, "above 0")
        for schedule in ("learning_rate_schedule", "entropy_cost_schedule"):
            self._check(schedule, getattr(self, schedule) in ("constant", "linear"), "'constant' or 'linear'")
        self._check("discount", 0 <= self.discount <= 1, "from 0 to 1")
        self._check("gae_lambda", 0 <= self.gae_lambda <= 1, "from 0 to 1")
        self._check("reward_scale", 0 < self.reward_scale < math.inf, "above 0")
        self._check("entropy_cost", 0 <= self.entropy_cost < math.inf, "at least 0")
        self._check("value_cost", 0 <= self.value_cost < math.inf, "at least 0")
        clip = "above 0 and finite (1e9 clips nothing)"  # JSON, in which it is saved, has no infinity
        self._check("max_gradient_norm", 0 < self.max_gradient_norm < math.inf, clip)
        self._check("normalize_advantages", isinstance(self.normalize_advantages, bool), "True or False")
        self._check("loss_reduction", self.loss_reduction in ("mean", "sum"), "'mean' or 'sum'")
        self._check("rho_bar", 0 < self.rho_bar < math.inf, clip)
        self._check("c_bar", 0 < self.c_bar < math.inf, clip)
        self._check("optimizer", self.optimizer in ("adam", "rmsprop"), "'adam' or 'rmsprop'")
        self._check("rmsprop_decay", 0 <= self.rmsprop_decay < 1, "from 0 to below 1")
        self._check("rmsprop_epsilon", 0 < self.rmsprop_epsilon < math.inf, "above 0")
        self._check("rmsprop_momentum", 0 <= self.rmsprop_momentum < 1, "from 0 to below 1")

    def _check(self, field: str, holds: bool, legal: str) -> None:
        value, default = getattr(self, field), getattr(type(self), field)
        if not holds or isinstance(value, bool) != isinstance(default, bool):  # True would pass for 1
            raise ValueError(f"{field} must be {legal}, got {value!r}")


@dataclass(frozen=True, kw_only=True)
class ImpalaHyperparameters(Hyperparameters):
    """The same with IMPALA's defaults (Espeholt et al. 2018, arXiv 1802.01561, appendix G), and its batch."""

    batch_size: int = 32
    """Unrolls, of one environment each, in an update: over all replicas together."""
    unroll_length: int = 20
    learning_rate: float = 6e-4
    learning_rate_schedule: Literal["constant", "linear"] = "linear"
    gae_lambda: float = 1.0
    max_gradient_norm: float = 40.0
    normalize_advantages: bool = False
    loss_reduction: Literal["mean", "sum"] = "sum"
    optimizer: Literal["adam", "rmsprop"] = "rmsprop"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check("batch_size", _is_positive_int(self.batch_size), "a whole number of at least 1")


def check_same_optimizer(settings: Hyperparameters, saved: Hyperparameters) -> None:
    """Raise a ValueError where an optimizer could not go on from what the saved one remembers."""
    if settings.optimizer != saved.optimizer:
        raise ValueError(f"optimizer must stay {saved.optimizer!r}, got {settings.optimizer!r}")
    if settings.optimizer == "rmsprop" and (settings.rmsprop_momentum > 0) != (saved.rmsprop_momentum > 0):
        legal = "above 0" if saved.rmsprop_momentum > 0 else "0"
        raise ValueError(f"rmsprop_momentum must stay {legal}, got {settings.rmsprop_momentum}")


def _is_positive_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1

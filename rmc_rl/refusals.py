"""Algorithms that cannot carry a state know our policies' names, so as to say whose they are."""

import sys
from functools import partial
from typing import Any, NoReturn

NAMES = (
    "RMCPolicy",
    "LSTMPolicy",
    "GRUPolicy",
    "DeepLSTMPolicy",
    "DNCPolicy",
    "MinGRUPolicy",
    "FeedForwardPolicy",
    "RecurrentPolicy",
)
"""Of `rmc_rl.policies.POLICIES`, whose import takes torch."""


def refuse(name: str, *_: Any, **__: Any) -> NoReturn:
    """In place of a policy: raise a TypeError that says which algorithms can have it."""
    raise TypeError(
        f"{name} carries a state from step to step: use it with A2C or IMPALA of `agents`, or "
        f"rmc_rl.contrib.{name} with RecurrentPPO of sb3-contrib; no other algorithm can carry a state"
    )


def add_refusals(package: str) -> None:
    """Have all algorithms in an imported package but RecurrentPPO refuse our names, unless they know them already."""
    for name, algorithm in vars(sys.modules[package]).items():
        aliases = getattr(algorithm, "policy_aliases", None)
        if isinstance(aliases, dict) and name != "RecurrentPPO":
            for policy in NAMES:
                aliases.setdefault(policy, partial(refuse, policy))

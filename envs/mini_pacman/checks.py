"""Checks of what callers hand in. Every message names the field, its value and what would be legal."""

import operator
from collections.abc import Sequence
from typing import Any


def integer(name: str, value: Any, low: int, high: int) -> int:
    """`value` as a Python integer from low to high; raises ValueError where it is none."""
    try:
        number = operator.index(value)
    except TypeError:
        number = low - 1
    if not low <= number <= high:
        raise ValueError(f"{name} must be an integer from {low} to {high}, got {value!r}")
    return number


def one_of(name: str, value: Any, legal: Sequence[Any]) -> Any:
    """`value`; raises ValueError where it is not legal."""
    if value not in legal:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, legal))}, got {value!r}")
    return value

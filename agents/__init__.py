"""Agents: actor-critic algorithms for any Gymnasium environment, as Stable-Baselines3 algorithms."""

from typing import TYPE_CHECKING, Any

from .placement import Placement

if TYPE_CHECKING:
    from .a2c import A2C
    from .impala import IMPALA

__all__ = ["A2C", "IMPALA", "Placement"]


def __getattr__(name: str) -> Any:
    # Loaded when first used: reading a configuration must not wait for torch.
    if name == "A2C":
        from .a2c import A2C

        return A2C
    if name == "IMPALA":
        from .impala import IMPALA

        return IMPALA
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

"""Agents: actor-critic algorithms for any Gymnasium environment, as Stable-Baselines3 algorithms."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .a2c import A2C

__all__ = ["A2C"]


def __getattr__(name: str) -> Any:
    # Loaded when first used: reading a configuration must not wait for torch.
    if name == "A2C":
        from .a2c import A2C

        return A2C
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

"""The Relational Memory Core and what it takes to use it in reinforcement learning."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .after_import import after_import
from .refusals import add_refusals

if TYPE_CHECKING:
    from .cores import CORES, GRU, LSTM, Core, IdentityCore, MinGRU, RelationalMemory, State, make_core, register_core
    from .exporting import export

__all__ = [
    "CORES",
    "GRU",
    "LSTM",
    "Core",
    "IdentityCore",
    "MinGRU",
    "RelationalMemory",
    "State",
    "export",
    "make_core",
    "register_core",
]


def __getattr__(name: str) -> Any:
    # Loaded when first used: reading a configuration must not wait for torch.
    if name == "export":
        from .exporting import export

        return export
    if name in __all__:
        from . import cores

        return getattr(cores, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


# RecurrentPPO learns of our policies when it is imported, before or after this; not here, since it takes torch.
after_import("sb3_contrib.ppo_recurrent.ppo_recurrent", lambda: import_module(".contrib", __name__))
for _package in ("stable_baselines3", "sb3_contrib"):
    after_import(_package, lambda package=_package: add_refusals(package))  # type: ignore[misc]

"""Recurrent cores, by name."""

from typing import Any

from .contract import check_class, check_step
from .core import Core, IdentityCore, Recording, State, reset_state, unchanged_weights
from .deep_lstm import DeepLSTM
from .dnc import DNC
from .gru import GRU
from .lstm import LSTM
from .mingru import MinGRU
from .relational_memory import RelationalMemory

__all__ = [
    "CORES",
    "DNC",
    "GRU",
    "LSTM",
    "Core",
    "DeepLSTM",
    "IdentityCore",
    "MinGRU",
    "Recording",
    "RelationalMemory",
    "State",
    "make_core",
    "register_core",
    "reset_state",
    "unchanged_weights",
]

CORES: dict[str, type[Core]] = {
    "rmc": RelationalMemory,
    "lstm": LSTM,
    "gru": GRU,
    "deep_lstm": DeepLSTM,
    "dnc": DNC,
    "mingru": MinGRU,
    "identity": IdentityCore,
}
"""Every core by its name; `register_core` adds one of yours."""
OURS = frozenset(CORES)
"""Names of the cores that come with the library, and are tested there."""


def register_core(name: str, core: type[Core]) -> None:
    """Make a core of your own known by a name, to policies (`core=name`) and tasks alike.

    Args:
        name: a new one. A saved model knows the core by it: register the core before loading, too.
        core: a subclass of `Core`, built as `core(input_size, **core_kwargs)`.

    Raises:
        ValueError: the name is taken, or the class is not what `Core` says.
    """
    if not isinstance(name, str) or not name:
        raise ValueError(f"name must be text, got {name!r}")
    check_class(core)
    if CORES.get(name, core) is not core:
        raise ValueError(f"name must be a new one, not one of {sorted(CORES)}, got {name!r}")
    CORES[name] = core


def make_core(name: str, input_size: int, **kwargs: Any) -> Core:
    """The core registered under `name`, built for inputs of width `input_size`.

    Raises:
        ValueError: no core has that name, the core rejects an argument's value, or it does not do what `Core` says.
        TypeError: the core has no such argument.
    """
    if name not in CORES:
        raise ValueError(
            f"core must be one of {sorted(CORES)}, got {name!r}; "
            "register one of your own with rmc_rl.register_core first"
        )
    core = CORES[name](input_size, **kwargs)
    if name not in OURS:
        check_step(core)
    return core

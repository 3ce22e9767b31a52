"""Recurrent cores, by name."""

from typing import Any

from .core import Core, IdentityCore, Recording, State, reset_state, unchanged_weights
from .deep_lstm import DeepLSTM
from .dnc import DNC
from .gru import GRU
from .lstm import LSTM
from .relational_memory import RelationalMemory

__all__ = [
    "CORES",
    "DNC",
    "GRU",
    "LSTM",
    "Core",
    "DeepLSTM",
    "IdentityCore",
    "Recording",
    "RelationalMemory",
    "State",
    "make_core",
    "reset_state",
    "unchanged_weights",
]

CORES: dict[str, type[Core]] = {
    "rmc": RelationalMemory,
    "lstm": LSTM,
    "gru": GRU,
    "deep_lstm": DeepLSTM,
    "dnc": DNC,
    "identity": IdentityCore,
}


def make_core(name: str, input_size: int, **kwargs: Any) -> Core:
    """The core registered under `name`, built for inputs of width `input_size`.

    Raises:
        ValueError: no core has that name, or the core rejects an argument's value.
        TypeError: the core has no such argument.
    """
    if name not in CORES:
        raise ValueError(f"core must be one of {sorted(CORES)}, got {name!r}")
    return CORES[name](input_size, **kwargs)

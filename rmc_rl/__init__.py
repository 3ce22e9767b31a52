"""The Relational Memory Core and what it takes to use it in reinforcement learning."""

from .cores import CORES, GRU, LSTM, Core, IdentityCore, RelationalMemory, State, make_core

__all__ = ["CORES", "GRU", "LSTM", "Core", "IdentityCore", "RelationalMemory", "State", "make_core"]

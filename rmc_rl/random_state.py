"""The global random generators' states as JSON and tensors."""

import random
from typing import Any

import numpy as np
import torch

from .snapshot import Snapshot, pack, unpack


def random_states() -> Snapshot:
    """The states of Python's, numpy's and torch's global generators, and of each CUDA device's where there are any."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return pack(
        {
            "python": random.getstate(),
            "numpy": np.random.get_state(legacy=False),  # noqa: NPY002 - it is the global one that is meant
            "torch": torch.get_rng_state().numpy(),
            "cuda": [state.numpy() for state in cuda],
        }
    )


def restore_random_states(snapshot: Snapshot) -> None:
    """Have the global generators go on from what `random_states` gave.

    Raises:
        ValueError: not something that it gives, or from a machine with another number of CUDA devices; the generators
            are then as they were.
    """
    before = unpack(random_states())
    try:
        states = unpack(snapshot)
        if len(states["cuda"]) != len(before["cuda"]):
            raise ValueError(f"it has {len(states['cuda'])} CUDA devices, and this machine {len(before['cuda'])}")
        _set(states)
    except Exception as error:  # the generators refuse what is not theirs in many ways
        _set(before)
        raise ValueError(f"not the random states of this machine: {error}") from error


def _set(states: dict[str, Any]) -> None:
    random.setstate(states["python"])
    np.random.set_state(states["numpy"])  # noqa: NPY002
    torch.set_rng_state(torch.from_numpy(states["torch"]))
    if states["cuda"]:
        torch.cuda.set_rng_state_all([torch.from_numpy(state) for state in states["cuda"]])

"""Where torch computes."""

import torch


def check_device(name: str) -> None:
    """Raise a ValueError unless torch can compute there; Stable-Baselines3 would quietly take the CPU instead."""
    try:
        torch.ones(1, device="cpu" if name == "auto" else name).item()
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device must be auto, cpu or an accelerator of this machine, got {name!r}") from error

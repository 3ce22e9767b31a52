"""An optimizer's state as named tensors, which tasks save too; see `rmc_rl.optimizer_state`."""

from rmc_rl.optimizer_state import optimizer_tensors, restore_optimizer

__all__ = ["optimizer_tensors", "restore_optimizer"]

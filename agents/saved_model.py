"""A model's file: policy, optimizer, settings and counters, as safetensors and JSON."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from rmc_rl.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from rmc_rl.policies import RecurrentPolicy, restore_policy

from .hyperparameters import Hyperparameters, ImpalaHyperparameters

HYPERPARAMETERS: dict[str, type[Hyperparameters]] = {"A2C": Hyperparameters, "IMPALA": ImpalaHyperparameters}
"""By the algorithm's name."""
COUNTERS = ("num_timesteps", "_total_timesteps", "_n_updates", "_episode_num")
"""What an algorithm remembers of its training so far."""


@dataclass
class SavedModel:
    """What is in the file."""

    algorithm: str
    policy: RecurrentPolicy
    optimizer: dict[str, Tensor]
    """As `optimizer_tensors` gives it."""
    hyperparameters: Hyperparameters
    n_envs: int
    seed: int | None
    counters: dict[str, int]

    def write(self, path: str | Path) -> None:
        """Write to `path`, whole or not at all; `.zip` is added if there is no suffix."""
        data = {
            "algorithm": self.algorithm,
            "policy": self.policy.to_json(),
            "hyperparameters": asdict(self.hyperparameters),
            "n_envs": self.n_envs,
            "seed": self.seed,
            "counters": self.counters,
        }
        tensors = {f"policy/{name}": tensor for name, tensor in self.policy.state_dict().items()}
        tensors |= {f"optimizer/{name}": tensor for name, tensor in self.optimizer.items()}
        save_checkpoint(path, "model", data, tensors)

    @classmethod
    def read(cls, path: str | Path, algorithm: str | None = None) -> "SavedModel":
        """The model that `write` wrote.

        Args:
            path: the file; `.zip` is added if there is no suffix.
            algorithm: whose model it must be; None for any.

        Raises:
            CheckpointError: no such file, or it is damaged, or holds something else.
        """
        data, tensors = load_checkpoint(path, "model")
        legal = [algorithm] if algorithm else sorted(HYPERPARAMETERS)
        if (algorithm := data.get("algorithm")) not in legal:
            raise CheckpointError(f"{path}: holds a {algorithm!r} model, not {' or '.join(legal)}")
        try:
            return cls(
                algorithm=algorithm,
                policy=restore_policy(path, data["policy"], group(tensors, "policy/")),
                optimizer=group(tensors, "optimizer/"),
                hyperparameters=HYPERPARAMETERS[algorithm](**data["hyperparameters"]),
                n_envs=data["n_envs"],
                seed=data["seed"],
                counters={name: data["counters"][name] for name in COUNTERS},
            )
        except CheckpointError:
            raise
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"{path}: not a saved {algorithm} model: {error}") from error


def group(tensors: dict[str, Any], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin with the prefix, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}

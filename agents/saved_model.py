"""A model's file: policy, optimizer, settings, counters and a normaliser's statistics, as safetensors and JSON."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_origin, get_type_hints

from stable_baselines3.common.vec_env import VecNormalize
from torch import Tensor

from rmc_rl.checkpoint import CheckpointError, load_checkpoint, one_line, save_checkpoint, tensor_group
from rmc_rl.normalizer import write_statistics
from rmc_rl.policies import RecurrentPolicy, restore_policy
from rmc_rl.snapshot import Snapshot, pack, unpack

from .hyperparameters import Hyperparameters, ImpalaHyperparameters

HYPERPARAMETERS: dict[str, type[Hyperparameters]] = {"A2C": Hyperparameters, "IMPALA": ImpalaHyperparameters}
"""By the algorithm's name."""
COUNTERS = ("num_timesteps", "_total_timesteps", "_n_updates", "_episode_num")
"""What an algorithm remembers of its training so far."""
GROUPS = ("policy/", "optimizer/", "statistics/")
"""How the names of tensors begin."""


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
    statistics: dict[str, Any] | None
    """Of the VecNormalize around the environments, as `read_statistics` gives them; None if there is none."""

    def write(self, path: str | Path) -> None:
        """Write to `path`, whole or not at all; `.zip` is added if there is no suffix."""
        statistics = pack(self.statistics)
        data = {
            "algorithm": self.algorithm,
            "policy": self.policy.to_json(),
            "hyperparameters": asdict(self.hyperparameters),
            "n_envs": self.n_envs,
            "seed": self.seed,
            "counters": self.counters,
            "statistics": statistics.data,
        }
        tensors = {f"policy/{name}": tensor for name, tensor in self.policy.state_dict().items()}
        tensors |= {f"optimizer/{name}": tensor for name, tensor in self.optimizer.items()}
        tensors |= {f"statistics/{name}": tensor for name, tensor in statistics.tensors.items()}
        save_checkpoint(path, "model", data, tensors)

    def restore_normalizer(self, normalizer: VecNormalize, path: str | Path) -> None:
        """Put the statistics, if there are any, into a normaliser; `path` is where they came from.

        Raises:
            CheckpointError: they are of other observations, or no statistics.
        """
        if self.statistics is None:
            return
        try:
            write_statistics(normalizer, self.statistics)
        except (AttributeError, KeyError, TypeError, ValueError) as error:  # a file may hold anything
            raise CheckpointError(f"{path}: the statistics do not fit env's normaliser: {one_line(error)}") from error

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
            if stray := sorted(name for name in tensors if not name.startswith(GROUPS)):
                raise ValueError(f"tensors are unknown: {stray}")
            return cls(
                algorithm=algorithm,
                policy=restore_policy(path, data["policy"], tensor_group(tensors, "policy/")),
                optimizer=tensor_group(tensors, "optimizer/"),
                hyperparameters=_hyperparameters(HYPERPARAMETERS[algorithm], data["hyperparameters"]),
                n_envs=_whole_number("n_envs", data["n_envs"], least=1),
                seed=None if data["seed"] is None else _whole_number("seed", data["seed"]),
                counters={name: _whole_number(name, data["counters"][name]) for name in COUNTERS},
                statistics=unpack(Snapshot(data.get("statistics"), tensor_group(tensors, "statistics/"))),
            )
        except CheckpointError:
            raise
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"{path}: not a saved {algorithm} model: {one_line(error)}") from error


def _hyperparameters(kind: type[Hyperparameters], values: dict[str, Any]) -> Hyperparameters:
    """Those of JSON, each of its field's very type: text would do for a bool that is only asked whether it is true."""
    for name, annotation in get_type_hints(kind).items():
        legal = {str} if get_origin(annotation) is Literal else {int, float} if annotation is float else {annotation}
        if name in values and type(values[name]) not in legal:
            types = " or ".join(sorted(one.__name__ for one in legal))
            raise ValueError(f"{name} must be {types}, got {values[name]!r}")
    return kind(**values)


def _whole_number(name: str, value: Any, least: int = 0) -> int:
    if type(value) is not int or value < least:
        raise ValueError(f"{name} must be a whole number of at least {least}, got {value!r}")
    return value

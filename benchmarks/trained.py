"""Trained agents, by the folder of their run or by their name in pretrained/."""

from pathlib import Path
from typing import NamedTuple

from agents.config import EnvironmentConfig
from agents.saved_model import SavedModel
from play import PRETRAINED, model_path, pretrained, read_environment
from rmc_rl.policies import RecurrentPolicy
from rmc_rl.run_folder import RunFolder


class Trained(NamedTuple):
    """The last model of a run, and what it was trained on."""

    name: str
    policy: RecurrentPolicy
    environment: EnvironmentConfig

    @classmethod
    def read(cls, run: Path) -> "Trained":
        """The agent of a run's folder, or one that comes along.

        Raises:
            ValueError: no run or agent of that name, or one that cannot be read.
        """
        folder = RunFolder.open(PRETRAINED / run if str(run) in pretrained() else run)
        policy = SavedModel.read(model_path(folder, "last")).policy
        return cls(folder.path.resolve().name, policy, read_environment(folder))

"""How the environments of an algorithm are made, here or in another process."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from multiprocessing.reduction import ForkingPickler
from typing import Any

from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

from rmc_rl.vec_env import Environment, make_vec_env


@dataclass(frozen=True)
class Recipe:
    """The arguments of `rmc_rl.vec_env.make_vec_env`."""

    env: Environment
    n_envs: int = 1
    env_kwargs: Mapping[str, Any] = field(default_factory=dict)
    previous_action_reward: bool = False

    def make(self) -> VecEnv:
        """The environments.

        Raises:
            ValueError: an illegal argument, or environments whose spaces differ.
        """
        vec_env = make_vec_env(self.env, self.n_envs, self.env_kwargs, self.previous_action_reward)
        if isinstance(vec_env.unwrapped, DummyVecEnv):
            for row, env in enumerate(vec_env.unwrapped.envs):
                for kind in ("observation_space", "action_space"):
                    space, first = getattr(env, kind), getattr(vec_env.unwrapped.envs[0], kind)
                    if space != first:
                        raise ValueError(f"{kind} must be the same in all environments, {first}, got {space} in {row}")
        return vec_env

    def check_portable(self) -> None:
        """Raise a ValueError unless another process can be told how to make the environments."""
        if not (isinstance(self.env, str) or callable(self.env)):
            raise ValueError(
                "env must be an id or a callable where actors are processes, which make their own environments, "
                f"got {self.env!r}"
            )
        try:
            ForkingPickler.loads(ForkingPickler.dumps(self))
        except Exception as error:  # whatever an object's own pickling raises
            reason = " ".join(str(error).split())
            raise ValueError(
                f"env must be picklable where actors are processes, such as an id or a function of a module, "
                f"got {self.env!r}: {reason}"
            ) from error

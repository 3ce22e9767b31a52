"""IMPALA as a Stable-Baselines3 algorithm."""

from dataclasses import replace
from typing import Any

import numpy as np
from stable_baselines3.common.vec_env import VecEnv

from rmc_rl.policies import RecurrentPolicy
from rmc_rl.vec_env import Environment

from . import replicas
from .actor_critic import ActorCritic
from .environments import Recipe
from .hyperparameters import ImpalaHyperparameters
from .placement import Placement
from .sources import Source


class IMPALA(ActorCritic):
    """Importance-weighted actor-learner architecture (Espeholt et al. 2018, arXiv 1802.01561).

    Actors collect unrolls of `unroll_length` steps; each gradient step is taken on `batch_size` of them, of one
    environment each, and V-trace corrects for actors whose policy lags behind the learner's. An actor that never lags
    makes this A2C. The defaults are the paper's for Atari games: a loss that is summed over the batch, and RMSProp.

    Where actors are processes (`placement.kind` is `"local"` or `"ray"`), they live as long as a call of `learn`, begin
    with fresh episodes, and make their own environments; `env` is then an id or a picklable callable, and the model's
    own `env` is one more, which is only looked at.

    Args:
        policy: as for `agents.actor_critic.ActorCritic`.
        env: likewise.
        n_envs: how many environments to make, for all actors of this learner together.
        placement: where actors run.
        arguments: the others of `agents.actor_critic.ActorCritic`, with the hyperparameters of
            `agents.hyperparameters.ImpalaHyperparameters`.

    Raises:
        ValueError: an illegal argument; the message names it, its value and what would be legal.
        TypeError: an unknown hyperparameter.
    """

    hyperparameters_class = ImpalaHyperparameters
    hyperparameters: ImpalaHyperparameters

    def __init__(
        self,
        policy: str | type[RecurrentPolicy],
        env: Environment | None,
        n_envs: int = 1,
        *,
        placement: Placement = Placement(),  # noqa: B008 -- it is frozen
        **arguments: Any,
    ) -> None:
        placement.check_reachable()
        self.placement = placement
        self._recipe: Recipe | None = None
        super().__init__(policy, env, n_envs, **arguments)

    def _make_env(self, recipe: Recipe) -> VecEnv:
        if self.placement.kind == "sync":
            return super()._make_env(recipe)
        recipe.check_portable()
        self._recipe = recipe
        return replace(recipe, n_envs=1).make()

    def set_random_seed(self, seed: int | None = None) -> None:
        """As in Stable-Baselines3; and actors that are processes begin with this seed."""
        self.seed = seed
        super().set_random_seed(seed)

    @property
    def num_envs(self) -> int:
        return self._recipe.n_envs if self._recipe else self.n_envs

    def set_env(self, env: VecEnv, force_reset: bool = True) -> None:  # type: ignore[override]
        """As in Stable-Baselines3, where the actor steps this process's environments.

        Raises:
            ValueError: actors are processes, which have made their own.
        """
        if self.placement.kind != "sync":
            kind = self.placement.kind
            raise ValueError(f"set_env needs placement 'sync', got {kind!r}: give the environment to load()")
        super().set_env(env, force_reset)

    def _source(self) -> Source:
        batch_size = self.hyperparameters.batch_size
        self.placement.check_shares(self.num_envs * replicas.count(), batch_size, replicas.count())
        share = batch_size // replicas.count()
        if self.placement.kind == "sync":
            return self._lock_step(share)
        assert self._recipe is not None, "load() takes an environment"
        seed = self._seed_of_actors()
        arguments = (self._recipe, self.policy, self.hyperparameters, self.placement, share, seed, self.stop)
        if self.placement.kind == "local":
            from .local_actors import LocalActors

            return LocalActors(*arguments)
        from .ray_actors import RayActors

        return RayActors(*arguments)

    def _seed_of_actors(self) -> int | None:
        """The model's seed, and another one in every later call of `learn`, which would play the same games again."""
        if self.seed is None or self._n_updates == 0:
            return self.seed
        return int(np.random.SeedSequence([self.seed, self._n_updates]).generate_state(1)[0] >> 1)

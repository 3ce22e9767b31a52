"""Advantage actor-critic as a Stable-Baselines3 algorithm."""

from .actor_critic import ActorCritic
from .hyperparameters import Hyperparameters
from .sources import Source


class A2C(ActorCritic):
    """Synchronous advantage actor-critic with a recurrent policy.

    All environments are stepped `unroll_length` times, then one gradient step is taken on all of them at once, with
    backpropagation through the whole unroll. Its arguments are those of `agents.actor_critic.ActorCritic`, with the
    hyperparameters of `agents.hyperparameters.Hyperparameters`.
    """

    hyperparameters_class = Hyperparameters

    def _source(self) -> Source:
        assert self.env is not None
        return self._lock_step(self.env.num_envs)

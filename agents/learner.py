"""The learner: one gradient step from one unroll of all environments."""

import torch
from torch import Tensor

from rmc_rl.network import RecurrentActorCritic

from . import replicas
from .hyperparameters import Hyperparameters
from .losses import entropy_loss, normalize, policy_gradient_loss, value_loss
from .trajectory import Trajectory
from .vtrace import vtrace


class Learner:
    """Updates a network by the actor-critic loss with V-trace targets, with Adam.

    An actor that lags behind is corrected for; one that does not makes this A2C with GAE.
    """

    def __init__(self, network: RecurrentActorCritic, settings: Hyperparameters) -> None:
        self.network, self.settings = network, settings
        self.optimizer = torch.optim.Adam(network.parameters(), lr=settings.learning_rate, eps=1e-5, fused=True)

    def update(self, trajectory: Trajectory) -> dict[str, float]:
        """One step on the trajectory's loss; returns what to log.

        Raises:
            FloatingPointError: the gradient is not finite; the parameters stay as they were.
        """
        loss, metrics = self.loss(trajectory)
        self.optimizer.zero_grad()
        torch.autograd.backward(loss)
        replicas.average_gradients(self.network)
        norm = torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.settings.max_gradient_norm)
        if not norm.isfinite():
            raise FloatingPointError("the gradient is not finite (NaN or infinite)")
        self.optimizer.step()
        return {name: tensor.item() for name, tensor in {**metrics, "loss": loss, "gradient_norm": norm}.items()}

    def loss(self, trajectory: Trajectory) -> tuple[Tensor, dict[str, Tensor]]:
        """The scalar to be minimised, and its parts."""
        settings = self.settings
        output, _ = self.network(trajectory.observations, trajectory.initial_state, trajectory.starts)  # [T + 1, B]
        values, bootstrap_value = output.value[:-1], output.value[-1]
        distribution = self.network.distribution(output.policy[:-1].flatten(0, 1))
        log_probs = distribution.log_prob(trajectory.actions.flatten(0, 1)).view_as(values)  # [T, B]
        entropies = distribution.entropy()
        assert entropies is not None, "every distribution of the supported action spaces has one"

        discounts = settings.discount * ~(trajectory.terminated | trajectory.truncated)
        vs, advantages = vtrace(
            log_probs - trajectory.behaviour_log_probs,
            discounts,
            trajectory.rewards,
            values,
            bootstrap_value,
            lam=settings.gae_lambda,
        )
        if settings.normalize_advantages:
            advantages = normalize(advantages, replicas.average)
        parts = {
            "policy_loss": policy_gradient_loss(log_probs, advantages),
            "value_loss": value_loss(values, vs),
            "entropy_loss": entropy_loss(entropies),
        }
        loss = (
            parts["policy_loss"]
            + settings.value_cost * parts["value_loss"]
            + settings.entropy_cost * parts["entropy_loss"]
        )
        explained = 1 - (vs - values.detach()).var(correction=0) / vs.var(correction=0)
        return loss, {name: part.detach() for name, part in parts.items()} | {"explained_variance": explained}

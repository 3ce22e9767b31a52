"""The learner: one gradient step from one batch of unrolls."""

import torch
from stable_baselines3.common.sb2_compat.rmsprop_tf_like import RMSpropTFLike
from torch import Tensor

from rmc_rl.network import NetworkRecording, RecurrentActorCritic

from . import replicas
from .hyperparameters import Hyperparameters
from .losses import entropy_loss, normalize, policy_gradient_loss, value_loss
from .trajectory import Trajectory
from .vtrace import vtrace


class Learner:
    """Updates a network by the actor-critic loss with V-trace targets.

    An actor that lags behind is corrected for; one that does not makes this A2C with GAE.
    """

    def __init__(self, network: RecurrentActorCritic, settings: Hyperparameters) -> None:
        self.network, self.settings = network, settings
        self.optimizer = make_optimizer(network, settings)
        self.entropy_cost = settings.entropy_cost
        """The present one, where it follows a schedule."""

    def update(self, trajectory: Trajectory, recording: NetworkRecording | None = None) -> dict[str, float]:
        """One step on the trajectory's loss; returns what to log.

        Args:
            trajectory: a batch of unrolls.
            recording: what has been computed of them with the present parameters, if that was kept.

        Raises:
            FloatingPointError: the gradient is not finite; the parameters stay as they were.
        """
        loss, metrics = self.loss(trajectory, recording)
        self.optimizer.zero_grad()
        torch.autograd.backward(loss)
        replicas.reduce_gradients(self.network, self.settings.loss_reduction)
        norm = torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.settings.max_gradient_norm)
        if not norm.isfinite():
            raise FloatingPointError("the gradient is not finite (NaN or infinite)")
        self.optimizer.step()
        return {name: tensor.item() for name, tensor in {**metrics, "loss": loss, "gradient_norm": norm}.items()}

    def loss(
        self, trajectory: Trajectory, recording: NetworkRecording | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The scalar to be minimised, and its parts, which are means over all steps, whatever the loss is."""
        settings = self.settings
        inputs = trajectory.observations, trajectory.initial_state, trajectory.starts
        output, _ = self.network(*inputs, recording)  # [T + 1, B]
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
            rho_bar=settings.rho_bar,
            c_bar=settings.c_bar,
            pg_rho_bar=settings.rho_bar,
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
            parts["policy_loss"] + settings.value_cost * parts["value_loss"] + self.entropy_cost * parts["entropy_loss"]
        )
        if settings.loss_reduction == "sum":
            loss = loss * values.numel()
        explained = 1 - (vs - values.detach()).var(correction=0) / vs.var(correction=0)
        return loss, {name: part.detach() for name, part in parts.items()} | {"explained_variance": explained}


def make_optimizer(network: RecurrentActorCritic, settings: Hyperparameters) -> torch.optim.Optimizer:
    """The optimizer of the settings, for all of the network's parameters."""
    if settings.optimizer == "adam":
        return torch.optim.Adam(network.parameters(), lr=settings.learning_rate, eps=1e-5, fused=True)
    return RMSpropTFLike(
        network.parameters(),
        lr=settings.learning_rate,
        alpha=settings.rmsprop_decay,
        eps=settings.rmsprop_epsilon,
        momentum=settings.rmsprop_momentum,
    )

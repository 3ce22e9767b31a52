"""The parts of the actor-critic loss: pure functions, each a mean over time and batch."""

from collections.abc import Callable

from torch import Tensor


def policy_gradient_loss(log_probs: Tensor, advantages: Tensor) -> Tensor:
    """-mean(log pi(a_t) A_t); log_probs and advantages [T, B], no gradient through the advantages."""
    return -(log_probs * advantages.detach()).mean()


def value_loss(values: Tensor, targets: Tensor) -> Tensor:
    """mean((target_t - V_t)^2) / 2; values and targets [T, B], no gradient through the targets."""
    return 0.5 * (targets.detach() - values).square().mean()


def entropy_loss(entropies: Tensor) -> Tensor:
    """-mean(H_t), of entropies in nats of any shape."""
    return -entropies.mean()


def normalize(advantages: Tensor, average: Callable[[Tensor], Tensor] = lambda mean: mean) -> Tensor:
    """Advantages of any shape, shifted and scaled to mean 0 and deviation 1 over all of them.

    Args:
        advantages: this replica's.
        average: turns a mean over this replica's into the mean over all replicas'.
    """
    centred = advantages - average(advantages.mean())
    return centred / (average(centred.square().mean()).sqrt() + 1e-8)

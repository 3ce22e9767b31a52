"""The distribution over a Discrete space's actions, with less between an actor's steps than torch's own."""

from typing import Self

import torch
from stable_baselines3.common.distributions import CategoricalDistribution
from torch import Tensor


class LeanCategorical(CategoricalDistribution):
    """Stable-Baselines3's, which draws the same actions from the same random numbers, in a third of the time.

    Whether the logits are finite is not looked at: whoever draws actions has done so.
    """

    log_probs: Tensor
    """[N, A]: of every action."""

    def proba_distribution(self, action_logits: Tensor) -> Self:
        """With these logits [N, A]."""
        self.log_probs = action_logits.log_softmax(-1)
        return self

    def log_prob(self, actions: Tensor) -> Tensor:
        """Of actions [N]."""
        return self.log_probs.gather(-1, actions.long().unsqueeze(-1)).squeeze(-1)

    def entropy(self) -> Tensor:
        """[N], in nats."""
        return -(self.log_probs.exp() * self.log_probs).sum(-1)

    def sample(self) -> Tensor:
        """Actions [N]: where the first of exponential clocks, as fast as the actions are probable, goes off."""
        probabilities = self.log_probs.exp()
        return (probabilities / torch.empty_like(probabilities).exponential_()).argmax(-1)

    def mode(self) -> Tensor:
        """The likeliest actions [N]."""
        return self.log_probs.argmax(-1)

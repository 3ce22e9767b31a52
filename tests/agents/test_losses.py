"""The parts of the loss: their values by hand, and where gradients may flow."""

import numpy as np
import pytest
import torch
from torch import Tensor

from agents.losses import entropy_loss, normalize, policy_gradient_loss, value_loss


def leaf(*values: list[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64, requires_grad=True)


def test_policy_gradient_loss() -> None:
    log_probs, advantages = leaf([-1.0, -2.0, -3.0], [-0.5, -1.5, 0.0]), leaf([1.0, -1.0, 2.0], [4.0, 0.0, 5.0])
    loss = policy_gradient_loss(log_probs, advantages)
    assert loss.item() == pytest.approx(-(-1.0 + 2.0 - 6.0 - 2.0) / 6)
    loss.backward()
    assert advantages.grad is None
    np.testing.assert_allclose(log_probs.grad, -advantages.detach() / 6)


def test_value_loss() -> None:
    values, targets = leaf([1.0, 2.0, 3.0], [4.0, 5.0, 6.0]), leaf([1.0, 0.0, 6.0], [5.0, 5.0, 6.0])
    loss = value_loss(values, targets)
    assert loss.item() == pytest.approx((4 + 9 + 1) / 6 / 2)
    loss.backward()
    assert targets.grad is None
    np.testing.assert_allclose(values.grad, (values - targets).detach() / 6)


def test_entropy_loss_falls_with_entropy() -> None:
    entropies = leaf([1.0, 2.0, 6.0])
    loss = entropy_loss(entropies)
    assert loss.item() == pytest.approx(-3.0)
    loss.backward()
    np.testing.assert_allclose(entropies.grad, -np.ones((1, 3)) / 3)


def test_normalize() -> None:
    advantages = normalize(torch.tensor([[1.0, 5.0, 9.0], [1.0, 5.0, 9.0]]))
    assert advantages.mean().item() == pytest.approx(0.0, abs=1e-6)
    assert advantages.std(correction=0).item() == pytest.approx(1.0)
    assert (advantages[0, 0] < advantages[0, 1]) & (advantages[0, 1] < advantages[0, 2])


@pytest.mark.parametrize("shape", [(1, 1), (4, 3)])
def test_equal_advantages_normalize_to_zero(shape: tuple[int, int]) -> None:
    """Rather than to NaN, a single one included."""
    assert not normalize(torch.full(shape, 3.0)).any()

"""A linear layer with its gradient on the compiled matrix products."""

from typing import Any, cast

import torch
from torch import Tensor

from .layer_recording import recorded
from .native import Precision, precision_here, without_autocast
from .products import affine, input_gradient, layer_gradients


def linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """x [..., I] @ weight [O, I]^T + bias [O] -> [..., O]."""
    precision = precision_here()
    with without_autocast():
        if torch.is_grad_enabled():
            return cast(Tensor, cast(Any, FusedLinear).apply(precision, x.float(), weight, bias))
        return recorded(lambda: affine(x.float(), weight, bias, precision))


class FusedLinear(torch.autograd.Function):
    """`linear` with its gradient."""

    @staticmethod
    def forward(ctx: Any, precision: Precision, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.precision = precision
        ctx.save_for_backward(x, weight)
        return recorded(lambda: affine(x, weight, bias, precision))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        if torch.is_grad_enabled():  # it is to be differentiated in its turn
            rows = grad.flatten(0, -2)
            return None, grad @ weight, rows.T @ x.flatten(0, -2), rows.sum(0)
        grad_x = input_gradient(grad, weight, ctx.precision) if ctx.needs_input_grad[1] else None
        return None, grad_x, *layer_gradients(grad, x, ctx.precision)

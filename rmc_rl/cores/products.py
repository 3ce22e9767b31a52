"""Matrix products of the compiled unrolls outside their loops over time, in the unroll's precision.

What was stored in less than float32 (`storage`) comes as tensors of uint16.
"""

from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from .core import kept_of_weights
from .matmul import linear, linear_backward, linear_weight_gradient
from .native import Precision, array


def weight_operand(weight: Tensor, precision: Precision) -> NDArray[Any]:
    """A weight [O, I] as compiled products take it."""
    known = kept_of_weights()
    if precision == "fp32" or known is None:
        return operand(weight, precision)
    if id(weight) not in known:
        known[id(weight)] = _in_bf16(weight)
    return array(known[id(weight)])


def operand(matrix: Tensor, precision: Precision) -> NDArray[Any]:
    """Any other matrix; one of uint16 is in bfloat16 already."""
    return array(matrix if precision == "fp32" or matrix.dtype == torch.uint16 else _in_bf16(matrix))


def _in_bf16(matrix: Tensor) -> Tensor:
    return matrix.detach().to(torch.bfloat16).view(torch.uint16)


def affine(x: Tensor, weight: Tensor, bias: Tensor, precision: Precision) -> Tensor:
    """x [..., I] @ weight [O, I]^T + bias [O] -> [..., O]."""
    if precision == "fp32":
        return F.linear(x, weight, bias)
    out = x.new_empty(*x.shape[:-1], len(weight))
    linear(array(x.flatten(0, -2)), weight_operand(weight, precision), out.flatten(0, -2).numpy())
    return out.add_(bias)


def input_gradient(grad: Tensor, weight: Tensor, precision: Precision) -> Tensor:
    """grad [..., O] @ weight [O, I] -> [..., I]."""
    if precision == "fp32":
        return grad @ weight
    out = weight.new_empty(*grad.shape[:-1], weight.shape[1])
    linear_backward(array(grad.flatten(0, -2)), weight_operand(weight, precision), out.flatten(0, -2).numpy(), False)
    return out


def weight_gradient(grad: Tensor, x: Tensor, precision: Precision) -> Tensor:
    """grad [..., O]^T @ x [..., I] -> [O, I], one product over all steps and rows."""
    grad, x = grad.flatten(0, -2), x.flatten(0, -2)
    if precision == "fp32":
        return (x.T @ grad).T.contiguous()  # BLAS is faster at this than at the product the other way round
    out = torch.empty(grad.shape[1], x.shape[1])
    linear_weight_gradient(operand(grad, precision), operand(x, precision), out.numpy())
    return out


def bias_gradient(grad: Tensor, precision: Precision) -> Tensor:
    """The sum [O] over all steps and rows of grad [..., O]: a product as well, which is faster than a sum."""
    return weight_gradient(torch.ones(*grad.shape[:-1], 1), grad, precision)[0]

"""Matrix products of the compiled unrolls as their Python parts see them, in the unroll's precision.

What was stored in less than float32 (`storage`) comes as tensors of uint16.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from . import blas
from .core import kept_of_weights
from .matmul import add_outer_products, add_outer_products_in_library, multiply
from .native import Precision, array, in_parts
from .tiles import COLUMNS


def forward_operand(weight: Tensor, precision: Precision) -> NDArray[np.generic]:
    """A weight [O, I] for `multiply`: x [R, I] -> x @ weight^T [R, O]."""
    known = kept_of_weights()
    if known is None:
        return _operand(weight.detach().T, precision)
    if (id(weight), precision) not in known:
        known[id(weight), precision] = _operand(weight.detach().T, precision)
    kept: NDArray[np.generic] = known[id(weight), precision]
    return kept


def backward_operand(weight: Tensor, precision: Precision) -> NDArray[np.generic]:
    """A weight [O, I] for `multiply`: grad [R, O] -> grad @ weight [R, I]."""
    return _operand(weight.detach(), precision)


def _operand(matrix: Tensor, precision: Precision) -> NDArray[np.generic]:
    """A matrix [inner, columns] in the form that `matmul` describes."""
    if precision == "bf16" and blas.IS_FAST:
        return array(_bits(matrix))
    inner, columns = matrix.shape
    panels = -(-columns // COLUMNS)
    matrix = F.pad(matrix, (0, -columns % COLUMNS, 0, inner % 2 if precision == "bf16" else 0)).contiguous()
    if precision == "fp32":
        return array(matrix.view(inner, panels, COLUMNS).transpose(0, 1))  # [panels, inner, COLUMNS]
    pairs = _bits(matrix).view(len(matrix) // 2, 2, panels, COLUMNS)  # [inner / 2, 2, panels, COLUMNS]
    return array(pairs.permute(2, 0, 3, 1).flatten(2))


def _bits(matrix: Tensor) -> Tensor:
    """In bfloat16, as uint16."""
    return matrix if matrix.dtype == torch.uint16 else matrix.detach().to(torch.bfloat16).view(torch.uint16)


def affine(x: Tensor, weight: Tensor, bias: Tensor, precision: Precision) -> Tensor:
    """x [..., I] @ weight [O, I]^T + bias [O] -> [..., O]."""
    return _multiply(x, forward_operand(weight, precision), len(weight)).add_(bias)


def input_gradient(grad: Tensor, weight: Tensor, precision: Precision) -> Tensor:
    """grad [..., O] @ weight [O, I] -> [..., I]."""
    return _multiply(grad, backward_operand(weight, precision), weight.shape[1])


def _multiply(x: Tensor, operand: NDArray[np.generic], columns: int) -> Tensor:
    out = torch.empty(*x.shape[:-1], columns)
    rows, results = array(x.flatten(0, -2)), out.flatten(0, -2).numpy()
    in_parts(len(rows), lambda r0, r1: multiply(rows[r0:r1], operand, results[r0:r1], False))
    return out


def layer_gradients(grad: Tensor, x: Tensor, precision: Precision) -> tuple[Tensor, Tensor]:
    """Of a linear layer's weight [O, I] and bias [O], from grad [..., O] and x [..., I], over all steps and rows."""
    grad, x = grad.flatten(0, -2), x.flatten(0, -2)
    weight, bias = torch.zeros(grad.shape[1], x.shape[1]), torch.zeros(grad.shape[1])
    if precision == "bf16" and blas.IS_FAST:
        grad, x = _bits(grad), _bits(x)
        ones = torch.ones(len(grad), 1, dtype=torch.bfloat16).view(torch.uint16)
        add_outer_products_in_library(array(grad), array(x), weight.numpy())
        add_outer_products_in_library(array(grad), array(ones), bias.unsqueeze(1).numpy())
        return weight, bias
    form = np.empty(0, np.float32 if precision == "fp32" else np.uint16)
    arguments = array(grad), array(x)
    results = form, weight.numpy(), bias.numpy()
    in_parts(len(weight), lambda o0, o1: add_outer_products(*arguments, o0, o1, *results))
    return weight, bias

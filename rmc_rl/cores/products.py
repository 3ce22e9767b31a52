"""Matrix products of the compiled unrolls as their Python parts see them, in the unroll's precision.

What was stored in less than float32 (`storage`) comes as tensors of uint16.
"""

from collections.abc import Sequence
from functools import reduce

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from . import blas
from .core import kept_of_weights
from .matmul import multiply
from .native import Precision, array, in_parts
from .outer_products import BLOCK, LIBRARY_BLOCK, OuterProducts, finish, take
from .tiles import COLUMNS, ROWS


def forward_operand(weight: Tensor, precision: Precision) -> NDArray[np.generic]:
    """A weight [O, I] for `multiply`: x [R, I] -> x @ weight^T [R, O]."""
    return kept_of_weights((id(weight), precision), lambda: _operand(weight.detach().T, precision))


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
    grads, inputs = array(grad.flatten(0, -2)), array(x.flatten(0, -2))

    def part(o0: int, o1: int) -> tuple[Tensor, Tensor]:
        products = outer_products(o1 - o0, inputs.shape[1], 0, precision)
        take(products, grads, o0, o1, inputs, inputs[:, :0].copy())
        weight, _, bias = weight_gradients([products], inputs.shape[1], 0)
        return weight, bias

    weights, biases = zip(*in_parts(grads.shape[1], part), strict=True)
    return torch.cat(weights), torch.cat(biases)


def outer_products(outputs: int, inputs: int, more_inputs: int, precision: Precision) -> OuterProducts:
    """None yet, of grad [R, outputs] with x [R, inputs] and h [R, more_inputs]."""
    parts, columns = -(-outputs // ROWS), _padded(inputs) + _padded(more_inputs)
    shapes: tuple[tuple[int, ...], tuple[int, ...]]
    if precision == "bf16" and blas.IS_FAST:
        shapes = (LIBRARY_BLOCK, outputs), (LIBRARY_BLOCK, columns)
    else:
        together = 1 if precision == "fp32" else 2
        shapes = (parts, BLOCK, ROWS * together), (columns // COLUMNS, BLOCK, COLUMNS * together)
    grads, inputs_block = (np.zeros(shape, np.float32 if precision == "fp32" else np.uint16) for shape in shapes)
    weight, bias = np.zeros((outputs, columns), np.float32), np.zeros(outputs, np.float32)
    return OuterProducts(grads, inputs_block, np.zeros(1, np.int64), weight, bias)


def weight_gradients(parts: Sequence[OuterProducts], inputs: int, more_inputs: int) -> tuple[Tensor, Tensor, Tensor]:
    """The sums of all rows that parts of a batch have taken: [O, inputs], [O, more_inputs] and, of grad alone, [O]."""
    for products in parts:
        finish(products)
    weight = torch.from_numpy(reduce(np.add, (products.weight for products in parts)))
    bias = torch.from_numpy(reduce(np.add, (products.bias for products in parts)))
    return weight[:, :inputs], weight.narrow(1, weight.shape[1] - _padded(more_inputs), more_inputs), bias


def _padded(columns: int) -> int:
    return -(-columns // COLUMNS) * COLUMNS

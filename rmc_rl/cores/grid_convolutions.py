"""Two convolutions of 2 x 2 of small images as one operation with its own gradient, on the compiled kernels."""

from __future__ import annotations

from typing import Any, Literal, cast

import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from . import grid_kernels as kernels
from .core import kept_of_weights
from .layer_recording import recorded
from .native import array, in_parts, without_autocast

Channels = Literal["first", "last"]
"""Where the channels of images are: [N, C, H, W] or [N, H, W, C]."""


def convolve(images: Tensor, channels: Channels, constants: Tensor, *parameters: Tensor) -> Tensor:
    """relu(second(relu(first(images)))), flattened kernel by kernel, and then the constants; stride 1, no padding.

    In float32, within autocast as well: it is too little to be worth rounding.

    Args:
        images: float32, without a gradient.
        channels: where theirs are.
        constants: [F], what follows in every row.
        parameters: kernels [K, C, 2, 2], biases [K], kernels [O, K, 2, 2], biases [O].

    Returns:
        [N, O * (H - 2) * (W - 2) + F].
    """
    with without_autocast():
        if torch.is_grad_enabled():
            return cast(Tensor, cast(Any, GridConvolutions).apply(images, channels, constants, *parameters))
        return recorded(lambda: _forward(images, channels, constants, *parameters))


def convolve_in_torch(
    images: Tensor,
    channels: Channels,
    constants: Tensor,
    weight: Tensor,
    bias: Tensor,
    second_weight: Tensor,
    second_bias: Tensor,
) -> Tensor:
    """The same in torch's own operations: the definition, and the way for everything else."""
    pixels = images.movedim(-1, 1) if channels == "last" else images  # [N, C, H, W]
    hidden = torch.relu(F.conv2d(pixels, weight, bias))  # [N, K, H - 1, W - 1]
    features = torch.relu(F.conv2d(hidden, second_weight, second_bias)).flatten(1)
    return torch.cat([features, constants.expand(len(images), -1)], dim=1)


class GridConvolutions(torch.autograd.Function):
    """`convolve` with its gradient."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, channels: Channels, constants: Tensor, *parameters: Tensor) -> Tensor:
        features, ctx.channels = recorded(lambda: _forward(images, channels, constants, *parameters)), channels
        ctx.save_for_backward(images, constants, features, *parameters)
        return features

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        images, constants, features, *parameters = ctx.saved_tensors
        if torch.is_grad_enabled():  # it is to be differentiated in its turn
            again = convolve_in_torch(images, ctx.channels, constants, *parameters)
            return None, None, None, *torch.autograd.grad(again, parameters, grad, create_graph=True)
        return None, None, None, *_backward(grad, features, images, ctx.channels, *parameters)


def _forward(images: Tensor, channels: Channels, constants: Tensor, *parameters: Tensor) -> Tensor:
    inputs = _inputs(images, channels, *parameters)
    _, _, sizes, _ = inputs
    num_features = sizes.second * (sizes.height - 2) * (sizes.width - 2)
    out = torch.empty(len(images), num_features + len(constants))
    out[:, num_features:] = constants
    in_parts(len(images), lambda n0, n1: kernels.grid_forward(n0, n1, *inputs, out.numpy()))
    return out


def _backward(grad: Tensor, features: Tensor, images: Tensor, channels: Channels, *parameters: Tensor) -> list[Tensor]:
    """Of the parameters."""
    inputs = array(grad), array(features), *_inputs(images, channels, *parameters)

    def part(n0: int, n1: int) -> list[Tensor]:
        grads = [torch.zeros(_matrix(parameter).shape) for parameter in parameters]
        kernels.grid_backward(n0, n1, *inputs, kernels.Weights(*(each.numpy() for each in grads)))
        return grads

    parts = in_parts(len(images), part)
    return [_like(parameter, sum(grads)) for parameter, *grads in zip(parameters, *parts, strict=True)]


def _inputs(
    images: Tensor, channels: Channels, *parameters: Tensor
) -> tuple[NDArray[Any], tuple[int, ...], kernels.Sizes, kernels.Weights]:
    """What both kernels read."""
    images = images.contiguous()
    by_channel = images.movedim(-1, 1) if channels == "last" else images  # [N, C, H, W]
    _, num_channels, height, width = by_channel.shape
    first, _, second, _ = map(len, parameters)
    weights = kept_of_weights(
        tuple(map(id, parameters)), lambda: kernels.Weights(*(array(_matrix(parameter)) for parameter in parameters))
    )
    return (
        array(images.flatten()),
        by_channel.stride(),
        kernels.Sizes(height, width, num_channels, first, second),
        weights,
    )


def _matrix(parameter: Tensor) -> Tensor:
    """Kernels [K, C, 2, 2] as [K, 2 * 2 * C]; biases as they are."""
    return parameter.permute(0, 2, 3, 1).flatten(1) if parameter.dim() == 4 else parameter


def _like(parameter: Tensor, matrix: Tensor) -> Tensor:
    """`_matrix` undone."""
    if parameter.dim() == 1:
        return matrix
    count, depth, height, width = parameter.shape
    return matrix.view(count, height, width, depth).permute(0, 3, 1, 2).contiguous()

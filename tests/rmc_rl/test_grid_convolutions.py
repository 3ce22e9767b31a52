"""GridEncoder's compiled convolutions: the same as torch's, forward and every gradient, and really taken."""

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rmc_rl.cores import grid_convolutions
from rmc_rl.cores.grid_convolutions import convolve, convolve_in_torch
from rmc_rl.cores.tiles import COLUMNS
from rmc_rl.encoders import GridEncoder

CONSTANTS = torch.tensor([0.5, -2.0, 1.5])
PLACES: list[grid_convolutions.Channels] = ["first", "last"]


def parameters(channels: int, first: int, second: int) -> list[Tensor]:
    shapes = (first, channels, 2, 2), (first,), (second, first, 2, 2), (second,)
    return [torch.randn(shape).mul_(0.5).requires_grad_() for shape in shapes]


def in_float64(images: Tensor, place: grid_convolutions.Channels, given: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
    doubles = [parameter.detach().double().requires_grad_() for parameter in given]
    return convolve_in_torch(images.double(), place, CONSTANTS.double(), *doubles), doubles


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from([1, 2, COLUMNS - 1, COLUMNS, COLUMNS + 3, 5 * COLUMNS + 1]),
    st.integers(3, 6),
    st.integers(3, 6),
    st.integers(1, 7),
    st.sampled_from([(1, 1), (12, 24), (5, COLUMNS + 2)]),
    st.sampled_from(PLACES),
    st.sampled_from([1, 2]),
    st.integers(0, 10_000),
)
def test_features_and_gradients_are_torchs(
    number: int,
    height: int,
    width: int,
    channels: int,
    kernels: tuple[int, int],
    place: grid_convolutions.Channels,
    threads: int,
    seed: int,
) -> None:
    torch.manual_seed(seed)
    given, images = parameters(channels, *kernels), torch.randn(number, channels, height, width)
    if place == "last":
        images = images.permute(0, 2, 3, 1)  # as a batch may come: not contiguous
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        features = convolve(images, place, CONSTANTS, *given)
        # Where a ReLU is all but at its bend, the two may fall to different sides of it.
        weights = torch.randn_like(features) * (features.detach() > 1e-4)
        gradients = torch.autograd.grad(features, given, weights)
    finally:
        torch.set_num_threads(before)
    expected, doubles = in_float64(images, place, given)
    torch.testing.assert_close(features.double(), expected, rtol=1e-5, atol=1e-5)
    for found, right in zip(gradients, torch.autograd.grad(expected, doubles, weights.double()), strict=True):
        torch.testing.assert_close(found.double(), right, rtol=1e-4, atol=1e-4 * right.abs().max().item() + 1e-5)


def test_a_gradient_can_be_differentiated_again() -> None:
    torch.manual_seed(3)
    given, images = parameters(3, 4, 5), torch.randn(7, 3, 4, 6)

    def of_a_gradient(features: Tensor, weights: list[Tensor]) -> tuple[Tensor, ...]:
        first, *_ = torch.autograd.grad(features.square().sum(), weights, create_graph=True)
        return torch.autograd.grad(first.square().sum(), weights)

    found = of_a_gradient(convolve(images, "first", CONSTANTS, *given), given)
    for mine, right in zip(found, of_a_gradient(*in_float64(images, "first", given)), strict=True):
        torch.testing.assert_close(mine.double(), right, rtol=1e-4, atol=1e-4 * right.abs().max().item())


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    made: list[Any] = []

    def counted(*arguments: Any) -> Tensor:
        made.append(arguments)
        return convolve(*arguments)

    monkeypatch.setattr(grid_convolutions, "convolve", counted)
    return made


def test_the_encoder_takes_the_compiled_way_in_float32_alone(calls: list[Any]) -> None:
    encoder = GridEncoder(spaces.Box(0, 1, (6, 5, 7), np.float32))
    pixels = torch.rand(4, 6, 5, 7)
    features = encoder(pixels)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(encoder(pixels), features, rtol=0, atol=0)
    assert len(calls) == 2
    in_double = encoder.double()(pixels.double())
    assert len(calls) == 2
    torch.testing.assert_close(in_double.float(), features, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", [(4, 6, 5, 8), (4, 7, 5, 7), (4, 6, 3, 7), (6, 5, 7), (4, 5, 7, 6)])
def test_images_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    encoder = GridEncoder(spaces.Box(0, 1, (6, 5, 7), np.float32))
    with pytest.raises(ValueError, match=r"^observations must be .*, here \[N, \*\(6, 5, 7\)\], got "):
        encoder(torch.rand(shape))


def test_an_image_with_a_gradient_gets_it(calls: list[Any]) -> None:
    encoder = GridEncoder(spaces.Box(0, 1, (6, 5, 7), np.float32))
    pixels = torch.rand(4, 6, 5, 7, requires_grad=True)
    encoder(pixels).sum().backward()
    assert not calls
    assert pixels.grad is not None
    assert pixels.grad.abs().sum() > 0

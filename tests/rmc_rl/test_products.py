"""The compiled matrix products: right for every shape, in every form that this processor has."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from rmc_rl.cores import blas, tiles
from rmc_rl.cores.linear import Linear
from rmc_rl.cores.matmul import multiply
from rmc_rl.cores.native import BF16_IS_FAST
from rmc_rl.cores.outer_products import BLOCK, LIBRARY_BLOCK
from rmc_rl.cores.products import backward_operand, forward_operand, layer_gradients

needs_bf16_tiles = pytest.mark.skipif(not tiles.HAS_BF16, reason="no vector instructions for bfloat16 here")
needs_library = pytest.mark.skipif(not blas.AVAILABLE, reason="torch's library offers no product of bfloat16 here")
FORMS = [
    pytest.param("fp32", False, id="fp32"),
    pytest.param("bf16", False, id="bf16 in tiles", marks=needs_bf16_tiles),
    pytest.param("bf16", True, id="bf16 in the library", marks=needs_library),
]
every_form = pytest.mark.parametrize(("precision", "in_library"), FORMS)
SIZES = st.integers(1, 3 * tiles.COLUMNS + 1)


@pytest.fixture
def form(in_library, monkeypatch):
    monkeypatch.setattr(blas, "IS_FAST", in_library)


def _as_multiplied(matrix, precision):
    """In float64, rounded as the product's operands are."""
    return (matrix if precision == "fp32" else matrix.bfloat16()).double()


def _assert_sums_are_precise(found, x, y):
    """found is x @ y to the round-off of float32 sums, whatever cancels in them."""
    error = (found.double() - x @ y).abs()
    assert (error <= 1e-6 * (4 + x.shape[1] ** 0.5) * (x.abs() @ y.abs()) + 1e-30).all()


@every_form
@pytest.mark.usefixtures("form")
@settings(max_examples=80, deadline=None)
@given(st.integers(1, 40), SIZES, SIZES, st.booleans(), st.booleans(), st.integers(0, 10_000))
def test_multiply_is_right_for_every_shape(precision, rows, inner, columns, accumulate, is_stored, seed):
    torch.manual_seed(seed)
    x, weight, before = torch.randn(rows, inner), torch.randn(columns, inner), torch.randn(rows, columns)
    stored = x.bfloat16().view(torch.uint16) if precision == "bf16" and is_stored else x
    for operand in (forward_operand(weight, precision), backward_operand(weight.T.contiguous(), precision)):
        out = before.clone()
        multiply(stored.numpy(), operand, out.numpy(), accumulate)
        _assert_sums_are_precise(
            out,
            torch.cat([_as_multiplied(x, precision), accumulate * torch.eye(rows)], dim=1),
            torch.cat([_as_multiplied(weight.T, precision), before.double()]),
        )


@every_form
@pytest.mark.usefixtures("form")
@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from([1, 2, 5, BLOCK - 1, BLOCK, 2 * BLOCK + 1, LIBRARY_BLOCK + 3]),
    SIZES,
    SIZES,
    st.sampled_from([1, 2]),
    st.integers(0, 10_000),
)
def test_a_layers_gradients_are_right_for_every_shape(precision, rows, outputs, inputs, threads, seed):
    torch.manual_seed(seed)
    grad, x = torch.randn(rows, outputs), torch.randn(rows, inputs)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        weight, bias = layer_gradients(grad, x, precision)
    finally:
        torch.set_num_threads(before)
    _assert_sums_are_precise(weight, _as_multiplied(grad.T, precision), _as_multiplied(x, precision))
    scale = grad.abs().sum(0) * (1e-5 if precision == "fp32" else 2**-8)
    assert ((bias - grad.double().sum(0)).abs() <= scale).all()


def test_infinities_and_nan_stay_in_their_row():
    """What fills a part of a vector up must not meet them."""
    x, weight = torch.randn(5, 7), torch.randn(3, 7)
    x[1, 2], x[2, 6] = torch.inf, torch.nan
    out = torch.empty(5, 3)
    multiply(x.numpy(), forward_operand(weight, "fp32"), out.numpy(), False)
    torch.testing.assert_close(out, x @ weight.T, equal_nan=True)


def _pair(dtype=torch.float32):
    torch.manual_seed(3)
    ours, torchs = Linear(11, 5).to(dtype), nn.Linear(11, 5).to(dtype)
    torchs.load_state_dict(ours.state_dict())
    return ours, torchs


def _results(layer, x, in_bf16=False):
    x = x.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=in_bf16):
        out = layer(x)
    loss = (out.float().sin() * torch.arange(out.numel()).view(out.shape)).sum()
    return [out, *torch.autograd.grad(loss, [x, *layer.parameters()])]


@pytest.mark.parametrize("shape", [(7, 11), (2, 3, 11), (0, 11)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_linear_is_torchs(shape, dtype):
    ours, torchs = _pair(dtype)
    x = torch.randn(shape, dtype=dtype)
    for one, other in zip(_results(ours, x), _results(torchs, x), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-4)


@pytest.mark.skipif(not BF16_IS_FAST, reason="no bfloat16 instructions here")
def test_linear_within_autocast_is_as_precise_as_torchs():
    ours, torchs = _pair()
    x = torch.randn(97, 11)
    exact, found, usual = _results(torchs, x), _results(ours, x, in_bf16=True), _results(torchs, x, in_bf16=True)
    assert found[0].dtype == torch.float32
    for truth, one, other in zip(exact, found, usual, strict=True):
        assert 0 < (one - truth).norm() <= 1.5 * (other - truth).norm()


def test_linears_gradient_can_be_differentiated_again():
    def second_derivatives(layer, x):
        x = x.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(layer(x).pow(3).sum(), x, create_graph=True)
        return torch.autograd.grad(gradient.pow(2).sum(), [x, layer.weight, layer.bias])

    ours, torchs = _pair()
    x = torch.randn(7, 11)
    for one, other in zip(second_derivatives(ours, x), second_derivatives(torchs, x), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-3)


def test_linear_refuses_another_width():
    """Compiled code would read other memory."""
    ours, _ = _pair()
    for width in (10, 12):
        with pytest.raises(ValueError, match=rf"x must be \[\.\.\., in_features\], here .* 11\], got \[7, {width}\]"):
            ours(torch.randn(7, width))


@pytest.mark.parametrize(("bias", "shape"), [(False, (7, 11)), (True, (11,)), (False, (11,))])
def test_linear_is_torchs_where_it_is_not_compiled(bias, shape):
    ours, x = Linear(11, 5, bias=bias), torch.randn(shape).requires_grad_()
    outputs = ours(x)
    torch.testing.assert_close(outputs, nn.functional.linear(x, ours.weight, ours.bias))
    outputs.sum().backward()
    torch.testing.assert_close(x.grad, ours.weight.detach().sum(0).expand(shape))


def test_functions_of_others_without_a_module_are_compiled():
    """Numba tells us of all that it compiles: of what a user's program makes as well."""
    code = (
        "import numba; import rmc_rl.cores.compilation, envs.mini_pacman.compilation;"
        "scope = {}; exec('def double(x): return 2 * x', {'__name__': None}, scope);"
        "print(numba.njit(scope['double'])(21))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "42\n"


def test_tiles_fill_the_vectors_of_this_processor():
    assert tiles.COLUMNS % tiles.LANES == 0
    assert {1, 2, 4, tiles.ROWS} <= tiles.TILES.keys()
    assert np.log2(tiles.LANES) % 1 == 0

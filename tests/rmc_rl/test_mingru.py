"""minGRU: the paper's equations, and a parallel unroll that is the loop, however long and however extreme."""

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from rmc_rl.cores import MinGRU
from rmc_rl.cores.native import BF16_IS_FAST

INPUT, HIDDEN, BATCH = 5, 7, 3


def make(dtype: torch.dtype = torch.float32, scale: float = 1.0) -> MinGRU:
    torch.manual_seed(0)
    core = MinGRU(INPUT, HIDDEN).to(dtype)
    with torch.no_grad():
        core.from_input.weight.mul_(scale)
    return core


def literal(core: MinGRU, x: NDArray[Any], h: NDArray[Any], starts: NDArray[np.bool_]) -> NDArray[Any]:
    """Section 3.1 of the paper, one number after the other."""
    weight, bias = core.from_input.weight.detach().numpy(), core.from_input.bias.detach().numpy()
    outputs = np.zeros((len(x), BATCH, HIDDEN))
    for b in range(BATCH):
        for d in range(HIDDEN):
            memory = h[b, d]
            for t in range(len(x)):
                if starts[t, b]:
                    memory = 0.0
                z = 1 / (1 + np.exp(-(weight[d] @ x[t, b] + bias[d])))
                candidate = weight[HIDDEN + d] @ x[t, b] + bias[HIDDEN + d]
                memory = (1 - z) * memory + z * candidate
                outputs[t, b, d] = memory
    return outputs


@pytest.mark.parametrize("steps", [1, 2, 3, 8, 13])
def test_it_is_the_papers(steps: int) -> None:
    """Step by step and all at once, for lengths that are odd, even, and powers of two."""
    core = make(torch.float64)
    x, h = torch.randn(steps, BATCH, INPUT).double(), torch.randn(BATCH, HIDDEN).double()
    starts = torch.rand(steps, BATCH) < 0.3
    expected = torch.from_numpy(literal(core, x.numpy(), h.numpy(), starts.numpy()))
    assert core.unroll_path(x, (h,)) == "parallel"
    for unroll in (core.unroll, core.unroll_loop):
        outputs, (last,) = unroll(x, (h,), starts)
        torch.testing.assert_close(outputs, expected)
        torch.testing.assert_close(last, expected[-1])


def with_gradients(core: MinGRU, way: str, x: Tensor, h: Tensor, starts: Tensor) -> list[Tensor]:
    """Outputs, and the gradients of x, h and the weights, computed in the core's type."""
    dtype = core.from_input.weight.dtype
    x, h = x.to(dtype).requires_grad_(), h.to(dtype).requires_grad_()
    outputs, _ = getattr(core, way)(x, (h,), starts)
    weights = torch.linspace(-1, 1, outputs.numel(), dtype=dtype).view_as(outputs)
    return [outputs.detach(), *torch.autograd.grad((outputs * weights).sum(), [x, h, *core.parameters()])]


@pytest.mark.parametrize("scale", [0.01, 1.0, 30.0, 1e4])
def test_long_unrolls_are_as_exact_as_the_loop(scale: float) -> None:
    """In float32 over 700 steps: memories that are hardly written, and gates that are open or shut to the last bit.

    With logarithms of products over many steps, nothing would be left of either.
    """
    torch.manual_seed(1)
    starts = torch.rand(700, BATCH) < 0.01
    inputs = torch.randn(700, BATCH, INPUT), torch.randn(BATCH, HIDDEN), starts
    parallel = with_gradients(make(scale=scale), "unroll", *inputs)
    loop = with_gradients(make(scale=scale), "unroll_loop", *inputs)
    exact = with_gradients(make(torch.float64, scale), "unroll_loop", *inputs)
    for one, other, truth in zip(parallel, loop, exact, strict=True):
        size = float(truth.abs().max())
        error, of_the_loop = (float((found - truth).abs().max()) for found in (one, other))
        assert error <= 3 * of_the_loop + 1e-6 * size


def test_gradients_and_their_gradients() -> None:
    """Against differences, resets included."""
    core = make(torch.float64)
    starts = torch.tensor([[False, False, True], [False, True, False], [False, False, True], [True, False, False]])
    x = torch.randn(4, BATCH, INPUT, dtype=torch.float64, requires_grad=True)
    h = torch.randn(BATCH, HIDDEN, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, h: core.unroll(x, (h,), starts)[0], (x, h))
    assert torch.autograd.gradgradcheck(lambda x, h: core.unroll(x, (h,), starts)[0].sin(), (x, h))


def test_within_autocast_products_alone_are_rounded() -> None:
    """Where the processor has instructions for it: elsewhere everything is exact."""
    core = make()
    x, starts = torch.randn(9, BATCH, INPUT), torch.zeros(9, BATCH, dtype=torch.bool)
    with torch.autocast("cpu", torch.bfloat16):
        outputs, (last,) = core.unroll(x, core.initial_state(BATCH), starts)
        expected, _ = core.unroll_loop(x, core.initial_state(BATCH), starts)
    assert outputs.dtype == last.dtype == torch.float32
    torch.testing.assert_close(outputs, expected, rtol=0, atol=1e-5)
    exact, _ = core.unroll(x, core.initial_state(BATCH), starts)
    assert torch.equal(outputs, exact) != BF16_IS_FAST
    torch.testing.assert_close(outputs, exact, rtol=0, atol=0.02)

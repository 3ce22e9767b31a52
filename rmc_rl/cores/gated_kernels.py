"""The unrolls of LSTM and GRU and their gradients, compiled, over rows [b0, b1) of the batch.

Sizes: T steps, B rows, H units. Gates stand side by side, in torch's order: input, forget, candidate, output for the
LSTM; reset, update, candidate for the GRU. Both start from zeros. All arrays are C-contiguous float32.
"""

from typing import Any, NamedTuple

import numpy as np

from .compilation import compiled, compiled_with_memory
from .matmul import multiply
from .outer_products import take
from .primitives import sigmoid, tanh


class Saved(NamedTuple):
    """What the forward functions write and the backward functions read."""

    gates: Any  # [T, B, 4 H] or [T, B, 3 H], after their nonlinearities
    h: Any  # [T, B, H], before each step, after the reset
    inner: Any  # LSTM: c [T, B, H], before each step, after the reset. GRU: the state's part of the candidate
    tanh_c: Any  # [T, B, H], LSTM alone


@compiled
def _copy_or_zero(start: bool, source: Any, target: Any) -> None:
    for d in range(target.shape[0]):
        target[d] = np.float32(0) if start else source[d]


@compiled
def _add(x: Any, out: Any) -> None:
    for d in range(out.shape[0]):
        out[d] += x[d]


@compiled
def lstm_forward(
    b0: int, b1: int, from_input: Any, h: Any, c: Any, starts: Any, weight: Any, saved: Any, outputs: Any, last_c: Any
) -> None:
    """From from_input [T, B, 4 H] (with the biases), h and c [B, H]: outputs [T, B, H] and last_c [B, H]."""
    steps = starts.shape[0]
    for b in range(b0, b1):
        _copy_or_zero(starts[0, b], h[b], saved.h[0, b])
        _copy_or_zero(starts[0, b], c[b], saved.inner[0, b])
    for t in range(steps):
        multiply(saved.h[t, b0:b1], weight, saved.gates[t, b0:b1], False)
        for b in range(b0, b1):
            _add(from_input[t, b], saved.gates[t, b])
            _lstm_step(saved.gates[t, b], saved.inner[t, b], saved.tanh_c[t, b], outputs[t, b], last_c[b])
            if t + 1 < steps:
                _copy_or_zero(starts[t + 1, b], outputs[t, b], saved.h[t + 1, b])
                _copy_or_zero(starts[t + 1, b], last_c[b], saved.inner[t + 1, b])


@compiled
def _lstm_step(gates: Any, c: Any, tanh_c: Any, output: Any, next_c: Any) -> None:
    size = c.shape[0]
    opened, kept, candidate, shown = gates[:size], gates[size : 2 * size], gates[2 * size : 3 * size], gates[3 * size :]
    for d in range(size):
        opened[d], kept[d] = sigmoid(opened[d]), sigmoid(kept[d])
    for d in range(size):
        candidate[d], shown[d] = tanh(candidate[d]), sigmoid(shown[d])
    for d in range(size):
        next_c[d] = kept[d] * c[d] + opened[d] * candidate[d]
        tanh_c[d] = tanh(next_c[d])
        output[d] = shown[d] * tanh_c[d]


@compiled_with_memory
def lstm_backward(
    b0: int,
    b1: int,
    grad_outputs: Any,
    x: Any,
    starts: Any,
    to_state: Any,
    to_input: Any,
    saved: Any,
    grad_h: Any,
    grad_c: Any,
    grad_x: Any,
    products: Any,
) -> None:
    """grad_x [T, B, I]; grad_h, grad_c [B, H]: of the last state, then the first; products: of the gates with [x, h].

    to_state and to_input are the weights [4 H, H] and [4 H, I]. All of a step is done while it is in the cache.
    """
    grad = np.empty((b1 - b0, saved.gates.shape[2]), np.float32)  # of the gates, before the nonlinearities
    for t in range(starts.shape[0] - 1, -1, -1):
        for b in range(b0, b1):
            _add(grad_outputs[t, b], grad_h[b])
            _lstm_step_backward(
                grad_h[b], grad_c[b], saved.gates[t, b], saved.inner[t, b], saved.tanh_c[t, b], grad[b - b0]
            )
        multiply(grad, to_state, grad_h[b0:b1], False)
        multiply(grad, to_input, grad_x[t, b0:b1], False)
        take(products, grad, 0, grad.shape[1], x[t, b0:b1], saved.h[t, b0:b1])
        for b in range(b0, b1):
            if starts[t, b]:
                grad_h[b] = np.float32(0)
                grad_c[b] = np.float32(0)


@compiled
def _lstm_step_backward(grad_h: Any, grad_c: Any, gates: Any, c: Any, tanh_c: Any, grad: Any) -> None:
    """Writes grad [4 H], and turns grad_c into the gradient of c before the step."""
    one, size = np.float32(1), c.shape[0]
    opened, kept, candidate, shown = gates[:size], gates[size : 2 * size], gates[2 * size : 3 * size], gates[3 * size :]
    for_opened, for_kept = grad[:size], grad[size : 2 * size]
    for_candidate, for_shown = grad[2 * size : 3 * size], grad[3 * size :]
    for d in range(size):
        for_shown[d] = grad_h[d] * tanh_c[d] * shown[d] * (one - shown[d])
        grad_c[d] += grad_h[d] * shown[d] * (one - tanh_c[d] * tanh_c[d])
    for d in range(size):
        for_opened[d] = grad_c[d] * candidate[d] * opened[d] * (one - opened[d])
        for_candidate[d] = grad_c[d] * opened[d] * (one - candidate[d] * candidate[d])
    for d in range(size):
        for_kept[d] = grad_c[d] * c[d] * kept[d] * (one - kept[d])
        grad_c[d] *= kept[d]


@compiled
def gru_forward(
    b0: int, b1: int, from_input: Any, h: Any, starts: Any, weight: Any, bias: Any, saved: Any, outputs: Any
) -> None:
    """From from_input [T, B, 3 H] (with its bias), h [B, H], weight [3 H, H] and bias [3 H]: outputs [T, B, H]."""
    steps = starts.shape[0]
    for b in range(b0, b1):
        _copy_or_zero(starts[0, b], h[b], saved.h[0, b])
    for t in range(steps):
        multiply(saved.h[t, b0:b1], weight, saved.gates[t, b0:b1], False)
        for b in range(b0, b1):
            _add(bias, saved.gates[t, b])
            _gru_step(saved.gates[t, b], from_input[t, b], saved.h[t, b], saved.inner[t, b], outputs[t, b])
            if t + 1 < steps:
                _copy_or_zero(starts[t + 1, b], outputs[t, b], saved.h[t + 1, b])


@compiled
def _gru_step(gates: Any, from_input: Any, h: Any, inner: Any, output: Any) -> None:
    size = h.shape[0]
    reset, update, candidate = gates[:size], gates[size : 2 * size], gates[2 * size :]
    to_reset, to_update, to_candidate = from_input[:size], from_input[size : 2 * size], from_input[2 * size :]
    for d in range(size):
        reset[d] = sigmoid(reset[d] + to_reset[d])
        update[d] = sigmoid(update[d] + to_update[d])
    for d in range(size):
        inner[d] = candidate[d]
        candidate[d] = tanh(to_candidate[d] + reset[d] * inner[d])
        output[d] = candidate[d] + update[d] * (h[d] - candidate[d])


@compiled_with_memory
def gru_backward(
    b0: int,
    b1: int,
    grad_outputs: Any,
    x: Any,
    starts: Any,
    to_state: Any,
    to_input: Any,
    saved: Any,
    grad_h: Any,
    grad_x: Any,
    products: Any,
    input_products: Any,
) -> None:
    """As `lstm_backward`; the candidate has one gradient for the state, in products, and one for the input."""
    rows, width, size = b1 - b0, saved.gates.shape[2], saved.h.shape[2]
    grad, grad_input = np.empty((rows, width), np.float32), np.empty((rows, width), np.float32)
    kept, nothing = np.empty((rows, size), np.float32), np.empty((rows, 0), np.float32)
    for t in range(starts.shape[0] - 1, -1, -1):
        for b in range(b0, b1):
            r = b - b0
            _add(grad_outputs[t, b], grad_h[b])
            _gru_step_backward(
                grad_h[b], saved.gates[t, b], saved.h[t, b], saved.inner[t, b], grad[r], grad_input[r], kept[r]
            )
        multiply(grad, to_state, grad_h[b0:b1], False)
        multiply(grad_input, to_input, grad_x[t, b0:b1], False)
        take(products, grad, 0, width, saved.h[t, b0:b1], nothing)
        take(input_products, grad_input, 0, width, x[t, b0:b1], nothing)
        for b in range(b0, b1):
            if starts[t, b]:
                grad_h[b] = np.float32(0)
            else:
                _add(kept[b - b0], grad_h[b])


@compiled
def _gru_step_backward(grad_h: Any, gates: Any, h: Any, inner: Any, grad: Any, grad_input: Any, kept: Any) -> None:
    one, size = np.float32(1), h.shape[0]
    reset, update, candidate = gates[:size], gates[size : 2 * size], gates[2 * size :]
    for d in range(size):
        kept[d] = grad_h[d] * update[d]
        grad_input[size : 2 * size][d] = grad_h[d] * (h[d] - candidate[d]) * update[d] * (one - update[d])
    for_candidate, for_reset = grad_input[2 * size :], grad_input[:size]
    for d in range(size):
        for_candidate[d] = grad_h[d] * (one - update[d]) * (one - candidate[d] * candidate[d])
        for_reset[d] = for_candidate[d] * inner[d] * reset[d] * (one - reset[d])
    for d in range(2 * size):
        grad[d] = grad_input[d]
    through_reset = grad[2 * size :]
    for d in range(size):
        through_reset[d] = for_candidate[d] * reset[d]

"""The Relational Memory Core's unroll and its gradient, compiled.

The arithmetic is that of `relational_memory.py`, for one attention block, over rows [b0, b1) of the batch: different
rows may run in different threads.

Sizes: T steps, B rows, S slots, N = S + 1 rows of memory and input, D = heads * head size, Q = heads * (2 key + head
size), L layers of the MLP, G units of each gate (D or 1; 0 for no gates). All arrays are C-contiguous.
"""

from typing import Any, NamedTuple

import numpy as np

from .compilation import compiled
from .primitives import (
    attend,
    attend_backward,
    layer_norm_backward,
    linear,
    linear_backward,
    linear_of_two,
    linear_of_two_backward,
    scale_and_shift,
    sigmoid,
    standardize,
    tanh,
)

# --- The unroll ------------------------------------------------------------------------------------------------------


class Inputs(NamedTuple):
    """What an unroll reads, but for the weights."""

    memory: Any  # [B, S, D], before step 0
    initial: Any  # [S, D], where episodes start
    starts: Any  # bool [T, B]
    qkv: Any  # [T, B, Q], of the input's row, with the bias
    gates: Any  # [T, B, 2 G], the input's part, with all biases


class Weights(NamedTuple):
    """The parameters that the memory meets at every step."""

    qkv: Any  # [Q, D]
    qkv_bias: Any  # [Q]
    qkv_gamma: Any  # [Q]
    qkv_beta: Any  # [Q]
    attention_gamma: Any  # [D]
    attention_beta: Any  # [D]
    mlp: Any  # L of [D, D]
    mlp_bias: Any  # L of [D]
    mlp_gamma: Any  # [D]
    mlp_beta: Any  # [D]
    gates: Any  # [2 G, D], from the memory


class Saved(NamedTuple):
    """What `forward` writes and `backward` reads. "Standard" is a layer norm's output before gamma and beta."""

    memories: Any  # [T, B, S, D], before each step, after the reset
    tanh_memories: Any  # [T, B, S, D]
    qkv: Any  # [T, B, S, Q], standard
    qkv_input: Any  # [T, B, Q], standard
    qkv_scales: Any  # [T, B, N]
    attention: Any  # [T, B, heads, S, N]
    attended: Any  # [T, B, S, D], standard
    attended_scales: Any  # [T, B, S]
    hidden: Any  # [L, T, B, S, D], inputs of the MLP's layers
    candidates: Any  # [T, B, S, D], standard
    candidate_scales: Any  # [T, B, S]
    gates: Any  # [T, B, S, 2 G], between 0 and 1


class Gradients(NamedTuple):
    """What `backward` writes: the loss's gradient with respect to ..."""

    qkv: Any  # [T, B, S, Q], before the layer norm
    qkv_input: Any  # [T, B, Q], before the layer norm
    gates: Any  # [T, B, S, 2 G], before the sigmoid
    mlp: Any  # [L, T, B, S, D], what the MLP's layers give, before ReLU


class NormGradients(NamedTuple):
    """What `backward` adds to: gradients of the layer norms' parameters."""

    qkv_gamma: Any  # [Q]
    qkv_beta: Any  # [Q]
    attention_gamma: Any  # [D]
    attention_beta: Any  # [D]
    mlp_gamma: Any  # [D]
    mlp_beta: Any  # [D]


@compiled
def forward(b0: int, b1: int, heads: int, key: int, inputs: Any, weights: Any, saved: Any, outputs: Any) -> None:
    """Write `saved` and outputs [T, B, S, D], the memory after each step, of the rows [b0, b1)."""
    steps, _, slots, size = outputs.shape
    normal = np.empty((slots + 1, weights.qkv.shape[0]), np.float32)
    gathered = np.empty((slots, size), np.float32)
    mixed = np.empty(((b1 - b0) * slots, size), np.float32)
    gate_memory = np.empty(((b1 - b0) * slots, weights.gates.shape[0]), np.float32)
    for b in range(b0, b1):
        _begin(0, b, inputs.memory[b], inputs, saved)
    for t in range(steps):
        linear(_rows(saved.memories[t], b0, b1), weights.qkv, _rows(saved.qkv[t], b0, b1))
        for b in range(b0, b1):
            _project(t, b, inputs, weights, saved, normal)
            attend(normal, saved.attention[t, b], gathered, heads, key)
            _add_attended(t, b, gathered, weights, saved)
        _mlp(t, b0, b1, weights, saved, mixed)
        if weights.gates.shape[0] > 2:
            linear(_rows(saved.tanh_memories[t], b0, b1), weights.gates, gate_memory)
        elif weights.gates.shape[0] == 2:
            linear_of_two(_rows(saved.tanh_memories[t], b0, b1), weights.gates, gate_memory)
        for b in range(b0, b1):
            first = (b - b0) * slots
            _open_gates(gate_memory[first : first + slots], inputs.gates[t, b], saved.gates[t, b])
            _update(t, b, mixed[first : first + slots], weights, saved, outputs)
            if t + 1 < steps:
                _begin(t + 1, b, outputs[t, b], inputs, saved)


@compiled
def _rows(array: Any, b0: int, b1: int) -> Any:
    """[B, S, W] -> [(b1 - b0) * S, W], the same memory."""
    return array[b0:b1].reshape((b1 - b0) * array.shape[1], array.shape[2])


@compiled
def _begin(t: int, b: int, memory: Any, inputs: Any, saved: Any) -> None:
    """The memory [S, D] before step t, reset if an episode starts, and its tanh."""
    source = inputs.initial if inputs.starts[t, b] else memory
    target, tanh_target = saved.memories[t, b], saved.tanh_memories[t, b]
    for s in range(source.shape[0]):
        for d in range(source.shape[1]):
            target[s, d] = source[s, d]
        for d in range(source.shape[1]):
            tanh_target[s, d] = tanh(source[s, d])


@compiled
def _project(t: int, b: int, inputs: Any, weights: Any, saved: Any, normal: Any) -> None:
    """Queries, keys and values of all rows [N, Q], normalised, from their projections."""
    slots, width = normal.shape[0] - 1, normal.shape[1]
    rows, row, bias = saved.qkv[t, b], saved.qkv_input[t, b].reshape(1, width), weights.qkv_bias
    for s in range(slots):
        for i in range(width):
            rows[s, i] += bias[i]
    row[0] = inputs.qkv[t, b]
    standardize(rows, saved.qkv_scales[t, b])
    standardize(row, saved.qkv_scales[t, b][slots:])
    scale_and_shift(rows, weights.qkv_gamma, weights.qkv_beta, normal[:slots])
    scale_and_shift(row, weights.qkv_gamma, weights.qkv_beta, normal[slots:])


@compiled
def _add_attended(t: int, b: int, gathered: Any, weights: Any, saved: Any) -> None:
    """The input of the MLP: memory plus what was gathered [S, D], normalised."""
    rows, memory = saved.attended[t, b], saved.memories[t, b]
    for s in range(rows.shape[0]):
        for d in range(rows.shape[1]):
            rows[s, d] = memory[s, d] + gathered[s, d]
    standardize(rows, saved.attended_scales[t, b])
    scale_and_shift(rows, weights.attention_gamma, weights.attention_beta, saved.hidden[0, t, b])


@compiled
def _mlp(t: int, b0: int, b1: int, weights: Any, saved: Any, mixed: Any) -> None:
    """The MLP but for its last bias; mixed [rows, D]."""
    last = len(weights.mlp) - 1
    for layer in range(last):
        target, bias = _rows(saved.hidden[layer + 1, t], b0, b1), weights.mlp_bias[layer]
        linear(_rows(saved.hidden[layer, t], b0, b1), weights.mlp[layer], target)
        for r in range(target.shape[0]):
            for d in range(target.shape[1]):
                target[r, d] = max(target[r, d] + bias[d], np.float32(0))
    linear(_rows(saved.hidden[last, t], b0, b1), weights.mlp[last], mixed)


@compiled
def _open_gates(gate_memory: Any, gate_input: Any, gates: Any) -> None:
    """gates [S, 2 G], between 0 and 1, from the memory's part [S, 2 G] and the input's [2 G]."""
    for s in range(gates.shape[0]):
        for i in range(gates.shape[1]):
            gates[s, i] = gate_memory[s, i] + gate_input[i]
    flat = gates.reshape(gates.shape[0] * gates.shape[1])
    for n in range(flat.shape[0]):
        flat[n] = sigmoid(flat[n])


@compiled
def _update(t: int, b: int, mixed: Any, weights: Any, saved: Any, outputs: Any) -> None:
    """The next memory from the MLP's output [S, D]."""
    rows, residual, bias = saved.candidates[t, b], saved.hidden[0, t, b], weights.mlp_bias[len(weights.mlp) - 1]
    for s in range(rows.shape[0]):
        for d in range(rows.shape[1]):
            rows[s, d] = mixed[s, d] + bias[d] + residual[s, d]
    standardize(rows, saved.candidate_scales[t, b])
    _mix_with_memory(rows, weights.mlp_gamma, weights.mlp_beta, saved.gates[t, b], saved.memories[t, b], outputs[t, b])


@compiled
def _mix_with_memory(standard: Any, gamma: Any, beta: Any, gates: Any, memory: Any, output: Any) -> None:
    """output [S, D] = input gate * tanh(candidate) + forget gate * memory; the candidate itself without gates."""
    slots, size = standard.shape
    for s in range(slots):
        if gates.shape[1] == 0:
            for d in range(size):
                output[s, d] = standard[s, d] * gamma[d] + beta[d]
        elif gates.shape[1] == 2:
            opened, kept = gates[s, 0], gates[s, 1]
            for d in range(size):
                output[s, d] = opened * tanh(standard[s, d] * gamma[d] + beta[d]) + kept * memory[s, d]
        else:
            opened_row, kept_row = gates[s][:size], gates[s][size:]
            for d in range(size):
                candidate = tanh(standard[s, d] * gamma[d] + beta[d])
                output[s, d] = opened_row[d] * candidate + kept_row[d] * memory[s, d]


# --- Its gradient ----------------------------------------------------------------------------------------------------


@compiled
def backward(
    b0: int,
    b1: int,
    heads: int,
    key: int,
    starts: Any,
    weights: Any,
    saved: Any,
    grad_outputs: Any,
    grad_memory: Any,
    grads: Any,
    norm_grads: Any,
) -> None:
    """From grad_outputs [T, B, S, D] write `grads` and grad_memory [B, S, D], and add to `norm_grads`."""
    steps, _, slots, size = grad_outputs.shape
    normal = np.empty((slots + 1, weights.qkv.shape[0]), np.float32)
    grad_normal = np.empty((slots + 1, weights.qkv.shape[0]), np.float32)
    grad_mixed = np.empty(((b1 - b0) * slots, size), np.float32)
    grad_tanh = np.empty(((b1 - b0) * slots, size), np.float32)
    carried = _rows(grad_memory, b0, b1)  # the gradient of the memory after step t, then of that before it
    carried[:] = np.float32(0)
    last = len(weights.mlp) - 1
    for t in range(steps - 1, -1, -1):
        for b in range(b0, b1):
            _update_backward(t, b, grad_outputs, grad_memory, weights, saved, grads, norm_grads)
        _mlp_backward(t, b0, b1, weights, saved, grads)
        grad_mixed[:] = _rows(grads.mlp[last, t], b0, b1)
        linear_backward(_rows(grads.mlp[0, t], b0, b1), weights.mlp[0], grad_mixed, True)
        for b in range(b0, b1):
            grad_row = grad_mixed[(b - b0) * slots : (b - b0 + 1) * slots]
            _add_attended_backward(t, b, grad_row, grad_memory, weights, saved, norm_grads)
            input_row = saved.qkv_input[t, b].reshape(1, normal.shape[1])
            scale_and_shift(saved.qkv[t, b], weights.qkv_gamma, weights.qkv_beta, normal[:slots])
            scale_and_shift(input_row, weights.qkv_gamma, weights.qkv_beta, normal[slots:])
            attend_backward(grad_row, normal, saved.attention[t, b], grad_normal, heads, key)
            _project_backward(t, b, grad_normal, weights, saved, grads, norm_grads)
        linear_backward(_rows(grads.qkv[t], b0, b1), weights.qkv, carried, True)
        if weights.gates.shape[0] > 0:
            grad_gates = _rows(grads.gates[t], b0, b1)
            if weights.gates.shape[0] > 2:
                linear_backward(grad_gates, weights.gates, grad_tanh, False)
            else:
                linear_of_two_backward(grad_gates, weights.gates, grad_tanh)
            tanh = _rows(saved.tanh_memories[t], b0, b1)
            for r in range(carried.shape[0]):
                for d in range(size):
                    carried[r, d] += grad_tanh[r, d] * (np.float32(1) - tanh[r, d] * tanh[r, d])
        for b in range(b0, b1):
            if starts[t, b]:
                grad_memory[b] = np.float32(0)


@compiled
def _update_backward(
    t: int, b: int, grad_outputs: Any, grad_memory: Any, weights: Any, saved: Any, grads: Any, norm_grads: Any
) -> None:
    last = len(weights.mlp) - 1
    carried, received, grad_candidate = grad_memory[b], grad_outputs[t, b], grads.mlp[last, t, b]
    for s in range(carried.shape[0]):
        for d in range(carried.shape[1]):
            carried[s, d] += received[s, d]
    _mix_with_memory_backward(
        carried,
        saved.candidates[t, b],
        weights.mlp_gamma,
        weights.mlp_beta,
        saved.gates[t, b],
        saved.memories[t, b],
        grad_candidate,
        grads.gates[t, b],
    )
    layer_norm_backward(
        grad_candidate,
        saved.candidates[t, b],
        saved.candidate_scales[t, b],
        weights.mlp_gamma,
        norm_grads.mlp_gamma,
        norm_grads.mlp_beta,
    )


@compiled
def _mlp_backward(t: int, b0: int, b1: int, weights: Any, saved: Any, grads: Any) -> None:
    """From the gradient of the last layer's output to those of the others'."""
    for layer in range(len(weights.mlp) - 1, 0, -1):
        target = _rows(grads.mlp[layer - 1, t], b0, b1)
        linear_backward(_rows(grads.mlp[layer, t], b0, b1), weights.mlp[layer], target, False)
        activations = _rows(saved.hidden[layer, t], b0, b1)
        for r in range(target.shape[0]):
            for d in range(target.shape[1]):
                target[r, d] = target[r, d] if activations[r, d] > np.float32(0) else np.float32(0)


@compiled
def _add_attended_backward(
    t: int, b: int, grad: Any, grad_memory: Any, weights: Any, saved: Any, norm_grads: Any
) -> None:
    """grad [S, D] of the MLP's input, in place, to that of what was gathered, which is also the memory's."""
    layer_norm_backward(
        grad,
        saved.attended[t, b],
        saved.attended_scales[t, b],
        weights.attention_gamma,
        norm_grads.attention_gamma,
        norm_grads.attention_beta,
    )
    carried = grad_memory[b]
    for s in range(grad.shape[0]):
        for d in range(grad.shape[1]):
            carried[s, d] += grad[s, d]


@compiled
def _project_backward(t: int, b: int, grad_normal: Any, weights: Any, saved: Any, grads: Any, norm_grads: Any) -> None:
    """From the gradient of all rows' queries, keys and values [N, Q], in place, to those of their projections."""
    slots, width = grad_normal.shape[0] - 1, grad_normal.shape[1]
    gamma, grad_gamma, grad_beta = weights.qkv_gamma, norm_grads.qkv_gamma, norm_grads.qkv_beta
    scales, input_row = saved.qkv_scales[t, b], saved.qkv_input[t, b].reshape(1, width)
    layer_norm_backward(grad_normal[:slots], saved.qkv[t, b], scales, gamma, grad_gamma, grad_beta)
    layer_norm_backward(grad_normal[slots:], input_row, scales[slots:], gamma, grad_gamma, grad_beta)
    grads.qkv[t, b] = grad_normal[:slots]
    grads.qkv_input[t, b] = grad_normal[slots]


@compiled
def _mix_with_memory_backward(
    grad: Any, standard: Any, gamma: Any, beta: Any, gates: Any, memory: Any, grad_candidate: Any, grad_gates: Any
) -> None:
    """grad [S, D] of the output, in place, to that of the memory; writes those of the candidate and of the gates."""
    one, slots, size = np.float32(1), standard.shape[0], standard.shape[1]
    for s in range(slots):
        if gates.shape[1] == 0:
            for d in range(size):
                grad_candidate[s, d] = grad[s, d]
                grad[s, d] = np.float32(0)
        elif gates.shape[1] == 2:
            opened, kept = gates[s, 0], gates[s, 1]
            grad_opened, grad_kept = np.float32(0), np.float32(0)
            for d in range(size):
                g = grad[s, d]
                candidate = tanh(standard[s, d] * gamma[d] + beta[d])
                grad_opened += g * candidate
                grad_kept += g * memory[s, d]
                grad_candidate[s, d] = g * opened * (one - candidate * candidate)
                grad[s, d] = g * kept
            grad_gates[s, 0] = grad_opened * opened * (one - opened)
            grad_gates[s, 1] = grad_kept * kept * (one - kept)
        else:
            opened_row, kept_row = gates[s][:size], gates[s][size:]
            grad_opened_row, grad_kept_row = grad_gates[s][:size], grad_gates[s][size:]
            for d in range(size):
                g = grad[s, d]
                candidate = tanh(standard[s, d] * gamma[d] + beta[d])
                grad_opened_row[d] = g * candidate * opened_row[d] * (one - opened_row[d])
                grad_kept_row[d] = g * memory[s, d] * kept_row[d] * (one - kept_row[d])
                grad_candidate[s, d] = g * opened_row[d] * (one - candidate * candidate)
                grad[s, d] = g * kept_row[d]

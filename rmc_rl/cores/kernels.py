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
            _update(
                t, b, mixed[first : first + slots], gate_memory[first : first + slots], inputs, weights, saved, outputs
            )
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
    slots = normal.shape[0] - 1
    for s in range(slots):
        row = saved.qkv[t, b, s]
        for i in range(row.shape[0]):
            row[i] += weights.qkv_bias[i]
        saved.qkv_scales[t, b, s] = standardize(row)
        scale_and_shift(row, weights.qkv_gamma, weights.qkv_beta, normal[s])
    row = saved.qkv_input[t, b]
    for i in range(row.shape[0]):
        row[i] = inputs.qkv[t, b, i]
    saved.qkv_scales[t, b, slots] = standardize(row)
    scale_and_shift(row, weights.qkv_gamma, weights.qkv_beta, normal[slots])


@compiled
def _add_attended(t: int, b: int, gathered: Any, weights: Any, saved: Any) -> None:
    """The input of the MLP: memory plus what was gathered [S, D], normalised."""
    for s in range(gathered.shape[0]):
        row = saved.attended[t, b, s]
        for d in range(row.shape[0]):
            row[d] = saved.memories[t, b, s, d] + gathered[s, d]
        saved.attended_scales[t, b, s] = standardize(row)
        scale_and_shift(row, weights.attention_gamma, weights.attention_beta, saved.hidden[0, t, b, s])


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
def _update(t: int, b: int, mixed: Any, gate_memory: Any, inputs: Any, weights: Any, saved: Any, outputs: Any) -> None:
    """The next memory from the MLP's output [S, D] and the memory's part of the gates [S, 2 G]."""
    bias = weights.mlp_bias[len(weights.mlp) - 1]
    for s in range(mixed.shape[0]):
        row, gate = saved.candidates[t, b, s], saved.gates[t, b, s]
        for d in range(row.shape[0]):
            row[d] = mixed[s, d] + bias[d] + saved.hidden[0, t, b, s, d]
        saved.candidate_scales[t, b, s] = standardize(row)
        for i in range(gate.shape[0]):
            gate[i] = sigmoid(gate_memory[s, i] + inputs.gates[t, b, i])
        _gated(row, weights.mlp_gamma, weights.mlp_beta, gate, saved.memories[t, b, s], outputs[t, b, s])


@compiled
def _gated(standard: Any, gamma: Any, beta: Any, gate: Any, memory: Any, output: Any) -> None:
    """output [D] = input gate * tanh(candidate) + forget gate * memory; the candidate itself without gates."""
    size = standard.shape[0]
    if gate.shape[0] == 0:
        for d in range(size):
            output[d] = standard[d] * gamma[d] + beta[d]
    elif gate.shape[0] == 2:
        for d in range(size):
            output[d] = gate[0] * tanh(standard[d] * gamma[d] + beta[d]) + gate[1] * memory[d]
    else:
        for d in range(size):
            output[d] = gate[d] * tanh(standard[d] * gamma[d] + beta[d]) + gate[size + d] * memory[d]


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
            for s in range(slots):
                scale_and_shift(saved.qkv[t, b, s], weights.qkv_gamma, weights.qkv_beta, normal[s])
            scale_and_shift(saved.qkv_input[t, b], weights.qkv_gamma, weights.qkv_beta, normal[slots])
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
    for s in range(grad_memory.shape[1]):
        carried, grad_candidate, standard = grad_memory[b, s], grads.mlp[last, t, b, s], saved.candidates[t, b, s]
        for d in range(carried.shape[0]):
            carried[d] += grad_outputs[t, b, s, d]
        _gated_backward(
            carried,
            standard,
            weights.mlp_gamma,
            weights.mlp_beta,
            saved.gates[t, b, s],
            saved.memories[t, b, s],
            grad_candidate,
            grads.gates[t, b, s],
        )
        scale = saved.candidate_scales[t, b, s]
        layer_norm_backward(
            grad_candidate, standard, scale, weights.mlp_gamma, norm_grads.mlp_gamma, norm_grads.mlp_beta
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
    for s in range(grad.shape[0]):
        layer_norm_backward(
            grad[s],
            saved.attended[t, b, s],
            saved.attended_scales[t, b, s],
            weights.attention_gamma,
            norm_grads.attention_gamma,
            norm_grads.attention_beta,
        )
        for d in range(grad.shape[1]):
            grad_memory[b, s, d] += grad[s, d]


@compiled
def _project_backward(t: int, b: int, grad_normal: Any, weights: Any, saved: Any, grads: Any, norm_grads: Any) -> None:
    slots = grad_normal.shape[0] - 1
    for s in range(slots + 1):
        grad = grad_normal[s]
        standard = saved.qkv[t, b, s] if s < slots else saved.qkv_input[t, b]
        scale = saved.qkv_scales[t, b, s]
        layer_norm_backward(grad, standard, scale, weights.qkv_gamma, norm_grads.qkv_gamma, norm_grads.qkv_beta)
        target = grads.qkv[t, b, s] if s < slots else grads.qkv_input[t, b]
        for i in range(grad.shape[0]):
            target[i] = grad[i]


@compiled
def _gated_backward(
    grad: Any, standard: Any, gamma: Any, beta: Any, gate: Any, memory: Any, grad_candidate: Any, grad_gate: Any
) -> None:
    """grad [D] of the output, in place, to that of the memory; writes those of the candidate and of the gates."""
    one, size = np.float32(1), standard.shape[0]
    if gate.shape[0] == 0:
        for d in range(size):
            grad_candidate[d] = grad[d]
            grad[d] = np.float32(0)
    elif gate.shape[0] == 2:
        opened, kept = gate[0], gate[1]
        grad_opened, grad_kept = np.float32(0), np.float32(0)
        for d in range(size):
            g = grad[d]
            candidate = tanh(standard[d] * gamma[d] + beta[d])
            grad_opened += g * candidate
            grad_kept += g * memory[d]
            grad_candidate[d] = g * opened * (one - candidate * candidate)
            grad[d] = g * kept
        grad_gate[0] = grad_opened * opened * (one - opened)
        grad_gate[1] = grad_kept * kept * (one - kept)
    else:
        for d in range(size):
            g, opened, kept = grad[d], gate[d], gate[size + d]
            candidate = tanh(standard[d] * gamma[d] + beta[d])
            grad_gate[d] = g * candidate * opened * (one - opened)
            grad_gate[size + d] = g * memory[d] * kept * (one - kept)
            grad_candidate[d] = g * opened * (one - candidate * candidate)
            grad[d] = g * kept

"""The gradient of the Relational Memory Core's unroll, compiled: back through time once, over rows [b0, b1)."""

from typing import Any, NamedTuple

import numpy as np

from .compilation import compiled, compiled_with_memory
from .matmul import multiply
from .primitives import attend_backward, layer_norm_backward, scale_and_shift, tanh
from .rmc_arrays import rows_of, scratch_for
from .storage import borrow, keep, store, value


class Scratch(NamedTuple):
    """Memory for a step."""

    normal: Any  # [N, Q], normalised queries, keys and values
    grad_normal: Any  # [N, Q]
    grad_weights: Any  # [N], of one slot's attention
    grad_mixed: Any  # [rows, D], of the MLP's input
    grad_tanh: Any  # [rows, D]
    rows: Any  # [rows, D]; empty where `borrow` gives the place where it is to be stored


@compiled_with_memory
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
    scratch = Scratch(
        normal=np.empty((slots + 1, saved.qkv.shape[3]), np.float32),
        grad_normal=np.empty((slots + 1, saved.qkv.shape[3]), np.float32),
        grad_weights=np.empty(slots + 1, np.float32),
        grad_mixed=np.empty(((b1 - b0) * slots, size), np.float32),
        grad_tanh=np.empty(((b1 - b0) * slots, size), np.float32),
        rows=scratch_for(grads.mlp[0], b0, b1),
    )
    carried = rows_of(grad_memory, b0, b1)  # the gradient of the memory after step t, then of that before it
    carried[:] = np.float32(0)
    for t in range(steps - 1, -1, -1):
        _step_backward(t, b0, b1, heads, key, starts, weights, saved, grad_outputs, carried, grads, norm_grads, scratch)


@compiled
def _step_backward(
    t: int,
    b0: int,
    b1: int,
    heads: int,
    key: int,
    starts: Any,
    weights: Any,
    saved: Any,
    grad_outputs: Any,
    carried: Any,
    grads: Any,
    norm_grads: Any,
    scratch: Any,
) -> None:
    slots, last = grad_outputs.shape[2], len(weights.mlp) - 1
    grad_candidates = borrow(rows_of(grads.mlp[last, t], b0, b1), scratch.rows)
    for b in range(b0, b1):
        part = slice((b - b0) * slots, (b - b0 + 1) * slots)
        _update_backward(t, b, grad_outputs[t, b], weights, saved, carried[part], grad_candidates[part], grads)
        layer_norm_backward(
            grad_candidates[part],
            saved.candidates[t, b],
            saved.candidate_scales[t, b],
            weights.mlp_gamma,
            norm_grads.mlp_gamma,
            norm_grads.mlp_beta,
        )
    keep(grad_candidates, rows_of(grads.mlp[last, t], b0, b1))
    store(grad_candidates, scratch.grad_mixed)
    _mlp_backward(t, b0, b1, weights, saved, grads, scratch.rows)
    multiply(rows_of(grads.mlp[0, t], b0, b1), weights.mlp[0], scratch.grad_mixed, True)

    for b in range(b0, b1):
        part = slice((b - b0) * slots, (b - b0 + 1) * slots)
        _add_attended_backward(t, b, scratch.grad_mixed[part], carried[part], weights, saved, norm_grads)
        _attend_backward(t, b, scratch.grad_mixed[part], weights, saved, scratch, heads, key)
        _project_backward(t, b, scratch.grad_normal, weights, saved, grads, norm_grads)
    multiply(rows_of(grads.qkv[t], b0, b1), weights.qkv, carried, True)

    if grads.gates.shape[3] > 0:
        multiply(rows_of(grads.gates[t], b0, b1), weights.gates, scratch.grad_tanh, False)
        _add_through_tanh(scratch.grad_tanh, rows_of(saved.tanh_memories[t], b0, b1), carried)
    for b in range(b0, b1):
        if starts[t, b]:
            carried[(b - b0) * slots : (b - b0 + 1) * slots] = np.float32(0)


@compiled
def _attend_backward(t: int, b: int, grad: Any, weights: Any, saved: Any, scratch: Any, heads: int, key: int) -> None:
    """From the gradient of what was gathered [S, D], that of all rows' queries, keys and values, `grad_normal`."""
    slots, width = saved.qkv.shape[2], saved.qkv.shape[3]
    input_row = saved.qkv_input[t, b].reshape(1, width)
    scale_and_shift(saved.qkv[t, b], weights.qkv_gamma, weights.qkv_beta, scratch.normal[:slots])
    scale_and_shift(input_row, weights.qkv_gamma, weights.qkv_beta, scratch.normal[slots:])
    attend_backward(grad, scratch.normal, saved.attention[t, b], scratch.grad_normal, scratch.grad_weights, heads, key)


@compiled
def _update_backward(
    t: int, b: int, received: Any, weights: Any, saved: Any, carried: Any, grad_candidate: Any, grads: Any
) -> None:
    """Add the outputs' gradient to the carried one [S, D], and pass it to candidate, gates and memory."""
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


@compiled
def _mlp_backward(t: int, b0: int, b1: int, weights: Any, saved: Any, grads: Any, scratch: Any) -> None:
    """From the gradient of the last layer's output to those of the others'."""
    for layer in range(len(weights.mlp) - 1, 0, -1):
        target = borrow(rows_of(grads.mlp[layer - 1, t], b0, b1), scratch)
        multiply(rows_of(grads.mlp[layer, t], b0, b1), weights.mlp[layer], target, False)
        activations = rows_of(saved.hidden[layer][t], b0, b1)
        for r in range(target.shape[0]):
            for d in range(target.shape[1]):
                target[r, d] = target[r, d] if value(activations[r, d]) > np.float32(0) else np.float32(0)
        keep(target, rows_of(grads.mlp[layer - 1, t], b0, b1))


@compiled
def _add_attended_backward(t: int, b: int, grad: Any, carried: Any, weights: Any, saved: Any, norm_grads: Any) -> None:
    """grad [S, D] of the MLP's input, in place, to that of what was gathered, which is also the memory's."""
    layer_norm_backward(
        grad,
        saved.attended[t, b],
        saved.attended_scales[t, b],
        weights.attention_gamma,
        norm_grads.attention_gamma,
        norm_grads.attention_beta,
    )
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
    store(grad_normal[:slots], grads.qkv[t, b])
    store(grad_normal[slots:], grads.qkv_input[t, b].reshape(1, width))


@compiled
def _add_through_tanh(grad_tanh: Any, tanh_memory: Any, carried: Any) -> None:
    for r in range(carried.shape[0]):
        for d in range(carried.shape[1]):
            carried[r, d] += grad_tanh[r, d] * (np.float32(1) - value(tanh_memory[r, d]) * value(tanh_memory[r, d]))


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
                candidate = tanh(value(standard[s, d]) * gamma[d] + beta[d])
                grad_opened += g * candidate
                grad_kept += g * value(memory[s, d])
                grad_candidate[s, d] = g * opened * (one - candidate * candidate)
                grad[s, d] = g * kept
            grad_gates[s, 0] = grad_opened * opened * (one - opened)
            grad_gates[s, 1] = grad_kept * kept * (one - kept)
        else:
            opened_row, kept_row = gates[s][:size], gates[s][size:]
            grad_opened_row, grad_kept_row = grad_gates[s][:size], grad_gates[s][size:]
            for d in range(size):
                g = grad[s, d]
                candidate = tanh(value(standard[s, d]) * gamma[d] + beta[d])
                grad_opened_row[d] = g * candidate * opened_row[d] * (one - opened_row[d])
                grad_kept_row[d] = g * value(memory[s, d]) * kept_row[d] * (one - kept_row[d])
                grad_candidate[s, d] = g * opened_row[d] * (one - candidate * candidate)
                grad[s, d] = g * kept_row[d]

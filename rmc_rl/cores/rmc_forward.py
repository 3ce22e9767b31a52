"""The Relational Memory Core's unroll, compiled.

The arithmetic is that of `relational_memory.py`, for one attention block, over rows [b0, b1) of the batch: different
rows may run in different threads. `rmc_arrays` explains the letters.
"""

from typing import Any, NamedTuple

import numpy as np

from .compilation import compiled, compiled_with_memory
from .matmul import multiply
from .primitives import attend, scale_and_shift, sigmoid, standardize, tanh
from .rmc_arrays import rows_of, scratch_for
from .storage import borrow, keep


class Scratch(NamedTuple):
    """Memory for a step. Those marked * are empty where `borrow` gives the place where it is to be stored."""

    memory: Any  # * [rows, D]
    tanh_memory: Any  # * [rows, D]
    qkv: Any  # * [rows, Q]
    residual: Any  # * [rows, D]
    mixed: Any  # [rows, D], what the MLP gives
    gates: Any  # [rows, 2 G], the memory's part
    input_row: Any  # [1, Q]
    slots: Any  # [S, D]
    normal: Any  # [N, Q], normalised queries, keys and values
    gathered: Any  # [S, D]


@compiled_with_memory
def forward(b0: int, b1: int, heads: int, key: int, inputs: Any, weights: Any, saved: Any, outputs: Any) -> None:
    """Write `saved` and outputs [T, B, S, D], the memory after each step, of the rows [b0, b1)."""
    slots, size, width = outputs.shape[2], outputs.shape[3], saved.qkv.shape[3]
    scratch = Scratch(
        memory=scratch_for(saved.memories, b0, b1),
        tanh_memory=scratch_for(saved.tanh_memories, b0, b1),
        qkv=scratch_for(saved.qkv, b0, b1),
        residual=scratch_for(saved.hidden[0], b0, b1),
        mixed=np.empty(((b1 - b0) * slots, size), np.float32),
        gates=np.empty(((b1 - b0) * slots, saved.gates.shape[3]), np.float32),
        input_row=np.empty((1, width), np.float32),
        slots=np.empty((slots, size), np.float32),
        normal=np.empty((slots + 1, width), np.float32),
        gathered=np.empty((slots, size), np.float32),
    )
    for t in range(outputs.shape[0]):
        _step(t, b0, b1, heads, key, inputs, weights, saved, scratch, outputs)


@compiled
def _step(
    t: int,
    b0: int,
    b1: int,
    heads: int,
    key: int,
    inputs: Any,
    weights: Any,
    saved: Any,
    scratch: Any,
    outputs: Any,
) -> None:
    slots = outputs.shape[2]
    memory = borrow(rows_of(saved.memories[t], b0, b1), scratch.memory)  # [(b1 - b0) * S, D]
    tanh_memory = borrow(rows_of(saved.tanh_memories[t], b0, b1), scratch.tanh_memory)
    for b in range(b0, b1):
        part = slice((b - b0) * slots, (b - b0 + 1) * slots)
        _begin(t, b, inputs, outputs, memory[part], tanh_memory[part])
    keep(memory, rows_of(saved.memories[t], b0, b1))
    keep(tanh_memory, rows_of(saved.tanh_memories[t], b0, b1))

    projected = borrow(rows_of(saved.qkv[t], b0, b1), scratch.qkv)
    residual = borrow(rows_of(saved.hidden[0][t], b0, b1), scratch.residual)
    multiply(rows_of(saved.memories[t], b0, b1), weights.qkv, projected, False)
    for b in range(b0, b1):
        part = slice((b - b0) * slots, (b - b0 + 1) * slots)
        _project(t, b, inputs, weights, saved, projected[part], scratch.input_row, scratch.normal)
        attend(scratch.normal, saved.attention[t, b], scratch.gathered, heads, key)
        _add_attended(t, b, scratch.gathered, memory[part], weights, saved, scratch.slots, residual[part])
    keep(residual, rows_of(saved.hidden[0][t], b0, b1))
    _mlp(t, b0, b1, weights, saved, scratch.mixed)

    multiply(tanh_memory, weights.gates, scratch.gates, False)
    for b in range(b0, b1):
        part = slice((b - b0) * slots, (b - b0 + 1) * slots)
        _open_gates(scratch.gates[part], inputs.gates[t, b], saved.gates[t, b])
        _update(t, b, scratch.mixed[part], residual[part], memory[part], weights, saved, scratch.slots, outputs[t, b])


@compiled
def _begin(t: int, b: int, inputs: Any, outputs: Any, memory: Any, tanh_memory: Any) -> None:
    """The memory [S, D] before step t, reset if an episode starts, and its tanh."""
    if inputs.starts[t, b]:
        source = inputs.initial
    elif t == 0:
        source = inputs.memory[b]
    else:
        source = outputs[t - 1, b]
    for s in range(source.shape[0]):
        for d in range(source.shape[1]):
            memory[s, d] = source[s, d]
        for d in range(source.shape[1]):
            tanh_memory[s, d] = tanh(source[s, d])


@compiled
def _project(
    t: int, b: int, inputs: Any, weights: Any, saved: Any, projected: Any, scratch_row: Any, normal: Any
) -> None:
    """Queries, keys and values of all rows [N, Q], normalised, from the memory's projection [S, Q] without bias."""
    slots, width = projected.shape
    bias, scales = weights.qkv_bias, saved.qkv_scales[t, b]
    input_target = saved.qkv_input[t, b].reshape(1, width)
    input_row = borrow(input_target, scratch_row)
    for s in range(slots):
        for i in range(width):
            projected[s, i] += bias[i]
    for i in range(width):
        input_row[0, i] = inputs.qkv[t, b, i]
    standardize(projected, scales)
    standardize(input_row, scales[slots:])
    scale_and_shift(projected, weights.qkv_gamma, weights.qkv_beta, normal[:slots])
    scale_and_shift(input_row, weights.qkv_gamma, weights.qkv_beta, normal[slots:])
    keep(projected, saved.qkv[t, b])
    keep(input_row, input_target)


@compiled
def _add_attended(
    t: int, b: int, gathered: Any, memory: Any, weights: Any, saved: Any, scratch: Any, residual: Any
) -> None:
    """The input of the MLP [S, D]: memory plus what was gathered, normalised."""
    rows = borrow(saved.attended[t, b], scratch)
    for s in range(rows.shape[0]):
        for d in range(rows.shape[1]):
            rows[s, d] = memory[s, d] + gathered[s, d]
    standardize(rows, saved.attended_scales[t, b])
    scale_and_shift(rows, weights.attention_gamma, weights.attention_beta, residual)
    keep(rows, saved.attended[t, b])


@compiled
def _mlp(t: int, b0: int, b1: int, weights: Any, saved: Any, mixed: Any) -> None:
    """The MLP but for its last bias; mixed [rows, D]."""
    last = len(weights.mlp) - 1
    for layer in range(last):
        target, bias = borrow(rows_of(saved.hidden[layer + 1][t], b0, b1), mixed), weights.mlp_bias[layer]
        multiply(rows_of(saved.hidden[layer][t], b0, b1), weights.mlp[layer], target, False)
        for r in range(target.shape[0]):
            for d in range(target.shape[1]):
                target[r, d] = max(target[r, d] + bias[d], np.float32(0))
        keep(target, rows_of(saved.hidden[layer + 1][t], b0, b1))
    multiply(rows_of(saved.hidden[last][t], b0, b1), weights.mlp[last], mixed, False)


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
def _update(
    t: int, b: int, mixed: Any, residual: Any, memory: Any, weights: Any, saved: Any, scratch: Any, output: Any
) -> None:
    """The next memory, output [S, D], from what the MLP gave, its input and the present memory, each [S, D]."""
    rows, bias = borrow(saved.candidates[t, b], scratch), weights.mlp_bias[len(weights.mlp) - 1]
    for s in range(rows.shape[0]):
        for d in range(rows.shape[1]):
            rows[s, d] = mixed[s, d] + bias[d] + residual[s, d]
    standardize(rows, saved.candidate_scales[t, b])
    _mix_with_memory(rows, weights.mlp_gamma, weights.mlp_beta, saved.gates[t, b], memory, output)
    keep(rows, saved.candidates[t, b])


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

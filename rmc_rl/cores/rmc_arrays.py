"""The arrays that the Relational Memory Core's compiled unroll and its gradient work on.

Sizes: T steps, B rows, S slots, N = S + 1 rows of memory and input, D = heads * head size, Q = heads * (2 key + head
size), L layers of the MLP, G units of each gate (D or 1; 0 for no gates). All arrays are C-contiguous.
"""

from typing import Any, NamedTuple

import numpy as np

from .compilation import compiled_in_place, compiled_with_memory


class Inputs(NamedTuple):
    """What an unroll reads, but for the weights."""

    memory: Any  # [B, S, D], before step 0
    initial: Any  # [S, D], where episodes start
    starts: Any  # bool [T, B]
    qkv: Any  # [T, B, Q], of the input's row, with the bias
    gates: Any  # [T, B, 2 G], the input's part, with all biases


class Weights(NamedTuple):
    """The parameters that the memory meets at every step; operands (`matmul`) of the forward or the backward pass."""

    qkv: Any  # operand
    qkv_bias: Any  # [Q]
    qkv_gamma: Any  # [Q]
    qkv_beta: Any  # [Q]
    attention_gamma: Any  # [D]
    attention_beta: Any  # [D]
    mlp: Any  # L operands
    mlp_bias: Any  # L of [D]
    mlp_gamma: Any  # [D]
    mlp_beta: Any  # [D]
    gates: Any  # operand, from the memory


class Saved(NamedTuple):
    """What `forward` writes and `backward` reads. "Standard" is a layer norm's output before gamma and beta.

    Those marked * are stored in the unroll's precision (`storage`), the others in float32.
    """

    memories: Any  # * [T, B, S, D], before each step, after the reset
    tanh_memories: Any  # * [T, B, S, D]
    qkv: Any  # * [T, B, S, Q], standard
    qkv_input: Any  # * [T, B, Q], standard
    qkv_scales: Any  # [T, B, N]
    attention: Any  # [T, B, heads, S, N]
    attended: Any  # * [T, B, S, D], standard
    attended_scales: Any  # [T, B, S]
    hidden: Any  # * L of [T, B, S, D], inputs of the MLP's layers
    candidates: Any  # * [T, B, S, D], standard
    candidate_scales: Any  # [T, B, S]
    gates: Any  # [T, B, S, 2 G], between 0 and 1


class Gradients(NamedTuple):
    """What `backward` writes: the loss's gradient with respect to ... (* as in `Saved`)"""

    qkv: Any  # * [T, B, S, Q], before the layer norm
    qkv_input: Any  # * [T, B, Q], before the layer norm
    gates: Any  # [T, B, S, 2 G], before the sigmoid
    mlp: Any  # * [L, T, B, S, D], what the MLP's layers give, before ReLU


class NormGradients(NamedTuple):
    """What `backward` adds to: gradients of the layer norms' parameters."""

    qkv_gamma: Any  # [Q]
    qkv_beta: Any  # [Q]
    attention_gamma: Any  # [D]
    attention_beta: Any  # [D]
    mlp_gamma: Any  # [D]
    mlp_beta: Any  # [D]


@compiled_in_place
def rows_of(array: Any, b0: int, b1: int) -> Any:
    """[B, S, W] -> [(b1 - b0) * S, W], the same memory."""
    return array[b0:b1].reshape((b1 - b0) * array.shape[1], array.shape[2])


@compiled_with_memory
def scratch_for(array: Any, b0: int, b1: int) -> Any:
    """Where `borrow` may send what is to be stored in `rows_of` an array [T, B, S, W]; empty if it will not."""
    count = 0 if array.itemsize == 4 else (b1 - b0) * array.shape[2]
    return np.empty((count, array.shape[3]), np.float32)

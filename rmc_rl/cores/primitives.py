"""What the compiled unrolls are made of beside matrix products: elementwise functions, layer norm and attention.

In float32 on the CPU, without calls that would keep a loop from being vectorised. All arrays are C-contiguous.
"""

import math
from typing import Any

import numpy as np

from .compilation import compiled, compiled_as_written
from .storage import as_float, value

EPSILON = np.float32(1e-5)  # of the layer norms

# --- Elementwise functions, to single precision and without a call, so that loops over them are vectorised -----------


@compiled_as_written
def exp(x: Any) -> Any:
    """e^x by 2^n times a polynomial (Cephes' coefficients), for x cut to [-87, 88]."""
    cut = min(max(x, np.float32(-87)), np.float32(88))
    n = np.float32(math.floor(cut * np.float32(1.44269504) + np.float32(0.5)))
    r = cut - n * np.float32(0.693359375) + n * np.float32(2.12194440e-4)
    p = np.float32(1.9875691500e-4)
    p = p * r + np.float32(1.3981999507e-3)
    p = p * r + np.float32(8.3334519073e-3)
    p = p * r + np.float32(4.1665795894e-2)
    p = p * r + np.float32(1.6666665459e-1)
    p = p * r + np.float32(5.0000001201e-1)
    result = (p * r * r + r + np.float32(1)) * as_float((np.int32(n) + np.int32(127)) << np.int32(23))
    return result if x == x else x  # NaN stays NaN


@compiled_as_written
def tanh(x: Any) -> Any:
    """A quotient of polynomials (coefficients as in the Eigen library), for x cut to where tanh is 1 in float32."""
    cut = min(max(x, np.float32(-7.90531110763549805)), np.float32(7.90531110763549805))
    z = cut * cut
    p = np.float32(-2.76076847742355e-16)
    p = p * z + np.float32(2.00018790482477e-13)
    p = p * z + np.float32(-8.60467152213735e-11)
    p = p * z + np.float32(5.12229709037114e-08)
    p = p * z + np.float32(1.48572235717979e-05)
    p = p * z + np.float32(6.37261928875436e-04)
    p = p * z + np.float32(4.89352455891786e-03)
    q = np.float32(1.19825839466702e-06)
    q = q * z + np.float32(1.18534705686654e-04)
    q = q * z + np.float32(2.26843463243900e-03)
    q = q * z + np.float32(4.89352518554385e-03)
    result = cut * p / q
    return result if x == x else x  # NaN stays NaN


@compiled_as_written
def sigmoid(x: Any) -> Any:
    return np.float32(1) / (np.float32(1) + exp(-x))


# --- Layer norm ------------------------------------------------------------------------------------------------------


@compiled
def standardize(x: Any, scales: Any) -> None:
    """Rows of x [R, W] in place to mean 0 and deviation 1; scales [R] are 1 / deviation."""
    width = np.float32(x.shape[1])
    for r in range(x.shape[0]):
        total = np.float32(0)
        for i in range(x.shape[1]):
            total += x[r, i]
        mean = total / width
        squares = np.float32(0)
        for i in range(x.shape[1]):
            x[r, i] -= mean
            squares += x[r, i] * x[r, i]
        scale = np.float32(1) / np.sqrt(squares / width + EPSILON)
        for i in range(x.shape[1]):
            x[r, i] *= scale
        scales[r] = scale


@compiled
def scale_and_shift(standard: Any, gamma: Any, beta: Any, out: Any) -> None:
    """The rest of a layer norm: out [R, W] = standard [R, W] (stored) * gamma [W] + beta [W]."""
    for r in range(standard.shape[0]):
        for i in range(standard.shape[1]):
            out[r, i] = value(standard[r, i]) * gamma[i] + beta[i]


@compiled
def layer_norm_backward(grad: Any, standard: Any, scales: Any, gamma: Any, grad_gamma: Any, grad_beta: Any) -> None:
    """grad [R, W] of the norm's output, in place, to that of its input; adds the gradients of gamma and beta [W]."""
    width = np.float32(grad.shape[1])
    for r in range(grad.shape[0]):
        mean_grad, mean_product = np.float32(0), np.float32(0)
        for i in range(grad.shape[1]):
            g = grad[r, i]
            grad_gamma[i] += g * value(standard[r, i])
            grad_beta[i] += g
            g *= gamma[i]
            grad[r, i] = g
            mean_grad += g
            mean_product += g * value(standard[r, i])
        mean_grad /= width
        mean_product /= width
        for i in range(grad.shape[1]):
            grad[r, i] = scales[r] * (grad[r, i] - mean_grad - value(standard[r, i]) * mean_product)


# --- Attention of the slots over slots and input ---------------------------------------------------------------------

# On flat arrays, with unsigned places: views of single rows would cost more than what is computed of them, and with
# signed ones the compiler could not know that they count from the front.


@compiled
def attend(qkv: Any, weights: Any, out: Any, heads: int, key: int) -> None:
    """qkv [N, Q], normalised -> weights [heads, S, N] and out [S, D], what each slot gathers."""
    rows, slots, total = np.uintp(qkv.shape[0]), np.uintp(weights.shape[1]), np.uintp(qkv.shape[1])
    width, key_size = total // np.uintp(heads), np.uintp(key)
    size = width - key_size - key_size
    x, scores, gathered = qkv.reshape(qkv.size), weights.reshape(weights.size), out.reshape(out.size)
    scale = np.float32(1) / np.sqrt(np.float32(key))
    for h in range(np.uintp(heads)):
        q, k = h * width, h * width + key_size
        for i in range(slots):
            place, largest = (h * slots + i) * rows, np.float32(-np.inf)
            for j in range(rows):
                score = scale * _dot(x, i * total + q, x, j * total + k, key_size)
                scores[place + j] = score
                largest = max(largest, score)
            for j in range(rows):
                scores[place + j] -= largest
    for n in range(np.uintp(scores.size)):  # all at once: a row is too short to be vectorised
        scores[n] = exp(scores[n])
    gathered[:] = np.float32(0)
    for h in range(np.uintp(heads)):
        v = h * width + key_size + key_size
        for i in range(slots):
            place, sum_of_exp = (h * slots + i) * rows, np.float32(0)
            for j in range(rows):
                sum_of_exp += scores[place + j]
            for j in range(rows):
                scores[place + j] /= sum_of_exp
                _add_scaled(scores[place + j], x, j * total + v, gathered, (i * np.uintp(heads) + h) * size, size)


@compiled
def _dot(x: Any, i: Any, y: Any, j: Any, count: Any) -> Any:
    """Of count numbers of x, from the i-th, and of y, from the j-th."""
    total = np.float32(0)
    for c in range(count):
        total += x[i + c] * y[j + c]
    return total


@compiled
def _add_scaled(factor: Any, x: Any, i: Any, out: Any, j: Any, count: Any) -> None:
    """Add to count numbers of out, from the j-th, factor times those of x, from the i-th."""
    for c in range(count):
        out[j + c] += factor * x[i + c]


@compiled
def attend_backward(grad: Any, qkv: Any, weights: Any, grad_qkv: Any, grad_weights: Any, heads: int, key: int) -> None:
    """grad [S, D] of what `attend` gave -> grad_qkv [N, Q]; grad_weights [N] is scratch."""
    rows, slots, total = np.uintp(qkv.shape[0]), np.uintp(weights.shape[1]), np.uintp(qkv.shape[1])
    width, key_size = total // np.uintp(heads), np.uintp(key)
    size = width - key_size - key_size
    x, attention, received = qkv.reshape(qkv.size), weights.reshape(weights.size), grad.reshape(grad.size)
    grad_x = grad_qkv.reshape(grad_qkv.size)
    scale = np.float32(1) / np.sqrt(np.float32(key))
    grad_x[:] = np.float32(0)
    for h in range(np.uintp(heads)):
        q, k, v = h * width, h * width + key_size, h * width + key_size + key_size
        for i in range(slots):
            place, from_slot, expected = (h * slots + i) * rows, (i * np.uintp(heads) + h) * size, np.float32(0)
            for j in range(rows):
                grad_weights[j] = _dot(received, from_slot, x, j * total + v, size)
                expected += attention[place + j] * grad_weights[j]
                _add_scaled(attention[place + j], received, from_slot, grad_x, j * total + v, size)
            for j in range(rows):
                grad_score = attention[place + j] * (grad_weights[j] - expected) * scale
                _add_scaled(grad_score, x, j * total + k, grad_x, i * total + q, key_size)
                _add_scaled(grad_score, x, i * total + q, grad_x, j * total + k, key_size)

"""Two convolutions of 2 x 2 (stride 1, no padding, a ReLU after each) of small images, compiled, and their gradients.

Sizes: N images of H x W pixels with C channels; K kernels in the first, O in the second. COLUMNS images at a time go
through all of it, side by side: a *grid* is [pixels * channels, COLUMNS], the channels of a pixel one after the other.
Two neighbours in a row are so rows one after the other, which `matmul.multiply_panel` takes as they are. All arrays are
C-contiguous float32; kernels are [K, 2 * 2 * C], in the order of rows, columns and channels.
"""

from typing import Any, NamedTuple

import numpy as np

from .compilation import compiled, compiled_with_memory
from .matmul import multiply_panel
from .tiles import COLUMNS

ROW = np.uintp(COLUMNS)
BYTES = 4 * COLUMNS
"""Of a grid's row."""


class Sizes(NamedTuple):
    height: int
    width: int
    channels: int
    first: int  # K
    second: int  # O


class Weights(NamedTuple):
    """Of both convolutions, or their gradients."""

    first: Any  # [K, 2 * 2 * C]
    first_bias: Any  # [K]
    second: Any  # [O, 2 * 2 * K]
    second_bias: Any  # [O]


@compiled_with_memory
def grid_forward(n0: int, n1: int, images: Any, strides: Any, sizes: Any, weights: Any, out: Any) -> None:
    """Features of images [n0, n1) to the first columns of out [N, O * (H - 2) * (W - 2) or more], kernel by kernel.

    images is flat; strides are the numbers from one image, channel, row and column to the next.
    """
    height, width, channels, first, second = sizes
    grid = np.zeros((height * width * channels, COLUMNS), np.float32)
    hidden = np.empty(((height - 1) * (width - 1) * first, COLUMNS), np.float32)
    result = np.empty(((height - 2) * (width - 2) * second, COLUMNS), np.float32)
    for begin in range(n0, n1, COLUMNS):
        count = min(COLUMNS, n1 - begin)
        _put_side_by_side(images, begin, count, strides, height, width, channels, grid)
        _convolve(grid, height, width, channels, weights.first, weights.first_bias, hidden)
        _convolve(hidden, height - 1, width - 1, first, weights.second, weights.second_bias, result)
        _take_apart(result, begin, count, (height - 2) * (width - 2), second, out)


@compiled_with_memory
def grid_backward(
    n0: int, n1: int, grad: Any, features: Any, images: Any, strides: Any, sizes: Any, weights: Any, grads: Any
) -> None:
    """Adds to grads what images [n0, n1) contribute, from grad and features, both as `grid_forward`'s out.

    The first convolution is computed again: that is quicker than to write down and read what it gave.
    """
    height, width, channels, first, second = sizes
    grid = np.zeros((height * width * channels, COLUMNS), np.float32)
    hidden = np.empty(((height - 1) * (width - 1) * first, COLUMNS), np.float32)
    grad_hidden = np.empty(hidden.shape, np.float32)
    grad_result = np.empty(((height - 2) * (width - 2) * second, COLUMNS), np.float32)
    first_sums, second_sums = _sums(4 * channels, first), _sums(4 * first, second)
    for begin in range(n0, n1, COLUMNS):
        count = min(COLUMNS, n1 - begin)
        _put_side_by_side(images, begin, count, strides, height, width, channels, grid)
        _convolve(grid, height, width, channels, weights.first, weights.first_bias, hidden)
        _put_grad_side_by_side(grad, features, begin, count, (height - 2) * (width - 2), second, grad_result)
        _add_weights_gradient(grad_result, hidden, height - 1, width - 1, first, second_sums, grads.second_bias)
        _input_gradient(grad_result, height - 1, width - 1, first, weights.second, grad_hidden)
        _through_relu(hidden, grad_hidden)
        _add_weights_gradient(grad_hidden, grid, height, width, channels, first_sums, grads.first_bias)
    _add_transposed(first_sums, grads.first)
    _add_transposed(second_sums, grads.second)


@compiled_with_memory
def _convolve(grid: Any, height: int, width: int, depth: int, kernels: Any, bias: Any, out: Any) -> None:
    """out [positions * K, COLUMNS] = relu(kernels [K, 4 * depth] * grid [height * width * depth, COLUMNS] + bias)."""
    count, stride, target = len(kernels), 4 * kernels.shape[1], out.ctypes.data
    for y in range(height - 1):
        for x in range(width - 1):
            for dy in range(2):
                factors, there = kernels.ctypes.data + dy * stride // 2, _place(grid, width, depth, y + dy, x)
                multiply_panel(grid, factors, stride, 4, there, 2 * depth, target, BYTES, count, dy == 1)
            target += count * BYTES
    _finish(bias, out)


@compiled_with_memory
def _input_gradient(grad: Any, height: int, width: int, depth: int, kernels: Any, out: Any) -> None:
    """out [height * width * depth, COLUMNS]: of a convolution's grid, from grad [positions * K, COLUMNS]."""
    out[:] = np.float32(0)
    count, stride, source = len(kernels), 4 * kernels.shape[1], grad.ctypes.data
    for y in range(height - 1):
        for x in range(width - 1):
            for dy in range(2):
                factors, there = kernels.ctypes.data + dy * stride // 2, _place(out, width, depth, y + dy, x)
                multiply_panel(grad, factors, 4, stride, source, count, there, BYTES, 2 * depth, True)
            source += count * BYTES


@compiled_with_memory
def _add_weights_gradient(grad: Any, grid: Any, height: int, width: int, depth: int, sums: Any, bias: Any) -> None:
    """Adds to sums [panels, 2 * 2 * depth, COLUMNS] and bias [K], from grad [positions * K, COLUMNS]."""
    count = len(bias)
    by_image = np.zeros((len(sums), COLUMNS, COLUMNS), np.float32)  # [panels, images, kernels]
    for y in range(height - 1):
        for x in range(width - 1):
            _turn(grad, (y * (width - 1) + x) * count, by_image, bias)
            for panel in range(len(sums)):
                for dy in range(2):
                    target = sums[panel].ctypes.data + 2 * depth * dy * BYTES
                    there = _place(grid, width, depth, y + dy, x)
                    source = by_image[panel].ctypes.data
                    multiply_panel(grid, there, BYTES, 4, source, COLUMNS, target, BYTES, 2 * depth, True)


@compiled_with_memory
def _place(grid: Any, width: int, depth: int, y: int, x: int) -> int:
    """The address of a pixel's first row; 2 * depth rows from there on are those of two pixels."""
    return grid.ctypes.data + (y * width + x) * depth * BYTES  # type: ignore[no-any-return]


@compiled_with_memory
def _sums(inputs: int, kernels: int) -> Any:
    """Zeros [panels, inputs, COLUMNS], for what is transposed at the end."""
    return np.zeros(((kernels + COLUMNS - 1) // COLUMNS, inputs, COLUMNS), np.float32)


# On flat arrays, with unsigned places, as in `primitives`.


@compiled
def _put_side_by_side(
    images: Any, begin: int, count: int, strides: Any, height: int, width: int, channels: int, grid: Any
) -> None:
    """Images [begin, begin + count) to the first columns of grid."""
    target = grid.reshape(grid.size)
    by_channel, by_row, by_column = np.uintp(strides[1]), np.uintp(strides[2]), np.uintp(strides[3])
    for n in range(np.uintp(count)):
        image, place = (np.uintp(begin) + n) * np.uintp(strides[0]), np.uintp(n)
        for y in range(np.uintp(height)):
            for x in range(np.uintp(width)):
                for c in range(np.uintp(channels)):
                    target[place] = images[image + y * by_row + x * by_column + c * by_channel]
                    place += ROW


@compiled
def _take_apart(result: Any, begin: int, count: int, places: int, kernels: int, out: Any) -> None:
    """The first columns of result [places * kernels, COLUMNS] to rows of out, kernel by kernel."""
    source, target, size = result.reshape(result.size), out.reshape(out.size), np.uintp(out.shape[1])
    for n in range(np.uintp(count)):
        place = (np.uintp(begin) + n) * size
        for k in range(np.uintp(kernels)):
            for p in range(np.uintp(places)):
                target[place] = source[(p * np.uintp(kernels) + k) * ROW + n]
                place += np.uintp(1)


@compiled
def _put_grad_side_by_side(
    grad: Any, features: Any, begin: int, count: int, places: int, kernels: int, out: Any
) -> None:
    """`_take_apart` undone, for the gradient before the ReLU; zeros in the other columns."""
    source, values, target = grad.reshape(grad.size), features.reshape(features.size), out.reshape(out.size)
    if count < COLUMNS:
        target[:] = np.float32(0)
    for n in range(np.uintp(count)):
        place = (np.uintp(begin) + n) * np.uintp(grad.shape[1])
        for k in range(np.uintp(kernels)):
            for p in range(np.uintp(places)):
                given = source[place] if values[place] > np.float32(0) else np.float32(0)
                target[(p * np.uintp(kernels) + k) * ROW + n] = given
                place += np.uintp(1)


@compiled
def _finish(bias: Any, out: Any) -> None:
    """out = relu(out + bias), for rows that belong to one kernel after the other."""
    flat, kernels = out.reshape(out.size), np.uintp(len(bias))
    for p in range(np.uintp(len(out)) // kernels):
        for k in range(kernels):
            place, shift = (p * kernels + k) * ROW, bias[k]
            for n in range(ROW):
                flat[place + n] = max(flat[place + n] + shift, np.float32(0))


@compiled
def _through_relu(result: Any, grad: Any) -> None:
    values, grads = result.reshape(result.size), grad.reshape(grad.size)
    for i in range(np.uintp(grads.size)):
        grads[i] = grads[i] if values[i] > np.float32(0) else np.float32(0)


@compiled
def _turn(grad: Any, first_row: int, by_image: Any, bias: Any) -> None:
    """So many rows of grad as bias has, transposed; adds their sums to bias."""
    source, target = grad.reshape(grad.size), by_image.reshape(by_image.size)
    for k in range(np.uintp(len(bias))):
        row, place = (np.uintp(first_row) + k) * ROW, k // ROW * ROW * ROW + k % ROW
        total = np.float32(0)
        for n in range(ROW):
            target[place + n * ROW] = source[row + n]
            total += source[row + n]
        bias[k] += total


@compiled
def _add_transposed(sums: Any, out: Any) -> None:
    """out [K, inputs] += sums [panels, inputs, COLUMNS]."""
    for k in range(out.shape[0]):
        for i in range(out.shape[1]):
            out[k, i] += sums[k // COLUMNS, i, k % COLUMNS]

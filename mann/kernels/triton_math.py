"""What the Triton kernels share: functions that Triton lacks, and products of a vector with a matrix.

All functions here run inside a kernel. Sizes are padded to powers of two, as Triton's tensors must be; `inside` says
which entries exist.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def tanh(x):
    """tanh, with a relative error of a few roundings near zero too, where (1 - e)/(1 + e) cancels."""
    size = tl.abs(x)
    e = tl.exp(-2 * size)
    far = (1 - e) / (1 + e)
    square = x * x
    near = size * (1 - square * (1 / 3 - square * (2 / 15 - square * (17 / 315))))
    result = tl.where(size < 0.04, near, far)
    return tl.where(x < 0, -result, result)


@triton.jit
def over(x, size):
    """x / size, and 0 where the size is 0: the gradient of a length at a zero vector, as torch has it."""
    return tl.where(size > 0, x / tl.where(size > 0, size, 1.0), 0.0)


@triton.jit
def softplus(x):
    """log(1 + e^x)."""
    return tl.maximum(x, 0.0) + tl.log(1 + tl.exp(-tl.abs(x)))


@triton.jit
def softmax(scores, inside):
    """Softmax of a vector over the entries inside; zero elsewhere."""
    scores = tl.where(inside, scores, float("-inf"))
    e = tl.exp(scores - tl.max(scores, 0))
    return e / tl.sum(e, 0)


@triton.jit
def softmax_backward(weights, d_weights):
    """The gradient of a softmax's scores."""
    return weights * (d_weights - tl.sum(weights * d_weights, 0))


@triton.jit
def pick(vector, index, place):
    """The entry of a vector at a place, as a scalar. index: `arange` over the vector."""
    return tl.sum(tl.where(index == place, vector, 0.0), 0)


@triton.jit
def affine(
    out, vector, matrix, base, more, ROWS: tl.constexpr, COLUMNS: tl.constexpr, BLOCK_ROWS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """out[j] = Σ_k vector[k] matrix[k, j], plus base[j] and more[j] where they are, memory to memory by one block.

    The rows of a tile are summed at the end, so that the loop has no reduction across threads. `STAGES` tiles are in
    flight at once: a single block must ask for much ahead to draw on the cache at its full rate.
    """
    dtype: tl.constexpr = out.dtype.element_ty
    row = tl.arange(0, BLOCK_ROWS)
    for first in range(0, COLUMNS, BLOCK_COLUMNS):
        column = first + tl.arange(0, BLOCK_COLUMNS)
        inside = column < COLUMNS
        total = tl.zeros([BLOCK_ROWS, BLOCK_COLUMNS], dtype)
        for start in tl.range(0, ROWS, BLOCK_ROWS, num_stages=STAGES):
            k = start + row
            factor = tl.load(vector + k, mask=k < ROWS, other=0).to(dtype)
            tile = tl.load(
                matrix + k[:, None] * COLUMNS + column[None, :], mask=(k < ROWS)[:, None] & inside[None, :], other=0
            )
            total += factor[:, None] * tile.to(dtype)
        result = tl.sum(total, 0)
        if base is not None:
            result += tl.load(base + column, mask=inside, other=0).to(dtype)
        if more is not None:
            result += tl.load(more + column, mask=inside, other=0).to(dtype)
        tl.store(out + column, result, mask=inside)

"""What Triton kernels share: matrices read and written by tiles, and a hyperbolic tangent; needs triton to be imported.

Triton's tiles have powers of two as sizes. Where a matrix is smaller than its tile, the rest is filled with zeros.
"""

import triton
import triton.language as tl


@triton.jit
def tile(rows, there, width: tl.constexpr, padded: tl.constexpr, row_stride, column_stride):
    """Offsets and mask of some rows of a matrix with `width` columns."""
    column = tl.arange(0, padded)[None, :]
    return rows[:, None] * row_stride + column * column_stride, there[:, None] & (column < width)


@triton.jit
def read(base, rows, there, width: tl.constexpr, padded: tl.constexpr, row_stride, column_stride=1):
    """Read some rows of a matrix; what is not there is 0."""
    offsets, mask = tile(rows, there, width, padded, row_stride, column_stride)
    return tl.load(base + offsets, mask, 0.0)


@triton.jit
def write(base, value, rows, there, width: tl.constexpr, row_stride, column_stride=1):
    """Write some rows of a matrix."""
    offsets, mask = tile(rows, there, width, value.shape[1], row_stride, column_stride)
    tl.store(base + offsets, value, mask)


@triton.jit
def tanh(x):
    """Libdevice has one, but not the interpreter. The odd series keeps small values' relative accuracy."""
    e = tl.exp(-2 * tl.abs(x))
    size = (1 - e) / (1 + e)
    s = x * x
    series = x * (1 + s * (-1 / 3 + s * (2 / 15 + s * (-17 / 315 + s * (62 / 2835)))))
    return tl.where(s < 0.0025, series, tl.where(x < 0, -size, size))

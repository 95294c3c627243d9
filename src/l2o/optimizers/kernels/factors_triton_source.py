"""Triton kernels that update factored second moments; needs triton to be imported.

A tensor with at least two axes is seen as (A, X, M, Y, C), where X and Y are its two largest axes. The sums over Y are
called rows (A, X, M, C), those over X columns (A, M, Y, C); the larger factor, r, is one of them, and c the other. A
line is what the larger factor has along its one axis of the two. The tables are those of `coordinate_mlp_units`. All
offsets into whole arrays have 64 bits; those within a tensor have 32.

    tile_sums        reads ∇:          adds up ∇² of a tile over its rows and its columns
    update_factors   reads the sums:   r ← β r + (1 − β) mean, and likewise c
    line_means       reads r:          the means of r along its lines

Sums of several programs are written beside each other and added in order: nothing depends on which program is first.
"""

import triton
import triton.language as tl

from l2o.optimizers.kernels.coordinate_mlp_units import Column

NUM_COLUMNS = tl.constexpr(len(Column))
(
    SIZE, FACTORED, X, M, Y, C, ROWS_ARE_MAJOR, SERVED, NUMBER, COORDINATE, MAJOR, MINOR, OUT, ROW_SUMS, COLUMN_SUMS,
    LINES,
) = (tl.constexpr(int(column)) for column in Column)  # fmt: skip


@triton.jit
def share(count):
    """This program's row of a table with so many rows, and its task."""
    program = tl.program_id(0).to(tl.int64)
    return program % count, program // count


@triton.jit
def small(pointer):
    """Read a number of a table that 32 bits can hold."""
    return tl.load(pointer).to(tl.int32)


@triton.jit
def decay(decays, k: tl.constexpr, task, IS_CLIPPED: tl.constexpr):
    """β number k of a task. That of a second moment is clipped to [0, 1]; nan stays nan."""
    beta = tl.load(decays.pointer + task * decays.row + k)
    return tl.where(beta < 0, 0.0, tl.where(beta > 1, 1.0, beta)) if IS_CLIPPED else beta


@triton.jit
def clipped(x, limit):
    """x within ±limit. What is not a number stays so."""
    return tl.where(x > limit, limit, tl.where(x < -limit, -limit, x))


@triton.jit
def clipped_gradient(grad, at, there, is_served, LIMIT: tl.constexpr):
    """∇ of some coordinates; that of a tensor which the network serves is clipped."""
    g = tl.load(grad + at, there, 0.0)
    return tl.where(is_served, clipped(g, LIMIT), g)


@triton.jit
def tile_sums(
    tiles, tensors, num_tiles, grad, grad_row, sums, num_sums,
    LIMIT: tl.constexpr, TILE_X: tl.constexpr, TILE_Y: tl.constexpr,
):  # fmt: skip
    """Add up ∇² + 10⁻³⁰ of one tile, over its rows and over its columns."""
    tile, task = share(num_tiles)
    tiles += 4 * tile
    tensor = tensors + tl.load(tiles) * NUM_COLUMNS
    outer, first_x, first_y = small(tiles + 1), small(tiles + 2), small(tiles + 3)
    X_, M_, Y_, C_, size = (
        small(tensor + X),
        small(tensor + M),
        small(tensor + Y),
        small(tensor + C),
        small(tensor + SIZE),
    )
    is_served = tl.load(tensor + SERVED) != 0
    x, y = first_x + tl.arange(0, TILE_X), first_y + tl.arange(0, TILE_Y)
    rows = (outer // M_ * X_ + x) * M_ + outer % M_
    grad += task * grad_row + tl.load(tensor + COORDINATE)
    row_sums = sums + task * num_sums + tl.load(tensor + ROW_SUMS) + first_y // TILE_Y * (size // Y_)
    column_sums = sums + task * num_sums + tl.load(tensor + COLUMN_SUMS) + first_x // TILE_X * (size // X_)
    there = (x < X_)[:, None] & (y < Y_)[None, :]
    for c in range(C_):
        g = clipped_gradient(grad, (rows[:, None] * Y_ + y[None, :]) * C_ + c, there, is_served, LIMIT)
        square = tl.where(there, g * g + 1e-30, 0.0)
        tl.store(row_sums + rows * C_ + c, tl.sum(square, 1), x < X_)
        tl.store(column_sums + (outer * Y_ + y) * C_ + c, tl.sum(square, 0), y < Y_)


@triton.jit
def mixed(moment, decays, new, at, there, task, COUNT: tl.constexpr, IS_CLIPPED: tl.constexpr):
    """Update some numbers of an accumulator, m ← β m + (1 − β) new for every β; give the new ones."""
    old, now = moment.old + task * moment.old_row + at, moment.now + task * moment.row + at
    after = ()
    for k in tl.static_range(COUNT):
        before, beta = tl.load(old, there, 0.0), decay(decays, k, task, IS_CLIPPED)
        tl.debug_barrier()  # the new numbers may lie where the old ones do
        value = beta * before + (1 - beta) * new
        tl.store(now, value, there)
        after = after + (value,)
        old += moment.old_plane
        now += moment.plane
    return after


@triton.jit
def update_factors(
    blocks, tensors, num_blocks, sums, num_sums, major, minor, decays,
    NUM_FACTORS: tl.constexpr, TILE_X: tl.constexpr, TILE_Y: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Take up the means over one axis, for a block of r's or c's numbers."""
    block, task = share(num_blocks)
    blocks += 5 * block
    tensor = tensors + tl.load(blocks) * NUM_COLUMNS
    is_row, start = tl.load(blocks + 1) != 0, small(blocks + 2)
    count, length = small(blocks + 3), small(blocks + 4)
    i = start + tl.arange(0, BLOCK)
    there = i < count
    parts = tl.where(is_row, tl.cdiv(length, TILE_Y), tl.cdiv(length, TILE_X))
    sums += task * num_sums
    sums += tl.where(is_row, tl.load(tensor + ROW_SUMS), tl.load(tensor + COLUMN_SUMS))
    total = tl.zeros((BLOCK,), sums.dtype.element_ty)
    for _ in range(parts):
        total += tl.load(sums + i, there, 0.0)
        sums += count
    mean = total / tl.maximum(length, 1)
    if is_row == (tl.load(tensor + ROWS_ARE_MAJOR) != 0):
        mixed(major, decays, mean, tl.load(tensor + MAJOR) + i, there, task, NUM_FACTORS, True)
    else:
        mixed(minor, decays, mean, tl.load(tensor + MINOR) + i, there, task, NUM_FACTORS, True)


@triton.jit
def line_means(lines, tensors, num_lines, major, means, NUM_FACTORS: tl.constexpr, BLOCK: tl.constexpr):
    """Write the mean of r along one line, for every decay: (NUM_FACTORS, B, lines)."""
    line, task = share(num_lines)
    lines += 3 * line
    tensor, outer, c = tensors + tl.load(lines) * NUM_COLUMNS, small(lines + 1), small(lines + 2)
    X_, M_, Y_, C_ = small(tensor + X), small(tensor + M), small(tensor + Y), small(tensor + C)
    by_rows = tl.load(tensor + ROWS_ARE_MAJOR) != 0
    length, stride = tl.where(by_rows, X_, Y_), tl.where(by_rows, M_ * C_, C_)
    first = tl.where(by_rows, outer // M_ * X_ * M_ + outer % M_, outer * Y_) * C_ + c
    r = major.now + task * major.row + tl.load(tensor + MAJOR) + first
    means_of_task = means.now + task * means.row + line
    for _ in tl.static_range(NUM_FACTORS):
        total = tl.zeros((BLOCK,), means.now.dtype.element_ty)
        for at in range(0, length, BLOCK):
            i = at + tl.arange(0, BLOCK)
            total += tl.load(r + i * stride, i < length, 0.0)
        tl.store(means_of_task, tl.sum(total, 0) / tl.maximum(length, 1))
        r += major.plane
        means_of_task += means.plane

"""Triton kernels for a step of the hierarchical rule; needs triton to be imported.

    remember    reads ∇, θ, the moments:        updates the moments, adds up their statistics
    of_tensors  reads the sums:                 asks the network of every tensor (`hierarchical_tensors_triton_source`)
    direct      reads ∇, θ, the new moments:    asks the coordinates' network, writes the direction, adds up its squares
    rescale     gives the direction its size

A program takes a unit of a tensor of one task, block by block. Legend: B tasks, K tensors, M momenta, S = 2M + 2
statistics, H hidden units of the coordinates' network.
"""

import triton
import triton.language as tl

from l2o.native.triton_source import read
from l2o.optimizers.kernels import hierarchical_memory
from l2o.optimizers.kernels.factors_triton_source import clipped, share, small

EPS, LARGEST_INPUT = tl.constexpr(hierarchical_memory.EPS), tl.constexpr(hierarchical_memory.LARGEST_INPUT)


@triton.jit
def relu(x):
    """The larger of x and 0. What is not a number stays so."""
    return tl.where(x < 0, 0.0, x)


@triton.jit
def started(decay, count):
    """1 − decay^count, in double precision: in single precision little would be left of .001."""
    return 1 - tl.exp(count.to(tl.float64) * tl.log(decay))


@triton.jit
def _corrections(decays, count, M: tl.constexpr):
    """1 / (1 − β^t) of every momentum, and then of the square."""
    found = ()
    for i in tl.static_range(M + 1):
        beta = tl.load(decays + i)
        found = found + ((1 / started(beta.to(tl.float64), count)).to(beta.dtype),)
    return found


@triton.jit
def _unit(units, num_units, num_tensors):
    """This program's unit and task; the unit's tensor, and its place task · K + tensor in what is (B, K); the unit's
    first coordinate, and its number of coordinates."""
    unit, task = share(num_units)
    tensor = tl.load(units + 3 * unit)
    return unit, task, tensor, task * num_tensors + tensor, tl.load(units + 3 * unit + 1), small(units + 3 * unit + 2)


@triton.jit
def remember(
    units, num_units, num_tensors, seen, before, after, decays, steps, sums, RULE: tl.constexpr, BLOCK: tl.constexpr
):
    """Update what is remembered of a unit, and add up its statistics: (B, units, S).

    They are the squares of ∇ and of the M momenta, the products of neighbours, all of them normalised, and θ².
    """
    M: tl.constexpr = RULE.momenta
    unit, task, _, place, first, count = _unit(units, num_units, num_tensors)
    correct = _corrections(decays, tl.load(steps + place) + 1, M)
    totals = (tl.zeros((BLOCK,), sums.dtype.element_ty),) * (2 * M + 2)
    for begin in range(0, count, BLOCK):
        i = begin + tl.arange(0, BLOCK)
        there, at = i < count, first + i
        g = tl.load(seen.grad + task * seen.grad_row + at, there, 0.0)
        theta = tl.load(seen.theta + task * seen.theta_row + at, there, 0.0)
        v = tl.load(before.square + task * before.square_row + at, there, 0.0)
        m, old = (), before.momenta + task * before.row
        for k in tl.static_range(M):  # noqa: B007
            m = m + (tl.load(old + at, there, 0.0),)
            old += before.plane  # k · plane would overflow 32 bits
        tl.debug_barrier()  # the new numbers may lie where the old ones do
        beta = tl.load(decays + M)
        v = beta * v + (1 - beta) * g * g
        tl.store(after.square + task * after.square_row + at, v, there)
        inverse = 1 / (tl.sqrt(v * correct[M]) + EPS)
        last = g * inverse
        squares, products, now_at = (totals[0] + last * last,), (), after.momenta + task * after.row
        for k in tl.static_range(M):
            beta = tl.load(decays + k)
            new = beta * m[k] + (1 - beta) * g
            tl.store(now_at + at, new, there)
            now_at += after.plane
            now = new * correct[k] * inverse
            squares = squares + (totals[1 + k] + now * now,)
            products = products + (totals[1 + M + k] + now * last,)
            last = now
        totals = squares + products + (totals[2 * M + 1] + theta * theta,)
    sums += (task * num_units + unit) * (2 * M + 2)
    for s in tl.static_range(2 * M + 2):
        tl.store(sums + s, tl.sum(totals[s], 0))


@triton.jit
def direct(
    units, num_units, num_tensors, seen, after, decays, steps, layers, found, update, update_row, sums,
    RULE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Write the direction u of a unit, and add up its squares: (B, units)."""
    M: tl.constexpr = RULE.momenta
    H: tl.constexpr = RULE.hidden
    HP: tl.constexpr = RULE.padded_hidden
    F: tl.constexpr = M + 2
    columns: tl.constexpr = M + 1 + RULE.outputs
    unit, task, _, place, first, count = _unit(units, num_units, num_tensors)
    correct = _corrections(decays, tl.load(steps + place) + 1, M)
    found += place * (H + 2)
    h = tl.arange(0, HP)
    bias = tl.load(found + h, h < H, 0.0)
    of_theta = tl.load(found + H + 1)
    w0 = layers[4].weight + task * layers[4].weight_row + h * columns
    w1 = read(layers[5].weight + task * layers[5].weight_row, h, h < H, H, HP, H)
    b1 = tl.load(layers[5].bias + task * layers[5].bias_row + h, h < H, 0.0)
    w2 = tl.load(layers[6].weight + task * layers[6].weight_row + h, h < H, 0.0)
    b2 = tl.load(layers[6].bias + task * layers[6].bias_row)
    total = tl.zeros((BLOCK,), sums.dtype.element_ty)
    for begin in range(0, count, BLOCK):
        i = begin + tl.arange(0, BLOCK)
        there, at = i < count, first + i
        v = tl.load(after.square + task * after.square_row + at, there, 0.0)
        inverse = 1 / (tl.sqrt(v * correct[M]) + EPS)
        inputs = (tl.load(seen.grad + task * seen.grad_row + at, there, 0.0) * inverse,)
        momentum = after.momenta + task * after.row
        for k in tl.static_range(M):
            inputs = inputs + (tl.load(momentum + at, there, 0.0) * correct[k] * inverse,)
            momentum += after.plane
        u = inputs[1]
        if not RULE.settings.adam:
            inputs = inputs + (tl.load(seen.theta + task * seen.theta_row + at, there, 0.0) * of_theta,)
            x = tl.zeros((BLOCK, HP), u.dtype) + bias[None, :]
            for f in tl.static_range(F):
                x += clipped(inputs[f], LARGEST_INPUT)[:, None] * tl.load(w0 + f, h < H, 0.0)[None, :]
            x = tl.where((h < H)[None, :], relu(x), 0.0)  # an infinite input times a padded weight is nan
            x = tl.dot(x, tl.trans(w1), input_precision=RULE.precision) + b1[None, :]
            x = tl.where((h < H)[None, :], relu(x), 0.0)
            u += tl.sum(x * w2[None, :], 1) + b2
        total += tl.where(there, u * u, 0.0)
        tl.store(update + task * update_row + at, u, there)
    tl.store(sums + task * num_units + unit, tl.sum(total, 0))


@triton.jit
def rescale(
    units, num_units, num_tensors, tensors, found, sums, update, update_row,
    RULE: tl.constexpr, SUMMED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Give the direction of a unit the root mean square that its tensor's step has, and the sign of a descent."""
    _, task, tensor, place, first, count = _unit(units, num_units, num_tensors)
    row = tensors + 3 * tensor
    first_unit, num_summed, size = tl.load(row), small(row + 1), tl.load(row + 2)
    total = tl.zeros((SUMMED,), sums.dtype.element_ty)
    for begin in range(0, num_summed, SUMMED):
        at = begin + tl.arange(0, SUMMED)
        total += tl.load(sums + task * num_units + first_unit + at, at < num_summed, 0.0)
    mean = tl.sum(total, 0) / tl.maximum(size, 1)
    factor = -tl.load(found + place * (RULE.hidden + 2) + RULE.hidden) / tl.sqrt(mean + 1e-16)
    for begin in range(0, count, BLOCK):
        i = begin + tl.arange(0, BLOCK)
        to = update + task * update_row + first + i
        u = tl.load(to, i < count, 0.0)
        tl.debug_barrier()
        tl.store(to, u * factor, i < count)

"""Triton kernels for a small network's step for every coordinate; needs triton to be imported.

    accumulate   reads ∇, θ, the moments:   updates the moments, adds up the squares of every feature
    find_scales  reads the sums:            what each feature, or the direction, is multiplied by to be normalised
    directions   reads ∇, θ, the moments:   makes the features again, asks the network, writes the direction
    normalise    scales the direction, where that is normalised, too

A program takes a unit of one tensor of one task, block by block. Factored moments are up to date before (see
`factors_triton_source`). The normalisation of a feature is folded into the first layer's weights, the features of the
time into its bias. Legend: F features of a coordinate, H units of a layer, HP ≥ H the size of the tile that holds them.
"""

import triton
import triton.language as tl

from l2o.native.triton_source import read, tanh
from l2o.optimizers.kernels.factors_triton_source import (
    COORDINATE,
    NUM_COLUMNS,
    NUMBER,
    OUT,
    SERVED,
    clipped_gradient,
    mixed,
    share,
    small,
)
from l2o.optimizers.kernels.features_triton_source import factors_of, features_of, kept


@triton.jit
def _unit(units, tensors, num_units):
    """This program's unit and task; the unit's tensor, as a row of the table, where it starts and stops there, and its
    matrix."""
    unit, task = share(num_units)
    row = units + 4 * unit
    start, stop = small(row + 1), small(row + 2)
    return unit, task, tensors + tl.load(row) * NUM_COLUMNS, start, stop, tl.load(row + 3)


@triton.jit
def accumulate(units, tensors, num_units, seen, moments, decays, sums, RULE: tl.constexpr, BLOCK: tl.constexpr):
    """Update the moments of a unit, and add up the squares of its features: (B, units, F)."""
    F: tl.constexpr = RULE.num_features
    unit, task, tensor, start, stop, _ = _unit(units, tensors, num_units)
    first = tl.load(tensor + COORDINATE)
    is_served = tl.load(tensor + SERVED) != 0
    totals = (tl.zeros((BLOCK,), sums.dtype.element_ty),) * F
    for begin in range(start, stop, BLOCK):
        i = begin + tl.arange(0, BLOCK)
        there, at = i < stop, first + i
        g = clipped_gradient(seen.grad + task * seen.grad_row, at, there, is_served, RULE.limit)
        p = tl.load(seen.theta + task * seen.theta_row + at, there, 0.0)
        m = mixed(moments.momenta, decays.momenta, g, at, there, task, RULE.momenta, False)
        v = mixed(moments.squares, decays.squares, g * g, at, there, task, RULE.squares, True)
        factors = factors_of(tensor, i, there, g * g, task, moments, decays.factors, RULE, True)
        features, added = features_of(g, p, m, v, factors, RULE), ()
        for f in tl.static_range(F):
            added = added + (totals[f] + tl.where(there, features[f] * features[f], 0.0),)
        totals = added
    sums += (task * num_units + unit) * F
    for f in tl.static_range(F):
        tl.store(sums + f, tl.sum(totals[f], 0))


@triton.jit
def find_scales(
    matrices, num_matrices, sums, num_units, found,
    F: tl.constexpr, FP: tl.constexpr, EPS: tl.constexpr, THETA_AT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Turn the sums (B, units, F) of a matrix into what normalises it: (ε + mean)^−½ (B, matrices, F + 1).

    The last number is what the direction is multiplied by: 1, or (mean θ² + 10⁻⁹)^½ with θ's place among the features.
    """
    matrix, task = share(num_matrices)
    matrices += 4 * matrix
    first, count, size = tl.load(matrices + 1), tl.load(matrices + 2), tl.load(matrices + 3)
    column = tl.arange(0, FP)
    total = tl.zeros((BLOCK, FP), sums.dtype.element_ty)
    for begin in range(0, count, BLOCK):
        unit = begin + tl.arange(0, BLOCK)
        total += read(sums + (task * num_units + first) * F, unit, unit < count, F, FP, F)
    mean = tl.sum(total, 0) / size
    found += (task * num_matrices + matrix) * (F + 1)
    tl.store(found + column, tl.rsqrt(mean + EPS), column < F)
    if THETA_AT >= 0:
        tl.store(found + F, tl.sqrt(tl.sum(tl.where(column == THETA_AT, mean, 0.0), 0) + 1e-9))
    else:
        tl.store(found + F, 1.0)


@triton.jit
def _layer_rows(layer, task, H: tl.constexpr, HP: tl.constexpr):
    """Where a layer's weight begins for a task, its bias (HP,), the numbers of its units, and which are real."""
    unit = tl.arange(0, HP)
    bias = tl.load(layer.bias + task * layer.bias_row + unit, unit < H, 0.0)
    return layer.weight + task * layer.weight_row, bias, unit, unit < H


@triton.jit
def _network(features, scales, times, layers, task, RULE: tl.constexpr):
    """Ask the network about a block of coordinates: features, times (HP,) -> outputs (BLOCK, HP)."""
    F: tl.constexpr = RULE.num_features
    HP: tl.constexpr = RULE.padded[1]
    weight, bias, unit, real = _layer_rows(layers[0], task, RULE.sizes[1], HP)
    x = tl.zeros((features[0].shape[0], HP), weight.dtype.element_ty)
    for f in tl.static_range(F):
        w = tl.load(weight + unit * RULE.sizes[0] + f, real, 0.0) * tl.load(scales + f)
        x += features[f][:, None] * w[None, :]
    x = tl.where(real[None, :], x + (times + bias)[None, :], 0.0)  # an infinite feature times a padded weight is nan
    for n in tl.static_range(1, len(layers)):
        weight, bias, unit, real = _layer_rows(layers[n], task, RULE.sizes[n + 1], RULE.padded[n + 1])
        w = read(weight, unit, real, RULE.sizes[n], RULE.padded[n], RULE.sizes[n])
        x = tl.dot(tl.where(x < 0, 0.0, x), tl.trans(w), input_precision=RULE.precision) + bias[None, :]
        x = tl.where(real[None, :], x, 0.0)
    return x


@triton.jit
def _of_times(layer, timescales, step, task, RULE: tl.constexpr):
    """What tanh(t/τ − 1) of every τ add to each unit of the first layer: (HP,)."""
    weight, _, unit, real = _layer_rows(layer, task, RULE.sizes[1], RULE.padded[1])
    k = tl.arange(0, RULE.padded_times)
    tau = tl.load(timescales + k, k < RULE.times, 1.0)
    w = read(weight + RULE.num_features, unit, real, RULE.times, RULE.padded_times, RULE.sizes[0])
    return tl.sum(w * tanh(tl.load(step + task) / tau - 1)[None, :], 1)


@triton.jit
def _given_scale(output, tensor, task):
    return tl.load(output.scale + task * output.scale_row + tl.load(tensor + NUMBER) * output.scale_column)


@triton.jit
def directions(
    units, tensors, num_served, seen, moments, decays, scales, num_matrices, layers, timescales, output, sums,
    RULE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Write the direction of a unit; where that is normalised, too, add up its squares: (B, units)."""
    unit, task, tensor, start, stop, matrix = _unit(units, tensors, num_served)
    first = tl.load(tensor + COORDINATE)
    scales += (task * num_matrices + matrix) * (RULE.num_features + 1)
    factor = tl.load(scales + RULE.num_features)
    if RULE.output_eps is None:
        factor *= _given_scale(output, tensor, task)
    times = _of_times(layers[0], timescales, seen.step, task, RULE)
    total = tl.zeros((BLOCK,), sums.dtype.element_ty)
    out = output.out + task * output.out_row + tl.load(tensor + OUT)
    for begin in range(start, stop, BLOCK):
        i = begin + tl.arange(0, BLOCK)
        there, at = i < stop, first + i
        g = clipped_gradient(seen.grad + task * seen.grad_row, at, there, True, RULE.limit)
        p = tl.load(seen.theta + task * seen.theta_row + at, there, 0.0)
        m = kept(moments.momenta, at, there, task, RULE.momenta)
        v = kept(moments.squares, at, there, task, RULE.squares)
        factors = factors_of(tensor, i, there, g, task, moments, decays.factors, RULE, False)
        x = _network(features_of(g, p, m, v, factors, RULE), scales, times, layers, task, RULE)
        column = tl.arange(0, x.shape[1])[None, :]
        d = tl.sum(tl.where(column == 0, x, 0.0), 1)
        if RULE.exp_mult != 0:
            d *= tl.exp(RULE.exp_mult * tl.sum(tl.where(column == 1, x, 0.0), 1))
        d *= factor
        total += tl.where(there, d * d, 0.0)
        tl.store(out + i, d, there)
    if RULE.output_eps is not None:
        tl.store(sums + task * num_served + unit, tl.sum(total, 0))


@triton.jit
def normalise(units, tensors, num_served, scales, num_matrices, output, BLOCK: tl.constexpr):
    """Multiply the direction of a unit by what normalises it (B, matrices, 2), and by what the rule says."""
    _, task, tensor, start, stop, matrix = _unit(units, tensors, num_served)
    factor = tl.load(scales + (task * num_matrices + matrix) * 2) * _given_scale(output, tensor, task)
    out = output.out + task * output.out_row + tl.load(tensor + OUT)
    for begin in range(start, stop, BLOCK):
        i = begin + tl.arange(0, BLOCK)
        d = tl.load(out + i, i < stop, 0.0)
        tl.debug_barrier()
        tl.store(out + i, d * factor, i < stop)

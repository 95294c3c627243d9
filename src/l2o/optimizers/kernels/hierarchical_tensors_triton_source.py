"""The Triton kernel for the hierarchical rule's network of every tensor; needs triton to be imported.

A program takes a tensor of one task: from the statistics of its gradients, its shape, the time and the loss to the size
of its step and to what it tells its coordinates. Legend: B tasks, K tensors, M momenta, S = 2M + 2 statistics, H hidden
units of the coordinates' network, T of a tensor's. Sizes of tiles are powers of two; what is beyond a layer is 0.
"""

import triton
import triton.language as tl

from l2o.native.triton_source import read, tanh
from l2o.optimizers import loss_trend, tensor_features
from l2o.optimizers.kernels.factors_triton_source import share, small
from l2o.optimizers.kernels.hierarchical_triton_source import relu, started

SMOOTHED, NO_HORIZON = tl.constexpr(tensor_features.SMOOTHED), tl.constexpr(tensor_features.UNKNOWN_HORIZON)
FAST, SLOW, SMALLEST = tl.constexpr(loss_trend.FAST), tl.constexpr(loss_trend.SLOW), tl.constexpr(loss_trend.SMALLEST)
PI, LOG_10 = tl.constexpr(3.141592653589793), tl.constexpr(2.302585092994046)


@triton.jit
def _within(x, low, high):
    """x from `low` to `high`. What is not a number stays so."""
    return tl.where(x < low, low, tl.where(x > high, high, x))


@triton.jit
def _is_finite(x):
    return tl.abs(x) < float("inf")


@triton.jit
def _of_losses(told_loss, of_all, task, tensor, RULE: tl.constexpr):
    """Give the three features of the loss; the first tensor's program takes up the task's loss."""
    number, first = tl.load(of_all.losses + 4 * task), tl.load(of_all.losses + 4 * task + 1)
    fast, slow = tl.load(of_all.losses + 4 * task + 2), tl.load(of_all.losses + 4 * task + 3)
    told = tl.load(told_loss + task)
    if RULE.settings.reads_loss:
        known = _is_finite(told)
        loss = tl.where(told < SMALLEST, SMALLEST, told)
        first = tl.where(known & (number == 0), loss, first)
        fast = tl.where(known, fast - (fast - loss) * (1 - FAST), fast)
        slow = tl.where(known, slow - (slow - loss) * (1 - SLOW), slow)
        number = tl.where(known, number + 1, number)
    if tensor == 0:
        to = of_all.new_losses + 4 * task
        tl.store(to, number)
        tl.store(to + 1, first)
        tl.store(to + 2, fast)
        tl.store(to + 3, slow)
    if not RULE.settings.reads_loss:
        none = number * 0
        return none, none, none
    count = tl.maximum(number, 1.0)
    now = tl.log(tl.maximum((fast / started(_double(FAST), count)).to(fast.dtype), SMALLEST))
    mean = tl.log(tl.maximum((slow / started(_double(SLOW), count)).to(fast.dtype), SMALLEST))
    some = number > 0
    since_start = _within(now - tl.log(tl.maximum(first, SMALLEST)), -9.0, 3.0) / 3
    return some.to(fast.dtype), tl.where(some, since_start, 0.0), tl.where(some, _within(now - mean, -1.0, 1.0), 0.0)


@triton.jit
def _double(number: tl.constexpr):
    return tl.full((), number, tl.float64)


@triton.jit
def _of_time(steps, horizons, task, RULE: tl.constexpr):
    """Give the four features of the time, and how large a step is now, from 0 to 1."""
    step, horizon = tl.load(steps + task), tl.load(horizons + task)
    horizon = tl.where(_is_finite(horizon), horizon, NO_HORIZON)
    share_done = step / horizon
    done = tl.where(share_done > 1, 1.0, share_done)
    rise = (step + 1) / tl.maximum(RULE.settings.warmup * horizon, 1.0)
    left = relu(1 - share_done)
    fall = 0.5 * (1 - tl.cos(left * PI)) if RULE.settings.cosine else left
    features = (done, done * done, tl.log(horizon) / LOG_10 / 2 - 1, tl.log(step + 1) / LOG_10 / 2 - 0.5)
    return features, tl.where(rise > 1, 1.0, rise) * fall


@triton.jit
def _added(layer, task, inputs, H: tl.constexpr, HP: tl.constexpr):
    """W x + b of a layer whose inputs are scalars: (HP,)."""
    unit = tl.arange(0, HP)
    y = tl.load(layer.bias + task * layer.bias_row + unit, unit < H, 0.0)
    weight = layer.weight + task * layer.weight_row
    for f in tl.static_range(len(inputs)):
        y += inputs[f] * tl.load(weight + unit * len(inputs) + f, unit < H, 0.0)
    return tl.where(unit < H, y, 0.0)  # an infinite input times a padded weight is nan


@triton.jit
def _multiplied(layer, task, x, columns: tl.constexpr, H: tl.constexpr, HP: tl.constexpr):
    """W x + b of a layer whose inputs are a vector with zeros behind its `columns` numbers: (HP,)."""
    unit = tl.arange(0, HP)
    w = read(layer.weight + task * layer.weight_row, unit, unit < H, columns, x.shape[0], columns)
    y = tl.sum(w * x[None, :], 1) + tl.load(layer.bias + task * layer.bias_row + unit, unit < H, 0.0)
    return tl.where(unit < H, y, 0.0)


@triton.jit
def of_tensors(
    tensors, num_tensors, num_units, seen, told, of_all, layers, sums, found, RULE: tl.constexpr, BLOCK: tl.constexpr
):
    """Ask the network of a tensor. Found are the bias of its coordinates' first layer, the root mean square of its
    step, and what multiplies its parameters: (B, K, H + 2)."""
    M: tl.constexpr = RULE.momenta
    S: tl.constexpr = RULE.num_sums
    SP: tl.constexpr = RULE.padded_sums
    tensor, task = share(num_tensors)
    place, plane = task * num_tensors + tensor, tl.num_programs(0)
    row = tensors + 3 * tensor
    first, count, size = tl.load(row), small(row + 1), tl.load(row + 2)
    column = tl.arange(0, SP)
    total = tl.zeros((BLOCK, SP), sums.dtype.element_ty)
    for begin in range(0, count, BLOCK):
        unit = begin + tl.arange(0, BLOCK)
        total += read(sums + (task * num_units + first) * S, unit, unit < count, S, SP, S)
    means = tl.sum(total, 0) / tl.maximum(size, 1)
    step = tl.load(of_all.step + place) + 1
    tl.store(of_all.new_step + place, step)
    correction = 1 / started(_double(SMOOTHED), step).to(step.dtype)
    squares, cosines = (), ()
    for s in tl.static_range(2 * M + 1):
        mean = tl.sum(tl.where(column == s, means, 0.0), 0)
        old = tl.load(of_all.statistics + s * plane + place)
        kept = old - (old - mean) * (1 - SMOOTHED)  # as torch.lerp has it, where a mean is infinite, too
        tl.store(of_all.new_statistics + s * plane + place, kept)
        if s <= M:
            squares = squares + (kept * correction,)
        else:
            size_of_both = tl.sqrt(squares[s - M] * squares[s - M - 1] + 1e-20)
            cosines = cosines + (kept * correction / size_of_both,)
    inputs = ()
    for s in tl.static_range(M + 1):
        inputs = inputs + (_within(tl.log(squares[s] + 1e-8), -9.0, 3.0) / 4 + 0.5,)
    theta = tl.sum(tl.where(column == S - 1, means, 0.0), 0)
    inputs = inputs + cosines + (tl.log(theta + 1e-12) / 8 + 0.5,)
    for f in tl.static_range(4):
        inputs = inputs + (tl.load(of_all.shapes + f * num_tensors + tensor),)
    of_time, now = _of_time(seen.step, told.horizon, task, RULE)
    inputs = inputs + of_time + _of_losses(told.loss, of_all, task, tensor, RULE)
    x = relu(_added(layers[1], task, inputs, RULE.units, RULE.padded_units))
    x = relu(_multiplied(layers[2], task, x, RULE.units, RULE.units, RULE.padded_units))
    out = _multiplied(layers[3], task, x, RULE.units, RULE.outputs, RULE.padded_outputs)
    o = tl.arange(0, RULE.padded_outputs)
    exponent = tl.sum(tl.where(o == 0, out, 0.0), 0) + tl.sum(_added(layers[0], task, inputs, 1, 2), 0)
    exponent = RULE.settings.largest_exponent * tanh(RULE.settings.gain * exponent / RULE.settings.largest_exponent)
    factor = 1.0 if RULE.settings.cosine else tl.exp(exponent)
    h = tl.arange(0, RULE.padded_hidden)
    columns: tl.constexpr = M + 1 + RULE.outputs
    # What a tensor tells multiplies the last columns: output o stands before column M + 1 + o.
    w = layers[4].weight + task * layers[4].weight_row + h[:, None] * columns + (M + 1 + o)[None, :]
    w = tl.load(w, (h < RULE.hidden)[:, None] & ((o > 0) & (o < RULE.outputs))[None, :], 0.0)
    told = tl.where(o > 0, out, 0.0)
    bias = tl.sum(w * told[None, :], 1)
    bias += tl.load(layers[4].bias + task * layers[4].bias_row + h, h < RULE.hidden, 0.0)
    found += place * (RULE.hidden + 2)
    tl.store(found + h, bias, h < RULE.hidden)
    square = tl.sum(tl.where(column == 1, means, 0.0), 0)
    tl.store(found + RULE.hidden, RULE.settings.step_mult * now * factor * tl.sqrt(square))
    tl.store(found + RULE.hidden + 1, 1 / tl.sqrt(theta + 1e-16))

"""The Triton kernel of `chain_triton`; needs triton to be imported.

A program takes one task: forward through the layers, whose outputs before the activation stay in registers, and back.
Tiles are (examples, outputs); what lies beyond the real examples and outputs is 0. The first layer takes its inputs in
blocks, because an example may have many numbers.
"""

import triton
import triton.language as tl

from l2o.native.triton_source import read
from l2o.optimizees.kernels.activations_triton_source import activated, sigmoid, slope_of
from l2o.optimizees.kernels.chain_links import Loss

CROSS_ENTROPY = tl.constexpr(int(Loss.CROSS_ENTROPY))
IGNORED = tl.constexpr(-100)  # the label of examples that torch's cross-entropy leaves out


@triton.jit
def _real(x, count, OUTPUTS: tl.constexpr):
    """x, with 0 beyond the real examples and outputs."""
    row, column = tl.arange(0, x.shape[0]), tl.arange(0, x.shape[1])
    return tl.where((row < count)[:, None] & (column < OUTPUTS)[None, :], x, 0.0)


@triton.jit
def _written(grad, theta, dw, first, rows, decay, CHAIN: tl.constexpr, N: tl.constexpr, DECAYS: tl.constexpr):
    """Write columns from `first` on of a weight's gradient; give what they add to the sum of the weights' squares."""
    weight = CHAIN.layers[N].weight + first
    there = rows < CHAIN.layers[N].outputs
    column = tl.arange(0, dw.shape[1])[None, :]
    offsets = rows[:, None] * CHAIN.layers[N].inputs + column
    mask = there[:, None] & (first + column < CHAIN.layers[N].inputs)
    w = tl.zeros_like(dw)
    if DECAYS:
        w = tl.load(theta + weight + offsets, mask, 0.0)
        dw += decay * w
    tl.store(grad + weight + offsets, dw, mask)
    return tl.sum(tl.sum(w * w, 1), 0)


@triton.jit
def _first(
    x, x_row, theta, rows, there, CHAIN: tl.constexpr, N: tl.constexpr, BLOCK: tl.constexpr, PRECISION: tl.constexpr
):
    """x Wᵀ of the first layer, whose inputs lie in memory."""
    INPUTS: tl.constexpr = CHAIN.layers[N].inputs
    OP: tl.constexpr = CHAIN.layers[N].padded_outputs
    o = tl.arange(0, OP)
    z = tl.zeros((rows.shape[0], OP), theta.dtype.element_ty)
    for first in range(0, INPUTS, BLOCK):
        k = first + tl.arange(0, BLOCK)
        part = tl.load(x + rows[:, None] * x_row + k[None, :], there[:, None] & (k < INPUTS)[None, :], 0.0)
        at = theta + CHAIN.layers[N].weight + o[:, None] * INPUTS + k[None, :]
        w = tl.load(at, (o < CHAIN.layers[N].outputs)[:, None] & (k < INPUTS)[None, :], 0.0)
        z = tl.dot(part, tl.trans(w), acc=z, input_precision=PRECISION)
    return z


@triton.jit
def _cross_entropy(z, labels, rows, count, CLASSES: tl.constexpr):
    """The mean cross-entropy of the real rows of z, and its gradient."""
    column = tl.arange(0, z.shape[1])[None, :]
    label = tl.load(labels + rows, rows < count, IGNORED)
    counted = label != IGNORED
    number = tl.sum(tl.where(counted, 1.0, 0.0), 0)
    inside = tl.where(column < CLASSES, z, float("-inf"))
    top = tl.max(inside, 1)
    e = tl.exp(inside - top[:, None])
    total = tl.sum(e, 1)
    own = tl.sum(tl.where(column == label[:, None], z, 0.0), 1)
    wrong = tl.where(counted & ((label < 0) | (label >= CLASSES)), float("nan"), 0.0)
    own += wrong
    losses = tl.where(counted, tl.log(total) + top - own, 0.0)
    dz = (e / total[:, None] - tl.where(column == label[:, None], 1.0, 0.0)) / number
    dz += wrong[:, None]
    return tl.sum(losses, 0) / number, tl.where(counted[:, None] & (column < CLASSES), dz, 0.0)


@triton.jit
def _sigmoid_squares(z, x, x_row, rows, count, WIDTH: tl.constexpr):
    """The mean of (x − sigmoid z)² over the real rows of z, and its gradient."""
    wanted = read(x, rows, rows < count, WIDTH, z.shape[1], x_row)
    out = sigmoid(z)
    off = _real(out - wanted, count, WIDTH)
    number = count * WIDTH
    return tl.sum(tl.sum(off * off, 1), 0) / number, 2 * off * out * (1 - out) / number


@triton.jit
def _hidden(z, count, CHAIN: tl.constexpr, N: tl.constexpr):
    """What a layer hands on, with zeros beyond what is real."""
    return _real(activated(z, CHAIN, N), count, CHAIN.layers[N].outputs)


@triton.jit
def _weight(theta, CHAIN: tl.constexpr, N: tl.constexpr):
    """The weight of a layer behind the first one, as a tile."""
    o = tl.arange(0, CHAIN.layers[N].padded_outputs)
    return read(
        theta + CHAIN.layers[N].weight,
        o,
        o < CHAIN.layers[N].outputs,
        CHAIN.layers[N].inputs,
        CHAIN.layers[N].padded_inputs,
        CHAIN.layers[N].inputs,
    )


@triton.jit
def _biased(z, theta, count, CHAIN: tl.constexpr, N: tl.constexpr):
    """z with the layer's bias, where it has one."""
    o = tl.arange(0, CHAIN.layers[N].padded_outputs)
    if CHAIN.layers[N].bias >= 0:
        z += tl.load(theta + CHAIN.layers[N].bias + o, o < CHAIN.layers[N].outputs, 0.0)[None, :]
    return _real(z, count, CHAIN.layers[N].outputs)


@triton.jit
def _of_outputs(d, z, grad, count, CHAIN: tl.constexpr, N: tl.constexpr):
    """Turn the derivative by what a layer hands on into that by z, and write the bias's gradient."""
    o = tl.arange(0, CHAIN.layers[N].padded_outputs)
    d = _real(d * slope_of(z, CHAIN, N), count, CHAIN.layers[N].outputs)
    if CHAIN.layers[N].bias >= 0:
        tl.store(grad + CHAIN.layers[N].bias + o, tl.sum(d, 0), o < CHAIN.layers[N].outputs)
    return d


@triton.jit
def _of_first_weight(
    d, x, x_row, rows, there, theta, grad, decay, CHAIN: tl.constexpr, N: tl.constexpr, DECAYS: tl.constexpr,
    BLOCK: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Write the gradient of the first layer's weight, block by block; give the sum of the weight's squares."""
    INPUTS: tl.constexpr = CHAIN.layers[N].inputs
    o = tl.arange(0, CHAIN.layers[N].padded_outputs)
    squares = tl.sum(tl.sum(tl.zeros_like(d), 1), 0)
    for first in range(0, INPUTS, BLOCK):
        k = first + tl.arange(0, BLOCK)
        part = tl.load(x + rows[:, None] * x_row + k[None, :], there[:, None] & (k < INPUTS)[None, :], 0.0)
        dw = tl.dot(tl.trans(d), part, input_precision=PRECISION)
        squares += _written(grad, theta, dw, first, o, decay, CHAIN, N, DECAYS)
    return squares


@triton.jit(do_not_specialize=["decay"])
def evaluate(
    theta, theta_row, x, x_task, x_row, labels, label_row, count, decay, losses, grad, grad_row,
    CHAIN: tl.constexpr, DECAYS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The loss of a task, and its gradient."""
    DEPTH: tl.constexpr = CHAIN.depth
    NP: tl.constexpr = CHAIN.padded_examples
    PRECISION: tl.constexpr = CHAIN.precision
    task = tl.program_id(0).to(tl.int64)
    theta += task * theta_row
    x += task * x_task
    grad += task * grad_row
    rows = tl.arange(0, NP).to(tl.int64)  # a view may have its rows far apart
    there = rows < count
    z = _first(x, x_row, theta, rows, there, CHAIN, 0, BLOCK, PRECISION)
    before = (_biased(z, theta, count, CHAIN, 0),)  # what every layer gives, before its activation
    for n in tl.static_range(1, DEPTH):
        a = _hidden(before[n - 1], count, CHAIN, n - 1)
        z = tl.dot(a, tl.trans(_weight(theta, CHAIN, n)), input_precision=PRECISION)
        before = before + (_biased(z, theta, count, CHAIN, n),)
    out = _hidden(before[DEPTH - 1], count, CHAIN, DEPTH - 1)
    if CHAIN.loss == CROSS_ENTROPY:
        loss, d = _cross_entropy(out, labels + task * label_row, rows, count, CHAIN.layers[DEPTH - 1].outputs)
    else:
        loss, d = _sigmoid_squares(out, x, x_row, rows, count, CHAIN.layers[DEPTH - 1].outputs)
    squares = tl.sum(tl.zeros((NP,), theta.dtype.element_ty), 0)
    for n in tl.static_range(DEPTH - 1, 0, -1):
        d = _of_outputs(d, before[n], grad, count, CHAIN, n)
        a = _hidden(before[n - 1], count, CHAIN, n - 1)
        o = tl.arange(0, d.shape[1])
        dw = tl.dot(tl.trans(d), a, input_precision=PRECISION)
        squares += _written(grad, theta, dw, 0, o, decay, CHAIN, n, DECAYS)
        d = tl.dot(d, _weight(theta, CHAIN, n), input_precision=PRECISION)
    d = _of_outputs(d, before[0], grad, count, CHAIN, 0)
    squares += _of_first_weight(
        d, x, x_row, rows, there, theta, grad, decay, CHAIN, 0, DECAYS, BLOCK, PRECISION
    )  # fmt: skip
    if DECAYS:
        loss += 0.5 * decay * squares
    tl.store(losses + task, loss)

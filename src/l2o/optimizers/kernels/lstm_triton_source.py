"""The Triton kernels of `lstm_triton`; needs triton to be imported.

Legend: N coordinates (all tasks'), F features of a coordinate, H hidden units, L layers, K steps; M coordinates of a
block. Triton's tiles have powers of two as sizes: FP, HP >= 8 are F, H padded, with zeros. A tile (M, 4 HP) of gate
pre-activations a keeps the four gates of a unit side by side, column 4 j + q for gate q of unit j: they lie in one
thread and are taken apart without moving.

Layers go one after another, each over the whole window: forward from the lowest, then backward from the highest. Only
one layer's weight gradients are alive at a time. What a layer hands to another goes through the program's workspace,
written by some threads and read by others: hence the barrier after each layer's pass.
"""

import triton
import triton.language as tl

from l2o.native.triton_source import read, tanh, tile, write


@triton.jit
def _add(base, value, rows, there, width: tl.constexpr, first):
    """Add to what this program has written before; the first time there is nothing yet."""
    offsets, mask = tile(rows, there, width, value.shape[1], width, 1)
    tl.store(base + offsets, value + tl.load(base + offsets, mask & (not first), 0.0), mask)


@triton.jit
def _sigmoid(x):
    return 1 / (1 + tl.exp(-x))


@triton.jit
def _gate_rows(H: tl.constexpr, HP: tl.constexpr):
    """For each of the 4 HP columns: torch's gate row, q H + j, and whether unit j is a real one."""
    column = tl.arange(0, 4 * HP)
    return column % 4 * H + column // 4, column // 4 < H


@triton.jit
def _cell(x, h, c, weights, F: tl.constexpr, H: tl.constexpr, PRECISION: tl.constexpr):
    """One layer's step: x (M, FP), h and c (M, HP) -> i, f, g, o, c', tanh c' (M, HP)."""
    w_ih, w_hh, b_ih, b_hh = weights
    HP: tl.constexpr = h.shape[1]
    rows, real = _gate_rows(H, HP)
    a = tl.dot(x, tl.trans(read(w_ih, rows, real, F, x.shape[1], F)), input_precision=PRECISION)
    a = tl.dot(h, tl.trans(read(w_hh, rows, real, H, HP, H)), acc=a, input_precision=PRECISION)
    a += (tl.load(b_ih + rows, real, 0.0) + tl.load(b_hh + rows, real, 0.0))[None, :]
    a = tl.where(real[None, :], a, 0.0)  # an infinite feature times a padded weight is nan
    i_and_g, f_and_o = tl.split(tl.reshape(a, (h.shape[0], HP, 2, 2)))
    i, g = tl.split(i_and_g)
    f, o = tl.split(f_and_o)
    i, f, g, o = _sigmoid(i), _sigmoid(f), tanh(g), _sigmoid(o)
    c = f * c + i * g
    return i, f, g, o, c, tanh(c)


@triton.jit(do_not_specialize=["N", "feature_stride"])
def step_kernel(
    layers, head, features, hidden, cell, out, new_hidden, new_cell, N, feature_stride,
    F: tl.constexpr, FP: tl.constexpr, H: tl.constexpr, HP: tl.constexpr, L: tl.constexpr,
    M: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One step of a block of coordinates, all layers and the head. States are (H, N)."""
    n = tl.program_id(0).to(tl.int64) * M + tl.arange(0, M)
    there = n < N
    N, feature_stride = N.to(tl.int64), feature_stride.to(tl.int64)  # offsets may pass 2³¹
    x = read(features, n, there, F, FP, 1, feature_stride)
    for layer in tl.static_range(L):
        h = read(hidden[layer], n, there, H, HP, 1, N)
        c = read(cell[layer], n, there, H, HP, 1, N)
        tl.debug_barrier()  # the new state may lie where the old one does
        _, _, _, o, c, tanh_c = _cell(x, h, c, layers[layer], H if layer else F, H, PRECISION)
        x = o * tanh_c
        write(new_hidden[layer], x, n, there, H, 1, N)
        write(new_cell[layer], c, n, there, H, 1, N)
    unit = tl.arange(0, HP)
    w = tl.load(head[0] + unit, unit < H, 0.0)
    tl.store(out + n, tl.sum(x * w[None, :], 1) + tl.load(head[1]), there)


@triton.jit
def _inputs_gradient(gates, w, width: tl.constexpr, padded: tl.constexpr, H: tl.constexpr, PRECISION: tl.constexpr):
    """Σ_q dL/da_q (M, HP) · W_q, gate by gate: a single product over 4 HP would take twice the registers there are."""
    HP: tl.constexpr = gates[0].shape[1]
    unit = tl.arange(0, HP)
    dx = tl.zeros((gates[0].shape[0], padded), w.dtype.element_ty)
    for q in tl.static_range(4):
        dx = tl.dot(gates[q], read(w, q * H + unit, unit < H, width, padded, width), acc=dx, input_precision=PRECISION)
    return dx


@triton.jit
def _forward(
    inputs, input_rows, input_there, strides, F: tl.constexpr, FP: tl.constexpr, h, c, h_plane, c_plane,
    weights, steps, H: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """A layer's pass over the window, which leaves h_0 … h_K and c_0 … c_{K−1} in their planes (M, H). Strides of the
    inputs: step, row, column.
    """
    M: tl.constexpr = h.shape[0]
    m = tl.arange(0, M)
    write(h_plane, h, m, m < M, H, H)
    for t in range(steps):  # noqa: B007
        write(c_plane, c, m, m < M, H, H)
        x = read(inputs, input_rows, input_there, F, FP, strides[1], strides[2])
        _, _, _, o, c, tanh_c = _cell(x, h, c, weights, F, H, PRECISION)
        h = o * tanh_c
        inputs += strides[0]
        h_plane += M * H
        c_plane += M * H
        write(h_plane, h, m, m < M, H, H)
    tl.debug_barrier()


@triton.jit
def _backward(
    inputs, input_rows, input_there, strides, F: tl.constexpr, FP: tl.constexpr, h_plane, c_plane, above, below,
    cotangent, n, there, N, weights, head, gradient, first, steps,
    M: tl.constexpr, H: tl.constexpr, HP: tl.constexpr, TOP: tl.constexpr, BOTTOM: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """A layer's pass back over the window. dL/dh_t' of this layer comes from `above`, that of the lower one goes
    `below`; the gates are computed again from the planes.
    """
    dtype: tl.constexpr = h_plane.dtype.element_ty
    m, unit = tl.arange(0, M), tl.arange(0, HP)
    rows, real = _gate_rows(H, HP)
    dh, dc = tl.zeros((M, HP), dtype), tl.zeros((M, HP), dtype)
    dw_ih, dw_hh, db = tl.zeros((4 * HP, FP), dtype), tl.zeros((4 * HP, HP), dtype), tl.zeros((4 * HP,), dtype)
    dw_head, db_head = tl.zeros((HP,), dtype), tl.zeros((M,), dtype)
    for back in range(steps):
        t = (steps - 1 - back).to(tl.int64)
        x = read(inputs + t * strides[0], input_rows, input_there, F, FP, strides[1], strides[2])
        h = read(h_plane + t * (M * H), m, m < M, H, HP, H)
        c = read(c_plane + t * (M * H), m, m < M, H, HP, H)
        i, f, g, o, _, tanh_c = _cell(x, h, c, weights, F, H, PRECISION)
        if TOP:
            d = tl.load(cotangent + t * N + n, there, 0.0)
            dh += d[:, None] * tl.load(head[0] + unit, unit < H, 0.0)[None, :]
            dw_head += tl.sum(d[:, None] * (o * tanh_c), 0)
            db_head += d
        else:
            dh += read(above + t * (M * H), m, m < M, H, HP, H)
        dc += dh * o * (1 - tanh_c * tanh_c)
        da_i, da_f = dc * g * i * (1 - i), dc * c * f * (1 - f)
        da_g, da_o = dc * i * (1 - g * g), dh * tanh_c * o * (1 - o)
        dc *= f
        gates = (da_i, da_f, da_g, da_o)
        da = tl.reshape(tl.join(tl.join(da_i, da_g), tl.join(da_f, da_o)), (M, 4 * HP))
        db += tl.sum(da, 0)
        dw_ih = tl.dot(tl.trans(da), x, acc=dw_ih, input_precision=PRECISION)
        dw_hh = tl.dot(tl.trans(da), h, acc=dw_hh, input_precision=PRECISION)
        if not BOTTOM:
            write(below + t * (M * H), _inputs_gradient(gates, weights[0], F, FP, H, PRECISION), m, m < M, H, H)
        dh = _inputs_gradient(gates, weights[1], H, HP, H, PRECISION)
    _add(gradient, dw_ih, rows, real, F, first)
    _add(gradient + 4 * H * F, dw_hh, rows, real, H, first)
    _add(gradient + 4 * H * (F + H), db[:, None], rows, real, 1, first)
    _add(gradient + 4 * H * (F + H + 1), db[:, None], rows, real, 1, first)
    if TOP:
        to = gradient + 4 * H * (F + H + 2)
        _add(to, dw_head[:, None], unit, unit < H, 1, first)
        tl.store(to + H, tl.sum(db_head, 0) + tl.load(to + H, not first, 0.0))
    tl.debug_barrier()


@triton.jit(do_not_specialize=["N", "steps", "step_stride", "feature_stride"])
def window_kernel(
    layers, head, features, hidden, cell, cotangent, workspace, gradient, N, steps, step_stride, feature_stride,
    workspace_size, gradient_size,
    F: tl.constexpr, FP: tl.constexpr, H: tl.constexpr, HP: tl.constexpr, L: tl.constexpr,
    M: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Blocks p, p + P, p + 2 P … of program p of P, and the sum of their gradients, in the order of the weights.

    Workspace: per layer K + 1 planes (M, H) of h and as many of c, then twice K planes for what layers hand down.
    """
    program = tl.program_id(0).to(tl.int64)
    workspace += program * workspace_size
    gradient += program * gradient_size
    plane: tl.constexpr = M * H
    state = (steps + 1) * plane
    m = tl.arange(0, M)
    N, feature_stride = N.to(tl.int64), feature_stride.to(tl.int64)  # offsets may pass 2³¹
    strides = (step_stride, 1, feature_stride)
    for block in range(program, tl.cdiv(N, M), tl.num_programs(0)):
        n = block * M + m
        there = n < N
        for layer in tl.static_range(L):
            h = read(hidden[layer], n, there, H, HP, 1, N)
            c = read(cell[layer], n, there, H, HP, 1, N)
            to = workspace + 2 * layer * state
            if layer == 0:
                _forward(features, n, there, strides, F, FP, h, c, to, to + state, layers[0], steps, H, PRECISION)
            else:
                inputs = to - 2 * state + plane
                _forward(
                    inputs, m, m < M, (plane, H, 1), H, HP, h, c, to, to + state, layers[layer], steps, H, PRECISION
                )
        for layer in tl.static_range(L - 1, -1, -1):
            to = workspace + 2 * layer * state
            above = workspace + 2 * L * state + layer % 2 * steps * plane
            below = workspace + 2 * L * state + (1 - layer % 2) * steps * plane
            if layer == 0:
                _backward(
                    features, n, there, strides, F, FP, to, to + state, above, below, cotangent, n, there, N,
                    layers[0], head, gradient, block == program, steps, M, H, HP, L == 1, True, PRECISION,
                )  # fmt: skip
            else:
                offset = 4 * H * (F + H + 2 + (layer - 1) * (2 * H + 2))
                inputs = to - 2 * state + plane
                _backward(
                    inputs, m, m < M, (plane, H, 1), H, HP, to, to + state, above, below, cotangent, n, there, N,
                    layers[layer], head, gradient + offset, block == program, steps, M, H, HP, layer == L - 1, False,
                    PRECISION,
                )  # fmt: skip

"""What the Triton kernels of `coordinate_mlp_triton_source` ask the network about; needs triton to be imported.

A value of a block of coordinates is a tile (BLOCK,), and a group of features a tuple of them, one for each decay: the
features are never joined to a matrix. `tensor` is a tensor's row in the table of tensors (`coordinate_mlp_units`).
"""

import triton
import triton.language as tl

from l2o.optimizers.kernels.factors_triton_source import (
    FACTORED,
    LINES,
    MAJOR,
    MINOR,
    ROWS_ARE_MAJOR,
    C,
    M,
    X,
    Y,
    clipped,
    mixed,
    small,
)
from l2o.optimizers.kernels.recipe import Feature

(
    GRAD, CLIPPED_GRAD, THETA, MOMENTA, SQUARES, SCALED_MOMENTA, ROOT, FACTORED_GRAD, SCALED_GRAD, ROWS, COLUMNS,
    RSQRT_ROWS, RSQRT_COLUMNS, FACTORED_MOMENTA,
) = (tl.constexpr(int(feature)) for feature in Feature)  # fmt: skip


@triton.jit
def _floored(x):
    return tl.where(x < 1e-9, 1e-9, x)


@triton.jit
def _places(tensor, i):
    """Where coordinates find their numbers of r, of c, and their line, among those of their tensor."""
    X_, M_, Y_, C_ = small(tensor + X), small(tensor + M), small(tensor + Y), small(tensor + C)
    c, y, outer = i % C_, i // C_ % Y_, i // C_ // Y_
    of_both = outer // (M_ * X_) * M_ + outer % M_  # on A and M together
    row, column = outer * C_ + c, (of_both * Y_ + y) * C_ + c
    by_rows = small(tensor + ROWS_ARE_MAJOR) != 0
    return tl.where(by_rows, row, column), tl.where(by_rows, column, row), of_both * C_ + c


@triton.jit
def factors_of(tensor, i, there, square, task, moments, decays, RULE: tl.constexpr, UPDATES: tl.constexpr):
    """Give R·C for ∇, the same for a momentum, r, c and their inverse roots, each of them for every decay.

    A tensor with fewer than two axes has one second moment w in their place, which is updated in the first pass.
    """
    NUM_FACTORS: tl.constexpr = RULE.factors
    factored = tl.broadcast_to(tl.load(tensor + FACTORED), i.shape)  # the interpreter has no masks from single numbers
    has_factors, has_none = factored != 0, factored == 0
    at_r, at_c, line = _places(tensor, i)
    at_r += tl.load(tensor + MAJOR)
    at_c += tl.load(tensor + MINOR)
    line += tl.load(tensor + LINES)
    if UPDATES:
        w = mixed(moments.major, decays, square + 1e-30, at_r, there & has_none, task, NUM_FACTORS, True)
        r_of = kept(moments.major, at_r, there & has_factors, task, NUM_FACTORS)
    else:
        r_of = kept(moments.major, at_r, there, task, NUM_FACTORS)
    c_of = kept(moments.minor, at_c, there & has_factors, task, NUM_FACTORS)
    mean_of = kept(moments.means, line, there & has_factors, task, NUM_FACTORS)
    scales, of_momenta, rows, columns, rsqrt_rows, rsqrt_columns = (), (), (), (), (), ()
    for k in tl.static_range(NUM_FACTORS):
        r, c, mean = r_of[k], c_of[k], mean_of[k]
        if UPDATES:
            r = tl.where(has_factors, r, w[k])
        scale = tl.rsqrt(_floored(tl.where(has_factors, r / (mean + 1e-9), r + 1e-9)))
        scale *= tl.where(has_factors, tl.rsqrt(_floored(c)), 1.0)
        of_momentum = tl.where(has_factors, scale, tl.rsqrt(r + RULE.vector_eps))
        c = tl.where(has_factors, c, r)
        roots = tl.rsqrt(r + 1e-8), tl.rsqrt(c + 1e-8)
        if not RULE.vectors:  # tensors with fewer than two axes show nothing but ∇·R·C
            shown = tl.where(has_factors, 1.0, 0.0)
            of_momentum, r, c, roots = of_momentum * shown, r * shown, c * shown, (roots[0] * shown, roots[1] * shown)
        scales, of_momenta, rows, columns = scales + (scale,), of_momenta + (of_momentum,), rows + (r,), columns + (c,)
        rsqrt_rows, rsqrt_columns = rsqrt_rows + (roots[0],), rsqrt_columns + (roots[1],)
    return scales, of_momenta, rows, columns, rsqrt_rows, rsqrt_columns


@triton.jit
def _times(values, factor):
    """Each of the values times one factor."""
    products = ()
    for k in tl.static_range(len(values)):
        products = products + (values[k] * factor,)
    return products


@triton.jit
def features_of(g, p, m, v, factors, RULE: tl.constexpr):
    """Give the features in the order of the first layer's columns, not normalised; v and the factors may be empty."""
    scales, of_momenta, rows, columns, rsqrt_rows, rsqrt_columns = factors
    NUM_MOMENTA: tl.constexpr = RULE.momenta
    features, s = (), ()
    if RULE.squares:
        s = (tl.rsqrt(v[0] + RULE.square_eps),)
    for n in tl.static_range(len(RULE.features)):
        if RULE.features[n] == GRAD:
            features = features + (g,)
        elif RULE.features[n] == CLIPPED_GRAD:
            features = features + (clipped(g, 0.1),)
        elif RULE.features[n] == THETA:
            features = features + (p,)
        elif RULE.features[n] == MOMENTA:
            features = features + m
        elif RULE.features[n] == SQUARES:
            features = features + v
        elif RULE.features[n] == SCALED_MOMENTA:
            features = features + _times(m, s[0])
        elif RULE.features[n] == ROOT:
            features = features + s
        elif RULE.features[n] == FACTORED_GRAD:
            features = features + _times(scales, g)
        elif RULE.features[n] == SCALED_GRAD:
            features = features + _times(s, g)
        elif RULE.features[n] == ROWS:
            features = features + rows
        elif RULE.features[n] == COLUMNS:
            features = features + columns
        elif RULE.features[n] == RSQRT_ROWS:
            features = features + rsqrt_rows
        elif RULE.features[n] == RSQRT_COLUMNS:
            features = features + rsqrt_columns
        elif RULE.features[n] == FACTORED_MOMENTA:
            for k in tl.static_range(NUM_MOMENTA):
                features = features + (m[k] * of_momenta[k],)
    return features


@triton.jit
def kept(moment, at, there, task, COUNT: tl.constexpr):
    """Read an accumulator of some coordinates, for every decay."""
    now, values = moment.now + task * moment.row + at, ()
    for _ in tl.static_range(COUNT):
        values = values + (tl.load(now, there, 0.0),)
        now += moment.plane
    return values

"""What rules that ask a small network about every coordinate do at a step, told so that any kernel can do it.

Shapes: B tasks, P coordinates, M decays of the momenta and of the factored second moments.
"""

import math
from enum import IntEnum
from typing import NamedTuple

from l2o.optimizees.layout import Layout


class Feature(IntEnum):
    """Name a group of features of a coordinate: one feature, or one for each decay. The C++ source knows the numbers.

    s = (v + ε)^−½ is the inverse root of the second moment; r, c, R and C are the factored second moments and their
    scales (`l2o.optimizers.accumulators.factored`).
    """

    GRAD = 0  # ∇
    CLIPPED_GRAD = 1  # ∇, clipped to ±0.1
    THETA = 2  # θ
    MOMENTA = 3  # m, one for each decay
    SQUARES = 4  # v
    SCALED_MOMENTA = 5  # m · s, one for each decay
    ROOT = 6  # s
    FACTORED_GRAD = 7  # ∇ · R · C, one for each decay
    SCALED_GRAD = 8  # ∇ · s
    ROWS = 9  # r, one for each decay, as are all that follow
    COLUMNS = 10  # c
    RSQRT_ROWS = 11  # (r + 10⁻⁸)^−½
    RSQRT_COLUMNS = 12  # (c + 10⁻⁸)^−½
    FACTORED_MOMENTA = 13  # m · R · C


FACTORS = frozenset(
    {
        Feature.FACTORED_GRAD,
        Feature.ROWS,
        Feature.COLUMNS,
        Feature.RSQRT_ROWS,
        Feature.RSQRT_COLUMNS,
        Feature.FACTORED_MOMENTA,
    }
)
"""The groups that read factored second moments. A recipe has all of them, or none."""


class Recipe(NamedTuple):
    """Say how a rule turns the accumulators of a coordinate into a direction; the same at every step.

    The features, in this order, are the first inputs of the network. Each is divided by the root of `norm_eps` plus its
    mean square. The last inputs are tanh(t/τ − 1) for each τ of `timescales`. Of the network's outputs d, a, … the
    direction is d · exp(exp_mult · a), and d alone where `exp_mult` is 0.
    """

    features: tuple[Feature, ...]
    norm_eps: float
    square_eps: float = 0.0  # ε in s
    vector_eps: float = 0.0  # a momentum of a tensor with fewer than two axes is scaled by (w + vector_eps)^−½
    limit: float = math.inf  # what a gradient is clipped to
    matrices: bool = False  # mean squares are of a tensor's last two axes, not of the whole tensor
    vectors: bool = True  # features from ROWS on are 0 for tensors with fewer than two axes where this is False
    timescales: tuple[float, ...] = ()
    exp_mult: float = 0.0
    relative: bool = False  # the direction is multiplied by (mean θ² + 10⁻⁹)^½ of the tensor
    output_eps: float | None = None  # the direction is divided by the root of this plus its own mean square, if given


def served_layout(layout: Layout, served: tuple[str, ...]) -> Layout:
    """Give the layout of the tensors that the network serves, which lie in the whole layout's order."""
    return layout if len(served) == len(layout.shapes) else layout.of(served)

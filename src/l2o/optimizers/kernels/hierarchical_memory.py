"""What the implementations of the hierarchical rule's passes have in common.

Shapes: B tasks, P coordinates, M momenta.
"""

from typing import NamedTuple

from torch import Tensor

EPS = 1e-8
"""ε of ∇ / (√v̂ + ε)."""

LARGEST_INPUT = 10.0
"""What the inputs of the coordinates' network are clipped to, plus and minus."""


class Memory(NamedTuple):
    """Hold what is remembered of every coordinate."""

    momenta: Tensor  # (M, B, P)
    square: Tensor  # (B, P)

"""What the hierarchical rule sees of each tensor: its gradients, its shape, and the time.

Shapes: B tasks, K tensors, M momenta.
"""

import functools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from l2o.optimizees.layout import Layout
from l2o.optimizers.accumulators import constant
from l2o.optimizers.base import Observation

SMOOTHED = 0.9
"""The decay of the running means of a tensor's statistics."""

UNKNOWN_HORIZON = 1e6
"""How many steps an episode counts as having where nobody knows it."""


def of_gradients(found: Tensor, before: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
    """Give 2M + 1 features of every tensor, (2M + 1, B, K), and the running means that they are made of.

    They are the logarithms of the root mean squares of ∇ and the M momenta, and the cosines between neighbours.
    """
    kept = torch.lerp(found, before, SMOOTHED)
    now = kept / (1 - SMOOTHED**step)
    count = len(now) // 2 + 1
    squares, cross = now[:count], now[count:]
    cosines = cross / (squares[1:] * squares[:-1] + 1e-20).sqrt()
    return torch.cat(((squares + 1e-8).log().clamp(-9, 3) / 4 + 0.5, cosines)), kept


def of_shapes(layout: Layout, like: Tensor) -> Tensor:
    """Give four features of each tensor's shape, (4, 1, K): whether it has two axes or more, and logarithms of its size
    and of how many inputs and outputs a layer with this weight has."""
    shapes = tuple(layout.shapes.values())
    return constant(_numbers(shapes), like).view(4, 1, len(shapes))


@functools.lru_cache(maxsize=64)
def _numbers(shapes: tuple[Sequence[int], ...]) -> tuple[float, ...]:
    """Return the first feature of all shapes, then the second one, and so on."""
    features = [_numbers_of_one(shape) for shape in shapes]
    return tuple(feature[i] for i in range(4) for feature in features)


def _numbers_of_one(shape: Sequence[int]) -> tuple[float, float, float, float]:
    size = math.log(max(1, math.prod(shape))) / 8 - 0.5
    if len(shape) < 2:
        return 0.0, size, 0.0, 0.0
    outputs = max(1, shape[-1 if len(shape) > 2 else 0])  # rules see the outputs of a kernel last
    inputs = max(1, math.prod(shape) // outputs)
    return 1.0, size, math.log(inputs) / 4 - 1, math.log(outputs) / 4 - 1


def of_time(seen: Observation) -> Tensor:
    """Give four features of the time, (4, B): t/T, (t/T)², and the logarithms of T and t."""
    horizon = torch.where(seen.horizon.isfinite(), seen.horizon, UNKNOWN_HORIZON)
    done = (seen.step / horizon).clamp(max=1.0)
    return torch.stack((done, done**2, horizon.log10() / 2 - 1, (seen.step + 1).log10() / 2 - 0.5))

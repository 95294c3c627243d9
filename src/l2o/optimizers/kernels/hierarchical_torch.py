"""The hierarchical rule's passes over the coordinates, in plain torch: the reference, which autograd can record.

Shapes: B tasks, P coordinates, K tensors, M momenta, H hidden units.
"""

import math

import torch
from torch import Tensor

from l2o.optimizees.layout import Layout
from l2o.optimizers.accumulators import constant, mixed
from l2o.optimizers.base import Observation
from l2o.optimizers.kernels.hierarchical_memory import EPS, LARGEST_INPUT, Memory
from l2o.optimizers.mlp import linear


def remember(
    seen: Observation, memory: Memory, layout: Layout, decays: tuple[float, ...], correct: Tensor
) -> tuple[Memory, Tensor]:
    """Take up a gradient; give the new memory, and means over each tensor (2M + 2, B, K).

    `decays` are those of the M momenta, then that of the square; `correct` (M + 1, B, K) corrects each for its start
    at 0. The means are of ∇², of the momenta's squares, of the products of neighbours (∇ is the first momentum's), all
    of them over √v̂ + ε, and of θ².
    """
    momenta = mixed(constant(decays[:-1], seen.grad), memory.momenta, seen.grad)
    square = torch.addcmul(decays[-1] * memory.square, seen.grad, seen.grad, value=1 - decays[-1])
    memory = Memory(momenta, square)
    planes = _normalised(seen, memory, layout, correct)
    products = torch.cat((planes.square(), planes[1:] * planes[:-1], seen.theta.square()[None]))
    return memory, means(products, layout)


def direction(
    seen: Observation,
    memory: Memory,
    layout: Layout,
    correct: Tensor,
    theta_scale: Tensor,
    weights: list[Tensor],
    bias: Tensor,
    scale: Tensor,
) -> Tensor:
    """Give g (B, P), of root mean square `scale` (B, K) in every tensor.

    The inputs of the network are ∇ and the momenta over √v̂ + ε, and θ times `theta_scale` (B, K). `weights` are W_0
    (H, M + 2), W_1 (H, H), b_1 (H,), w_2 (1, H), b_2 (1,), each with a leading axis of tasks or without; the first
    layer's bias (H, B, K) is a tensor's own.
    """
    first, *rest = weights
    planes = _normalised(seen, memory, layout, correct)
    theta = (seen.theta * layout.spread(theta_scale))[None]
    features = torch.cat((planes, theta)).clamp(-LARGEST_INPUT, LARGEST_INPUT)
    hidden = linear(features, first, first.new_zeros(first.shape[:-1])) + torch.stack(
        [layout.spread(unit).expand_as(seen.grad) for unit in bias]
    )
    out = linear(linear(hidden.relu(), *rest[:2]).relu(), *rest[2:])[0]
    found = planes[1] + out
    own = means(found.square()[None], layout)[0]
    return -layout.spread(scale / (own + 1e-16).sqrt()) * found


def means(planes: Tensor, layout: Layout) -> Tensor:
    """Give the mean of each plane over each tensor, 0 for an empty one: (F, B, P) -> (F, B, K)."""
    sizes = [math.prod(shape) for shape in layout.shapes.values()]
    parts = planes.split(sizes, -1)
    found = [part.sum(-1) / max(1, size) for part, size in zip(parts, sizes, strict=True)]
    return torch.stack(found, -1) if found else planes[..., :0]


def _normalised(seen: Observation, memory: Memory, layout: Layout, correct: Tensor) -> Tensor:
    """Give ∇ and the momenta over √v̂ + ε, (M + 1, B, P)."""
    inverse = 1 / ((memory.square * layout.spread(correct[-1])).sqrt() + EPS)
    corrected = torch.stack([layout.spread(part).expand_as(inverse) for part in correct[:-1]])
    return torch.cat(((seen.grad * inverse)[None], memory.momenta * corrected * inverse))

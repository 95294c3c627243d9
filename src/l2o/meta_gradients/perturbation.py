"""The trained part of φ as one vector, moved by noise of each pair's own.

Shapes: N pairs, D numbers of φ that are trained.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from l2o.optimizers.base import UpdateRule
from l2o.optimizers.phi import trainable, with_phi


@contextmanager
def perturbed(rule: UpdateRule, noise: Tensor) -> Iterator[None]:
    """Serve the first N tasks with φ + ε_i and the next N with φ − ε_i within this block, for ε (N, D)."""
    middle, trained = centre(rule), trainable(rule)
    rows = torch.cat((middle + noise, middle - noise)).split([p.numel() for p in trained.values()], 1)
    each = zip(trained.items(), rows, strict=True)
    with with_phi(rule, {name: part.reshape(len(part), *p.shape).to(p.dtype) for (name, p), part in each}):
        yield


def centre(rule: UpdateRule) -> Tensor:
    """Give the trained part of φ as one vector, (D,)."""
    parts = [parameter.detach().flatten() for parameter in trainable(rule).values()]
    return torch.cat(parts) if parts else torch.zeros(0)


def in_order(rule: UpdateRule, gradient: Tensor) -> list[Tensor]:
    """Give a gradient (D,) as one tensor for each of `rule.parameters()`, with zeros for the frozen ones."""
    parts = iter(gradient.split([parameter.numel() for parameter in trainable(rule).values()]))
    return [next(parts).view_as(p).to(p.dtype) if p.requires_grad else torch.zeros_like(p) for p in rule.parameters()]

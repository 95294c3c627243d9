"""Random matrices with chosen spectra, for problems whose condition is known.

Shapes: B tasks, D dimensions.
"""

from collections.abc import Sequence
from math import log

import torch
from torch import Generator, Tensor

Range = float | Sequence[float]
"""A number, or the two ends of a range from which every task draws its own, uniformly in the logarithm."""


def ends(name: str, given: Range, least: float) -> tuple[float, float]:
    """Return the two ends of a range. Raises ValueError, naming the argument, unless least ≤ low ≤ high and 0 < low."""
    pair = (given, given) if isinstance(given, (int, float)) else tuple(given)
    if len(pair) != 2 or not least <= pair[0] <= pair[1] or not pair[0] > 0:
        raise ValueError(f"{name} must be a number or a range [low, high], positive and at least {least}, got {given}")
    return pair[0], pair[1]


def log_uniform(pair: tuple[float, float], num_tasks: int, generator: Generator) -> Tensor:
    """Draw a number for each task (B, 1), uniformly in the logarithm between two ends."""
    low, high = (log(end) for end in pair)
    return (low + (high - low) * torch.rand(num_tasks, 1, generator=generator, device=generator.device)).exp()


def eigenvalues(condition: Tensor, dim: int) -> Tensor:
    """Return D numbers from 1 down to 1 / condition, evenly in the logarithm: (B, 1) -> (B, D)."""
    places = torch.linspace(0, 1, dim, device=condition.device, dtype=condition.dtype)
    return condition**-places


def rotations(num_tasks: int, dim: int, generator: Generator) -> Tensor:
    """Draw orthogonal matrices (B, D, D), uniformly."""
    q, r = torch.linalg.qr(torch.randn(num_tasks, dim, dim, generator=generator, device=generator.device))
    return q * r.diagonal(dim1=-2, dim2=-1).sign()[:, None, :]  # without the signs the draw would not be uniform

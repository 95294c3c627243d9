"""Where each named part of θ lies in the flat vector.

Shapes: P coordinates of one optimizee; `...` any leading axes (tasks).
"""

from collections.abc import Mapping, Sequence
from math import prod

import torch
from torch import Tensor, nn


class Layout:
    """Names, shapes and slices of the parts of a flat parameter vector (P,), in order."""

    def __init__(self, shapes: Mapping[str, Sequence[int]]):
        self.shapes = {name: tuple(shape) for name, shape in shapes.items()}
        self.slices: dict[str, slice] = {}
        start = 0
        for name, shape in self.shapes.items():
            self.slices[name] = slice(start, start + prod(shape))
            start += prod(shape)
        self.size = start

    @classmethod
    def of_module(cls, module: nn.Module) -> "Layout":
        """The layout of a network's parameters, in the order of `named_parameters`."""
        return cls({name: parameter.shape for name, parameter in module.named_parameters()})

    def unravel(self, theta: Tensor) -> dict[str, Tensor]:
        """(..., P) -> name: (..., *shape); views, nothing is copied."""
        parts = theta.split([prod(shape) for shape in self.shapes.values()], dim=-1)  # one backward for all of them
        return {
            name: part.reshape((*theta.shape[:-1], *shape))
            for (name, shape), part in zip(self.shapes.items(), parts, strict=True)
        }

    def ravel(self, parts: Mapping[str, Tensor]) -> Tensor:
        """name: (..., *shape) -> (..., P)."""
        flat = [
            parts[name].reshape(*parts[name].shape[: parts[name].ndim - len(shape)], -1)
            for name, shape in self.shapes.items()
        ]
        return torch.cat(flat, dim=-1)

"""Where each named part of θ lies in the flat vector, and where the part's share of a rule's state lies.

Shapes: P coordinates of one optimizee, B tasks; `...` any leading axes.
"""

from collections.abc import Collection, Mapping, Sequence
from enum import Enum
from itertools import accumulate
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor, nn

Shape = tuple[int, ...]


class Axis(Enum):
    """What the second axis of a rule's state counts, and so how many numbers belong to a parameter of a given shape.

    A matrix's second moments may be kept factored (Shazeer & Stern 2018), as means over one axis each: MAJOR is without
    the largest axis, MINOR without the second largest. Parameters with fewer than two axes have no factors: their
    second moments are kept whole, as MAJOR, and nothing as MINOR.
    """

    COORDINATES = "coordinates"  # one number, or vector, for each coordinate
    TENSORS = "tensors"  # one for each parameter
    SHARED = "shared"  # one for all parameters together
    MAJOR = "major"
    MINOR = "minor"

    def shape(self, shape: Shape) -> Shape:
        """Return the shape of a parameter's own share."""
        if self is Axis.COORDINATES:
            return shape
        if self in (Axis.TENSORS, Axis.SHARED):
            return ()
        if len(shape) < 2:
            return shape if self is Axis.MAJOR else (0,)
        left_out = factored_axes(shape)[0 if self is Axis.MAJOR else 1]
        return shape[:left_out] + shape[left_out + 1 :]

    def size(self, shape: Shape) -> int:
        """Return how many numbers belong to a parameter of this shape."""
        return prod(self.shape(shape))


def factored_axes(shape: Shape) -> tuple[int, int]:
    """Return the largest and the second largest axis of a shape. Of equal axes the last counts as the largest."""
    *_, second, largest = sorted(range(len(shape)), key=shape.__getitem__)
    return largest, second


class Cut(NamedTuple):
    """Hold some coordinates of a layout: their own layout, and for each axis where their share of a state lies."""

    layout: "Layout"
    places: dict[Axis, slice]

    @property
    def coordinates(self) -> slice:
        return self.places[Axis.COORDINATES]


def turned_axes(count: int) -> tuple[int, ...]:
    """Return in which order update rules see the axes of a kernel that torch keeps as (out, in, height, width).

    They see (height, width, in, out), as the published rules have seen kernels in JAX, so that the last two axes are
    those of a matrix of inputs and outputs.
    """
    return (*range(2, count), 1, 0)


class Layout:
    """Holds the names, shapes and slices of the parts of a flat parameter vector (P,), in order.

    The shapes are what update rules see. Of the parts in `turned`, kernels of convolutions, torch's own shape is
    another one (`turned_axes`), and so is their order in a module's memory: `parameters` and `of_parameters` go between
    the flat vector and a module's own parameters.
    """

    def __init__(self, shapes: Mapping[str, Sequence[int]], turned: Collection[str] = ()):
        self.shapes = {name: tuple(shape) for name, shape in shapes.items()}
        self.turned = frozenset(turned)
        self.slices = self.spans(Axis.COORDINATES)
        self.size = sum(prod(shape) for shape in self.shapes.values())

    @classmethod
    def of_module(cls, module: nn.Module) -> "Layout":
        """Give the layout of a network's parameters, in the order of `named_parameters`, with kernels turned.

        A kernel is a parameter of three axes or more, as for `LearnedOptimizer(…, axes="torch")`: rules see the same
        in training and in use.
        """
        own = {name: tuple(parameter.shape) for name, parameter in module.named_parameters()}
        turned = [name for name, shape in own.items() if len(shape) >= 3]
        seen = {name: tuple(own[name][axis] for axis in turned_axes(len(own[name]))) for name in turned}
        return cls(own | seen, turned)

    def of(self, names: Collection[str]) -> "Layout":
        """Give the layout of some of the parts alone, in the order of the names."""
        return Layout({name: self.shapes[name] for name in names}, self.turned & {*names})

    def spans(self, axis: Axis) -> dict[str, slice]:
        """Return where each part's share of a state with this second axis lies. What is SHARED lies at 0 for all."""
        if axis is Axis.SHARED:
            return dict.fromkeys(self.shapes, slice(0, 1))
        ends = list(accumulate((axis.size(shape) for shape in self.shapes.values()), initial=0))
        return {name: slice(*ends[i : i + 2]) for i, name in enumerate(self.shapes)}

    def length(self, axis: Axis) -> int:
        """Return the size of a state's second axis, that is, how many numbers all parts have together."""
        return 1 if axis is Axis.SHARED else sum(axis.size(shape) for shape in self.shapes.values())

    def parts(self, first: int, last: int) -> Cut:
        """Return the parts with the numbers first, …, last − 1, each of them whole."""
        names = [*self.shapes][first:last]
        places = dict.fromkeys(Axis, slice(0, 0))
        if names:
            spans = {axis: self.spans(axis) for axis in Axis}
            places = {axis: slice(span[names[0]].start, span[names[-1]].stop) for axis, span in spans.items()}
        return Cut(self.of(names), places)

    def cut(self, start: int, stop: int) -> Cut:
        """Return the coordinates start, …, stop − 1 as flat pieces of parts. A piece reads its part's share of TENSORS.

        This is for coordinatewise rules alone, because a piece has no shape any more, and so no factored moments.
        """
        pieces = {
            name: (min(stop, span.stop) - max(start, span.start),)
            for name, span in self.slices.items()
            if max(start, span.start) < min(stop, span.stop)
        }
        first = next((i for i, name in enumerate(self.shapes) if name in pieces), 0)
        places = {Axis.COORDINATES: slice(start, stop), Axis.TENSORS: slice(first, first + len(pieces))}
        return Cut(Layout(pieces), places | {Axis.SHARED: slice(0, 1)})

    def spread(self, values: Tensor) -> Tensor:
        """Give every coordinate its part's number: (B, number of parts) -> (B, P), or (B, 1) for a single part."""
        if len(self.shapes) == 1:
            return values
        sizes = [prod(shape) for shape in self.shapes.values()]
        parts = zip(values.split(1, 1), sizes, strict=True)  # joined, they take a tenth of repeat_interleave's time
        return torch.cat([part.expand(-1, size) for part, size in parts], 1) if sizes else values

    def unravel(self, theta: Tensor) -> dict[str, Tensor]:
        """Take a flat vector apart: (..., P) -> name: (..., *shape). The parts are views, nothing is copied."""
        parts = theta.split([prod(shape) for shape in self.shapes.values()], dim=-1)  # one backward for all of them
        return {
            name: part.reshape((*theta.shape[:-1], *shape))
            for (name, shape), part in zip(self.shapes.items(), parts, strict=True)
        }

    def ravel(self, parts: Mapping[str, Tensor]) -> Tensor:
        """Join parts to a flat vector: name: (..., *shape) -> (..., P)."""
        flat = [
            parts[name].reshape(*parts[name].shape[: parts[name].ndim - len(shape)], -1)
            for name, shape in self.shapes.items()
        ]
        return torch.cat(flat, dim=-1)

    def parameters(self, theta: Tensor) -> dict[str, Tensor]:
        """Take a flat vector apart into a module's own parameters: (..., P) -> name: (..., *torch's own shape)."""
        parts = self.unravel(theta)
        return parts | {name: self._moved(parts[name], name, back=True) for name in self.turned}

    def of_parameters(self, parts: Mapping[str, Tensor]) -> Tensor:
        """Join a module's own parameters to a flat vector: name: (..., *torch's own shape) -> (..., P)."""
        return self.ravel({**parts, **{name: self._moved(parts[name], name, back=False) for name in self.turned}})

    def of_module_order(self, flat: Tensor) -> Tensor:
        """Reorder numbers (..., P) that lie as a module's parameters do in memory, one after another."""
        if not self.turned:
            return flat
        own = {
            name: [shape[axis] for axis in _inverse(turned_axes(len(shape)))] if name in self.turned else shape
            for name, shape in self.shapes.items()
        }
        return self.of_parameters(Layout(own).unravel(flat))

    def _moved(self, part: Tensor, name: str, back: bool) -> Tensor:
        """Turn a kernel's axes as rules see them, or back; axes before the kernel's own stay where they are."""
        order = turned_axes(count := len(self.shapes[name]))
        before = part.ndim - count
        order = _inverse(order) if back else order
        return part.permute((*range(before), *(before + axis for axis in order)))


def _inverse(order: Sequence[int]) -> tuple[int, ...]:
    return tuple(order.index(axis) for axis in range(len(order)))

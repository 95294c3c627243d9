"""How a parameter's axes are arranged for an update rule, and how the rule's state is arranged beside the parameter.

Shapes: P coordinates of some parameters together, `...` what a rule remembers of one coordinate.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from l2o.optimizees.layout import Axis, Layout, Shape, turned_axes

Axes = Literal["torch", "as_given"]
"""torch: kernels of convolutions are turned to (…, in, out), as in training; as_given: not."""


def local_part(tensor: Tensor) -> Tensor:
    """This rank's shard of a DTensor, sharing its memory; any other tensor is its own."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor  # type: ignore[operator]


def is_sharded(param: Tensor) -> bool:
    """Whether a parameter is a DTensor, of which this rank holds a shard."""
    return hasattr(param, "to_local")


class Arrangement(NamedTuple):
    """A parameter's own shape, and the order in which a rule sees its axes."""

    shape: Shape
    order: tuple[int, ...]

    @classmethod
    def of(cls, shape: Shape, axes: Axes) -> "Arrangement":
        """Of torch's kernels (out, in, height, width), the rule sees (height, width, in, out); else the same order."""
        straight = tuple(range(len(shape)))
        return cls(tuple(shape), turned_axes(len(shape)) if axes == "torch" and len(shape) >= 3 else straight)

    @property
    def is_turned(self) -> bool:
        """Whether the rule sees the axes in another order than the parameter has them."""
        return self.order != tuple(range(len(self.shape)))

    @property
    def seen(self) -> Shape:
        """The shape that the rule sees."""
        return tuple(self.shape[axis] for axis in self.order)

    def entry(self, flat: Tensor, axis: Axis) -> Tensor:
        """View a parameter's share (n, ...) of a state with this axis; of coordinates, in the parameter's own shape."""
        view = flat.view(axis.shape(self.seen) + flat.shape[1:])
        if axis is not Axis.COORDINATES:
            return view
        back = [self.order.index(i) for i in range(len(self.order))]
        return view.permute((*back, *range(len(back), view.ndim)))

    def entry_shape(self, axis: Axis, trailing: Shape) -> Shape:
        """The shape of that view."""
        return (self.shape if axis is Axis.COORDINATES else axis.shape(self.seen)) + trailing


def layout_of(names: Sequence[str], arrangements: Sequence[Arrangement]) -> Layout:
    """Return the layout of some parameters as a rule sees them."""
    own = dict(zip(names, arrangements, strict=True))
    return Layout({name: one.seen for name, one in own.items()}, [name for name, one in own.items() if one.is_turned])


def beside(param: Tensor, part: Tensor) -> Tensor:
    """A shard's state as a DTensor (*shape, ...) that is cut like its parameter, so that checkpoints reshard it."""
    if not is_sharded(param):
        return part
    from torch.distributed.tensor import DTensor  # slow to import, and there where a parameter is one

    assert isinstance(param, DTensor)
    if part.storage_offset():  # a DTensor that begins within a buffer is taken for one with memory of its own
        part = torch.from_dlpack(part)  # the same memory
    whole = torch.empty(*param.shape, *part.shape[param.ndim :], device="meta")
    return DTensor.from_local(
        part, param.device_mesh, param.placements, run_check=False, shape=whole.shape, stride=whole.stride()
    )

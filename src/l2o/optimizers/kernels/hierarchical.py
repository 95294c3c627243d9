"""Which compiled kernel does a step of the hierarchical rule: C++ on a CPU, Triton on an NVIDIA GPU.

Shapes: B tasks, P coordinates.
"""

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from l2o.native.watching import is_watched
from l2o.optimizees.layout import Layout
from l2o.optimizers.base import Observation, State
from l2o.optimizers.kernels import hierarchical_cpp, hierarchical_triton
from l2o.optimizers.kernels.hierarchical_memory import Settings


class Kernel(Protocol):
    """A module with a function whose contract stands in `hierarchical_cpp`. All implementations agree."""

    def step(
        self,
        settings: Settings,
        decays: tuple[float, ...],
        phi: list[Tensor],
        seen: Observation,
        state: State,
        layout: Layout,
    ) -> tuple[Tensor, State]: ...


def kernel_for(
    settings: Settings, momenta: int, sizes: tuple[int, int, int], tensors: Sequence[Tensor], layout: Layout
) -> Kernel | None:
    """Give the kernel that does a step of these tensors, or None where plain torch does it, which autograd can record.

    `sizes` are the hidden units of the coordinates' network and of a tensor's, and the outputs of the latter. `tensors`
    are all that a step reads.
    """
    if is_watched(tensors):
        return None
    if hierarchical_cpp.serves(tensors, momenta, sizes[0]):
        return hierarchical_cpp
    return hierarchical_triton if hierarchical_triton.serves(settings, momenta, sizes, tensors, layout) else None

"""Which implementation of a small network's step for every coordinate serves some tensors: C++ on a CPU, Triton on
an NVIDIA GPU, else plain torch.

Shapes: B tasks, P coordinates, G of them in the tensors that the network serves.
"""

from typing import Protocol

from torch import Tensor

from l2o.native.watching import is_watched
from l2o.optimizees.layout import Layout
from l2o.optimizers.accumulators import Decays, constant
from l2o.optimizers.base import Observation, State
from l2o.optimizers.kernels import coordinate_mlp_cpp, coordinate_mlp_torch, coordinate_mlp_triton
from l2o.optimizers.kernels.dispatch import is_donated
from l2o.optimizers.kernels.recipe import Recipe


class Kernel(Protocol):
    """A module with a function whose contract stands in `coordinate_mlp_cpp`. All implementations agree."""

    def step(
        self,
        recipe: Recipe,
        weights: list[Tensor],
        decays: Decays,
        seen: Observation,
        state: State,
        layout: Layout,
        served: tuple[str, ...],
        scale: Tensor,
        in_place: bool = False,
    ) -> tuple[Tensor, State]: ...


def step(
    recipe: Recipe,
    weights: list[Tensor],
    decays: Decays,
    seen: Observation,
    state: State,
    layout: Layout,
    scale: float | Tensor = 1.0,
    served: tuple[str, ...] | None = None,
) -> tuple[Tensor, State]:
    """Update the accumulators of every tensor, and give the direction (B, G) of those that the network serves.

    By default these are all tensors. The direction is multiplied by `scale`: a number, or a tensor (B or 1, number of
    tensors served or 1).
    """
    served = tuple(layout.shapes) if served is None else served
    factor = scale if isinstance(scale, Tensor) else constant((scale,), seen.grad)[None]
    given = recipe, weights, decays, seen, state, layout, served, factor
    return kernel_for(recipe, weights, decays, seen, state, factor).step(*given, is_donated())


def kernel_for(
    recipe: Recipe, weights: list[Tensor], decays: Decays, seen: Observation, state: State, scale: Tensor
) -> Kernel:
    """Give the fastest kernel for tensors of their device and dtype: plain torch where autograd or vmap watches."""
    tensors = (*weights, *decays, *seen, *state.values(), scale)
    watched = is_watched(tensors)
    if not watched and coordinate_mlp_cpp.serves(recipe, weights, decays, seen):
        return cpp_kernel
    if not watched and coordinate_mlp_triton.serves(recipe, weights, decays, seen):
        return triton_kernel
    return torch_kernel


cpp_kernel: Kernel = coordinate_mlp_cpp
triton_kernel: Kernel = coordinate_mlp_triton
torch_kernel: Kernel = coordinate_mlp_torch

"""Which implementation of the hierarchical rule's passes serves some tensors: C++ on a CPU, else plain torch.

Shapes: B tasks, P coordinates, K tensors, M momenta, H hidden units.
"""

from typing import Protocol

import torch
from torch import Tensor

from l2o.optimizees.layout import Layout
from l2o.optimizers.base import Observation
from l2o.optimizers.kernels import hierarchical_cpp, hierarchical_torch
from l2o.optimizers.kernels.hierarchical_memory import Memory


class Kernel(Protocol):
    """A module with two functions. All implementations agree."""

    def remember(
        self, seen: Observation, memory: Memory, layout: Layout, decays: tuple[float, ...], correct: Tensor
    ) -> tuple[Memory, Tensor]:
        """Take up a gradient; give the new memory, and means over each tensor (2M + 2, B, K).

        `decays` are those of the M momenta, then that of the square; `correct` (M + 1, B, K) corrects each for its
        start at 0. The means are of ∇², of the momenta's squares, of the products of neighbours (∇ is the first
        momentum's), all of them over √v̂ + ε, and of θ².
        """
        ...

    def direction(
        self,
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
        ...


def kernel_for(tensors: list[Tensor], momenta: int, hidden_size: int) -> Kernel:
    """Give the fastest kernel for these tensors: plain torch where autograd or vmap watches."""
    recorded = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
    watched = recorded or any(map(torch._C._functorch.is_functorch_wrapped_tensor, tensors))  # type: ignore[reportAttributeAccessIssue]
    served = not watched and hierarchical_cpp.serves(tensors, momenta, hidden_size)
    return hierarchical_cpp if served else hierarchical_torch

"""Random quadratics (Andrychowicz et al. 2016, section 3.1).

Shapes: B tasks, P = D coordinates.
"""

import torch
from torch import Generator, Tensor

from l2o.optimizees.base import Batch, Optimizee
from l2o.optimizees.layout import Layout


class Quadratic(Optimizee):
    """f(θ) = ‖Wθ − y‖², W (D, D) and y (D,) drawn IID from N(0, 1), θ_0 from N(0, init_std²).

    The paper does not give θ_0's standard deviation; the authors' released code has 0.01.
    """

    def __init__(self, dim: int = 10, init_std: float = 0.01):
        if dim < 1:
            raise ValueError(f"a quadratic needs at least one coordinate, got dim={dim}")
        self.dim, self.init_std = dim, init_std
        self.layout = Layout({"theta": (dim,)})

    def sample(self, num_tasks: int, generator: Generator) -> tuple[Tensor, Batch]:
        draw = lambda *shape: torch.randn(num_tasks, *shape, generator=generator, device=generator.device)  # noqa: E731
        return self.init_std * draw(self.dim), {"W": draw(self.dim, self.dim), "y": draw(self.dim)}

    def loss(self, theta: Tensor, batch: Batch) -> Tensor:
        return (batch["W"] @ theta - batch["y"]).square().sum()

    def loss_and_grad(self, theta: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Give ∇f(θ) = 2 Wᵀ(Wθ − y), which is written out because it is exact and needs no graph."""
        residual = torch.baddbmm(-batch["y"][..., None], batch["W"], theta[..., None])  # (B, D, 1)
        grad = 2 * (batch["W"].mT @ residual)[..., 0]
        return residual.square().sum((1, 2)), grad

"""Linear regression on a stream of points whose covariance is ill-conditioned.

Shapes: B tasks, P = D coordinates, N points of a minibatch.
"""

import torch
from torch import Generator, Tensor

from l2o.optimizees.base import Batch, Optimizee
from l2o.optimizees.layout import Layout
from l2o.optimizees.spectra import Range, eigenvalues, ends, log_uniform, rotations


class LeastSquares(Optimizee):
    """f(θ) = mean of ½ (x·θ − y)² over N fresh points, where y = x·θ* + N(0, noise²).

    x ~ N(0, H), and H has eigenvalues from 1 down to 1 / condition, evenly in the logarithm, in a random basis;
    θ* ~ N(0, 1) and θ_0 ~ N(0, init_std²). Every task draws its own condition where it is a range,
    uniformly in the logarithm.
    """

    def __init__(
        self,
        dim: int = 50,
        condition: Range = 1e4,
        noise: float = 0.1,
        batch_size: int = 64,
        init_std: float = 0.1,
    ):
        if dim < 1 or batch_size < 1 or noise < 0 or init_std < 0:
            raise ValueError(
                "dim and batch_size must be >= 1, noise and init_std >= 0, got "
                f"{dim}, {batch_size}, {noise} and {init_std}"
            )
        self.dim, self.noise, self.batch_size, self.init_std = dim, noise, batch_size, init_std
        self.condition = ends("condition", condition, 1.0)
        self.layout = Layout({"theta": (dim,)})

    def sample(self, num_tasks: int, generator: Generator) -> tuple[Tensor, Batch]:
        roots = eigenvalues(log_uniform(self.condition, num_tasks, generator), self.dim).sqrt()
        draw = lambda: torch.randn(num_tasks, self.dim, generator=generator, device=generator.device)  # noqa: E731
        optimum = draw()
        return self.init_std * draw(), {
            "root": roots[..., None] * rotations(num_tasks, self.dim, generator),  # √Λ Qᵀ (B, D, D)
            "optimum": optimum,
        }

    def sample_batch(self, task: Batch, num_tasks: int, generator: Generator) -> Batch:
        draw = lambda size: torch.randn(  # noqa: E731
            num_tasks, self.batch_size, size, generator=generator, device=generator.device
        )
        x = draw(self.dim) @ task["root"]  # (B, N, D)
        return {"x": x, "y": (x @ task["optimum"][..., None] + self.noise * draw(1))[..., 0]}

    def loss(self, theta: Tensor, batch: Batch) -> Tensor:
        return (batch["x"] @ theta - batch["y"]).square().mean() / 2

    def loss_and_grad(self, theta: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Give ∇f(θ) = xᵀ(x θ − y) / N, which is written out because it is exact and needs no graph."""
        residual = (batch["x"] @ theta[..., None])[..., 0] - batch["y"]  # (B, N)
        grad = (batch["x"].mT @ residual[..., None])[..., 0] / self.batch_size
        return residual.square().mean(1) / 2, grad

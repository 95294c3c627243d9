"""A distribution of quadratics: any condition, any scale, noisy gradients.

Shapes: B tasks, P = D coordinates.
"""

import torch
from torch import Generator, Tensor

from l2o.optimizees.base import Batch, Optimizee
from l2o.optimizees.layout import Layout
from l2o.optimizees.spectra import Range, eigenvalues, ends, log_uniform, rotations


class NoisyQuadratic(Optimizee):
    """f(θ) = ½ ‖√H (θ − θ* − c)‖² / D, where c ~ N(0, noise²) is drawn anew at every evaluation.

    H = Q Λ Qᵀ has eigenvalues from 1 down to 1 / condition, evenly in the logarithm, in a random basis Q; θ* ~ N(0, 1)
    and θ_0 ~ N(0, init_std²). The noise moves the minimum, as a minibatch does: at θ* the mean of f is
    ½ tr(H) noise² / D. Every task draws its own condition and noise where they are ranges, uniformly in the logarithm.
    """

    def __init__(self, dim: int = 20, condition: Range = 100.0, noise: Range | None = None, init_std: float = 0.1):
        if dim < 1 or init_std < 0:
            raise ValueError(f"dim must be >= 1 and init_std >= 0, got {dim} and {init_std}")
        self.dim, self.init_std, self.condition = dim, init_std, ends("condition", condition, 1.0)
        self.noise = None if noise is None else ends("noise", noise, 0.0)
        self.layout = Layout({"theta": (dim,)})

    def sample(self, num_tasks: int, generator: Generator) -> tuple[Tensor, Batch]:
        roots = eigenvalues(log_uniform(self.condition, num_tasks, generator), self.dim).sqrt()
        root = roots[..., None] * rotations(num_tasks, self.dim, generator)  # √Λ Qᵀ (B, D, D)
        draw = lambda: torch.randn(num_tasks, self.dim, generator=generator, device=generator.device)  # noqa: E731
        optimum, theta = draw(), self.init_std * draw()
        task = {"root": root, "optimum": optimum}
        if self.noise is not None:
            task["noise"] = log_uniform(self.noise, num_tasks, generator)
        return theta, task

    def sample_batch(self, task: Batch, num_tasks: int, generator: Generator) -> Batch:
        if "noise" not in task:
            return task
        moved = torch.randn(task["optimum"].shape, generator=generator, device=generator.device)
        return {"root": task["root"], "optimum": task["optimum"] + task["noise"] * moved}

    def loss(self, theta: Tensor, batch: Batch) -> Tensor:
        return (batch["root"] @ (theta - batch["optimum"])).square().sum() / (2 * self.dim)

    def loss_and_grad(self, theta: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Give ∇f(θ) = H (θ − θ* − c) / D, which is written out because it is exact and needs no graph."""
        residual = batch["root"] @ (theta - batch["optimum"])[..., None]  # (B, D, 1)
        return residual.square().sum((1, 2)) / (2 * self.dim), (batch["root"].mT @ residual)[..., 0] / self.dim

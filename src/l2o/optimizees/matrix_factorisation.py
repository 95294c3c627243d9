"""A matrix of low rank, found from some of its entries: a problem that is not convex and has saddle points.

Shapes: B tasks, R rows, C columns, r rank, P = (R + C)·r coordinates.
"""

import torch
from torch import Generator, Tensor

from l2o.optimizees.base import Batch, Optimizee
from l2o.optimizees.layout import Layout
from l2o.optimizees.spectra import eigenvalues


class MatrixFactorisation(Optimizee):
    """f(U, V) = mean of (U Vᵀ − M)² over a random part of the entries, drawn anew at every evaluation.

    M = U* diag(√σ) V*ᵀ + N(0, noise²) is of rank r but for the noise; U* and V* ~ N(0, 1), and the r numbers σ go from
    1 down to 1 / condition and sum to 1, so that an entry's variance is about 1. θ_0 ~ N(0, init_std²).
    """

    def __init__(
        self,
        rows: int = 30,
        columns: int = 20,
        rank: int = 4,
        seen: float = 0.3,
        condition: float = 10.0,
        noise: float = 0.05,
        init_std: float = 0.1,
    ):
        if min(rows, columns, rank) < 1 or not 0 < seen <= 1 or condition < 1 or noise < 0 or init_std < 0:
            raise ValueError(
                "rows, columns and rank must be >= 1, seen in (0, 1], condition >= 1, noise and init_std >= 0, got "
                f"{rows}, {columns}, {rank}, {seen}, {condition}, {noise} and {init_std}"
            )
        self.rows, self.columns, self.rank, self.seen = rows, columns, rank, seen
        self.condition, self.noise, self.init_std = condition, noise, init_std
        self.layout = Layout({"left": (rows, rank), "right": (columns, rank)})

    def sample(self, num_tasks: int, generator: Generator) -> tuple[Tensor, Batch]:
        draw = lambda *shape: torch.randn(num_tasks, *shape, generator=generator, device=generator.device)  # noqa: E731
        left, right = draw(self.rows, self.rank), draw(self.columns, self.rank)
        sigma = eigenvalues(left.new_full((1, 1), self.condition), self.rank)
        matrix = left * (sigma / sigma.sum()).sqrt() @ right.mT + self.noise * draw(self.rows, self.columns)
        return self.init_std * draw(self.layout.size), {"matrix": matrix}

    def sample_batch(self, task: Batch, num_tasks: int, generator: Generator) -> Batch:
        shape = num_tasks, self.rows, self.columns
        uniform = torch.rand(shape, generator=generator, device=generator.device)
        return {**task, "seen": (uniform < self.seen).to(task["matrix"].dtype)}

    def loss(self, theta: Tensor, batch: Batch) -> Tensor:
        return self.losses(theta[None], {key: value[None] for key, value in batch.items()})[0]

    def losses(self, theta: Tensor, batch: Batch) -> Tensor:
        parts = self.layout.unravel(theta)
        error = (parts["left"] @ parts["right"].mT - batch["matrix"]) * batch["seen"]
        return error.square().sum((1, 2)) / batch["seen"].sum((1, 2)).clamp(min=1)

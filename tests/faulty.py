"""A problem with a fault, for programs: `optimizee._target_=faulty.NanLoss`."""

import math

from torch import Tensor

from l2o.optimizees import Quadratic


class NanLoss(Quadratic):
    """A quadratic whose loss is nan in every `every`-th evaluation."""

    def __init__(self, dim: int, init_std: float, every: int):
        super().__init__(dim, init_std)
        self.every, self.count = every, 0

    def loss_and_grad(self, theta: Tensor, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        self.count += 1
        loss, grad = super().loss_and_grad(theta, batch)
        return (loss * math.nan if self.count % self.every == 0 else loss), grad

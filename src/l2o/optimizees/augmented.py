"""A distribution of optimizees, augmented: the same problems in other scales and with more noise."""

from collections.abc import Callable, Sequence

from torch import Generator

from l2o.optimizees.augmentation import LossScaled, NoisyGradients, Reparametrised
from l2o.optimizees.base import Optimizee
from l2o.optimizees.distributions import one_of


class Augmented:
    """Draws an optimizee from the distribution `make` and puts views of `l2o.optimizees.augmentation` around it.

    θ is reparametrised by α between the ends `scale`, at a level that is drawn from `levels` with the optimizee; the
    loss is scaled by a factor between the ends `loss_scale`; the gradient gets noise of the relative size
    `gradient_noise`. What is null is left out. α and the factor are drawn for every task.
    """

    def __init__(
        self,
        make: Callable[[Generator], Optimizee],
        scale: Sequence[float] | None = (1e-3, 1e3),
        levels: Sequence[str] = ("global", "tensor", "coordinate"),
        loss_scale: Sequence[float] | None = None,
        gradient_noise: float | None = None,
    ):
        self.make, self.scale, self.levels = make, scale, levels
        self.loss_scale, self.gradient_noise = loss_scale, gradient_noise

    def __call__(self, generator: Generator) -> Optimizee:
        optimizee = self.make(generator)
        if self.scale is not None:
            optimizee = Reparametrised(optimizee, self.scale, one_of(self.levels, generator))
        if self.loss_scale is not None:
            optimizee = LossScaled(optimizee, self.loss_scale)
        if self.gradient_noise is not None:
            optimizee = NoisyGradients(optimizee, self.gradient_noise)
        return optimizee

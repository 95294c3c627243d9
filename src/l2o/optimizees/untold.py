"""A view of an optimizee for meta-training, which keeps the loss of some tasks from the update rule.

Shapes: B tasks.
"""

import torch
from torch import Generator, Tensor

from l2o.optimizees.augmentation import OfTasks
from l2o.optimizees.base import TOLD, Optimizee


class Untold(OfTasks):
    """Keeps the loss of some tasks from the update rule, which is told nan in its place. f itself is the same.

    A task is drawn as such a one with the probability `chance`. A rule that has met it works with and without a loss.
    """

    name = TOLD

    def __init__(self, inner: Optimizee, chance: float = 0.25):
        super().__init__(inner)
        if not 0 <= chance <= 1:
            raise ValueError(f"the chance that a loss is not told is from 0 to 1, got {chance}")
        self.chance = chance

    def drawn(self, num_tasks: int, generator: Generator) -> Tensor:
        return torch.rand(num_tasks, generator=generator, device=generator.device) >= self.chance

    def of(self, inner: Optimizee) -> "Untold":
        return type(self)(inner, self.chance)

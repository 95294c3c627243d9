"""What an estimator of the meta-gradient is."""

from abc import ABC, abstractmethod

from torch import Generator, Tensor

from l2o.optimizees.base import Optimizee
from l2o.optimizers.base import UpdateRule
from l2o.unroll import Episode

WindowResult = tuple[Tensor, list[Tensor], Episode]
"""Losses f(θ_1) … f(θ_K) (K, B), gradients in the order of `rule.parameters()`, the episode K steps on, detached."""


class MetaGradient(ABC):
    """Estimates dL/dφ over one window of K steps of an episode. Each estimator says what its objective L is."""

    @abstractmethod
    def __call__(
        self, rule: UpdateRule, optimizee: Optimizee, episode: Episode, num_steps: int, generator: Generator
    ) -> WindowResult:
        """Move the episode on by K steps. Give the losses, dL/dφ and the episode after these steps."""

"""What an estimator of the meta-gradient is.

Shapes: B tasks, K steps of a window.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor

from l2o.optimizees.base import Optimizee
from l2o.optimizers.base import UpdateRule
from l2o.unroll import start_episode

Carry = Any
"""What an estimator remembers between two windows of an episode: any nesting of dictionaries, lists and (named) tuples
whose leaves are tensors, numbers, strings or None. The nesting stays the same from the start to the end of an episode,
but for the state in an `Episode`, to which a rule may add tensors. Nothing in it requires a gradient."""


class WindowResult(NamedTuple):
    """Hold what an estimator has found in one window. Nothing in it requires a gradient."""

    losses: Tensor  # (K, B)  the losses that the objective reads: by default f(θ_1) … f(θ_K)
    objective: Tensor  # ()  the objective's value, as a mean over tasks
    gradient: list[Tensor]  # the estimate of dL/dφ, one for each of `rule.parameters()`, in their order
    carry: Carry  # what the episode's next window goes on from
    done: bool  # whether the episode has come to its horizon
    diagnostics: Mapping[str, float | Tensor] = MappingProxyType({})  # numbers for the logs, the same names every time


class MetaGradient(ABC):
    """Estimates dL/dφ over one window of K steps of an episode. Each estimator says what its objective L is.

    An estimator itself is stateless: what it must remember between the windows of an episode is the carry. The learner
    stores, moves and checkpoints carries without knowing what is in them. The learner calls `start` once for each
    episode, and the estimator once for each of its windows, always with the same generator, which is the episode's own.
    """

    def start(
        self, rule: UpdateRule, optimizee: Optimizee, num_tasks: int, horizon: float, generator: Generator
    ) -> Carry:
        """Start an episode of B tasks and `horizon` steps, and return its carry, which by default is the `Episode`."""
        with torch.no_grad():  # the episode's first window makes a learned initial state anew, to differentiate it
            return start_episode(rule, optimizee, num_tasks, generator, horizon)

    def told(self, fraction: float) -> None:  # noqa: B027  # a hook: most estimators need not know
        """Take note of how much of the run is over, from 0 to 1. The learner says so before every meta-update.

        By default nothing depends on it.
        """

    @abstractmethod
    def __call__(
        self, rule: UpdateRule, optimizee: Optimizee, carry: Carry, num_steps: int, generator: Generator
    ) -> WindowResult:
        """Move the episode on by K steps and estimate the meta-gradient of these steps."""


def ends(step: int, num_steps: int, horizon: float) -> bool:
    """Return whether a window of `num_steps` steps that begins at `step` is the last one of its episode.

    An episode without a horizon (infinity) never ends by itself.
    """
    return math.isfinite(horizon) and step + num_steps >= horizon

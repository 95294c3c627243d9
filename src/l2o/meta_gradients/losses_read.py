"""Which losses the objective of meta-training reads: those that the rule reads, or those of other minibatches.

Shapes: B tasks, P coordinates of one optimizee.
"""

from typing import Literal, get_args

from torch import Generator, Tensor

from l2o.optimizees.base import Batch, Optimizee
from l2o.unroll import Episode

LossOn = Literal["inner", "fresh", "test"]
"""inner: the minibatch whose gradient the rule reads next; fresh: another one of the same training data; test: one of
the optimizee's test data."""


def refuse_unknown(loss_on: str) -> None:
    """Raise ValueError where `loss_on` is no kind of losses."""
    if loss_on not in get_args(LossOn):
        raise ValueError(f"loss_on must be one of {', '.join(get_args(LossOn))}, got {loss_on!r}")


class OtherLosses:
    """Evaluates ℓ(θ) on minibatches of its own where these are `needed`, which is for every kind but "inner"."""

    def __init__(self, loss_on: LossOn, optimizee: Optimizee):
        self.loss_on, self.optimizee, self.needed = loss_on, optimizee, loss_on != "inner"

    def loss_and_grad(self, episode: Episode, generator: Generator) -> tuple[Tensor, Tensor]:
        """Draw a minibatch for each task, and return ℓ(θ) (B,) and ∇ℓ(θ) (B, P) at the episode's θ."""
        return self.optimizee.loss_and_grad(episode.theta, self._batch(episode, generator))

    def loss(self, episode: Episode, generator: Generator) -> Tensor:
        """Draw a minibatch for each task, and return ℓ(θ) (B,), through which autograd can go back."""
        return self.optimizee.losses(episode.theta, self._batch(episode, generator))

    def _batch(self, episode: Episode, generator: Generator) -> Batch:
        draw = self.optimizee.sample_test_batch if self.loss_on == "test" else self.optimizee.sample_batch
        return draw(episode.task, len(episode.theta), generator)

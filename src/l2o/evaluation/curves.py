"""Learning curves on fresh problems.

Shapes: B tasks, T steps of an episode.
"""

from typing import NamedTuple

from torch import Generator, Tensor

from l2o.optimizees.base import Optimizee
from l2o.optimizees.checks import check
from l2o.optimizers.base import UpdateRule
from l2o.unroll import Episode, start_episode, unroll


class Curves(NamedTuple):
    """Hold what one unroll shows: f(θ_0) (B,), f(θ_1) … f(θ_T) (T, B), and the optimizee's metrics at θ_T, each (B,).

    `pictures` has what there is to see at θ_T, by name, and the same at θ_0 under "start".
    """

    initial: Tensor
    losses: Tensor
    metrics: dict[str, Tensor]
    pictures: dict[str, list[Tensor]]


def learning_curves(
    rule: UpdateRule, optimizee: Optimizee, num_tasks: int, num_steps: int, generator: Generator
) -> Curves:
    """Unroll B fresh tasks once, without a graph. Rules given equal generators meet equal tasks and minibatches."""
    episode, losses, after = _unrolled(rule, optimizee, num_tasks, num_steps, generator)
    pictures = optimizee.pictures(after.theta, after.task)
    if pictures:
        pictures["start"] = optimizee.pictures(episode.theta, episode.task)["theta"]
    return Curves(episode.loss, losses, optimizee.metrics(after.theta, after.task), pictures)


def loss_curves(
    rule: UpdateRule,
    optimizee: Optimizee,
    num_tasks: int,
    num_steps: int,
    generator: Generator,
    horizon: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Give f(θ_0) (B,) and f(θ_1) … f(θ_T) (T, B) of `learning_curves`, without the cost of metrics and pictures.

    `horizon` is what the rule is told; by default T. A smaller one shows what becomes of a rule after its horizon.
    """
    episode, losses, _ = _unrolled(rule, optimizee, num_tasks, num_steps, generator, horizon)
    return episode.loss, losses


def _unrolled(
    rule: UpdateRule,
    optimizee: Optimizee,
    num_tasks: int,
    num_steps: int,
    generator: Generator,
    horizon: int | None = None,
) -> tuple[Episode, Tensor, Episode]:
    """Give the episode at its start, the losses of its T steps (T, B), and the episode at its end."""
    check(optimizee, generator.device)
    episode = start_episode(rule, optimizee, num_tasks, generator, horizon or num_steps)
    losses, after = unroll(rule, optimizee, episode, num_steps, generator)
    return episode, losses, after

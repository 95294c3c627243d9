"""The inner loop: an episode, moved forward by some steps.

Shapes: B tasks, P coordinates of one optimizee, K steps.
"""

from typing import NamedTuple

import torch
from torch import Generator, Tensor

from l2o.optimizees.base import Batch, Optimizee
from l2o.optimizers.base import State, UpdateRule


class Episode(NamedTuple):
    """B inner optimizations on their way. `loss` and `grad` are already taken at `theta`, by one evaluation: it serves
    this step's loss and the next step's gradient."""

    task: Batch
    theta: Tensor  # (B, P)
    loss: Tensor  # (B,), f(theta)
    grad: Tensor  # (B, P), ∇f(theta)
    state: State
    step: int

    def to(self, device: torch.device | str) -> "Episode":
        """The same episode on another device."""
        task, state = ({key: value.to(device) for key, value in part.items()} for part in (self.task, self.state))
        theta, loss, grad = (part.to(device) for part in (self.theta, self.loss, self.grad))
        return Episode(task, theta, loss, grad, state, self.step)


def start_episode(rule: UpdateRule, optimizee: Optimizee, num_tasks: int, generator: Generator) -> Episode:
    """Draw B tasks and evaluate f at θ_0."""
    theta, task = optimizee.sample(num_tasks, generator)
    loss, grad = optimizee.loss_and_grad(theta, optimizee.sample_batch(task, num_tasks, generator))
    return Episode(task, theta, loss, grad, rule.init_state(theta, optimizee.layout), 0)


@torch.no_grad()
def unroll(
    rule: UpdateRule,
    optimizee: Optimizee,
    episode: Episode,
    num_steps: int,
    generator: Generator,
    record: Tensor | None = None,
) -> tuple[Tensor, Episode]:
    """θ_{t+1} = θ_t + m(∇f(θ_t), h_t, φ), K times, without a graph: losses f(θ_1) … f(θ_K) (K, B), the episode.

    `record` (K+1, B, P) is filled with the gradients ∇f(θ_0) … ∇f(θ_K).
    """
    task, theta, loss, grad, state, steps_before = episode
    losses = theta.new_empty(num_steps, len(theta))
    if record is not None:
        record[0] = grad
    for t in range(num_steps):
        step = rule.advance if t else rule  # the episode that was passed in stays as it is
        update, state = step(grad, state, theta, optimizee.layout)
        theta = theta + update
        loss, grad = optimizee.loss_and_grad(theta, optimizee.sample_batch(task, len(theta), generator))
        losses[t] = loss
        if record is not None:
            record[t + 1] = grad
    return losses, Episode(task, theta, loss, grad, state, steps_before + num_steps)

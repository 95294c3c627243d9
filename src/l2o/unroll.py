"""The inner loop: an episode, moved forward by some steps.

Shapes: B tasks, P coordinates of one optimizee, K steps.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from l2o.optimizees.base import TOLD, Batch, Optimizee
from l2o.optimizers.base import Observation, State, UpdateRule, for_each_task
from l2o.optimizers.kernels.dispatch import donated_state


class Episode(NamedTuple):
    """Hold B inner optimizations on their way, in lockstep.

    `loss` and `grad` are already taken at `theta`, by one evaluation that serves as this step's loss and as the next
    step's gradient.
    """

    task: Batch
    theta: Tensor  # (B, P)
    loss: Tensor  # (B,), f(theta)
    grad: Tensor  # (B, P), ∇f(theta)
    state: State
    step: int
    horizon: float = math.inf  # steps of the whole episode
    start_loss: Tensor | None = None  # (B,), f(θ_0); None in an episode that an older checkpoint holds

    @property
    def seen(self) -> Observation:
        """Give what an update rule is told at this step."""
        step, horizon = (for_each_task(value, self.theta) for value in (self.step, self.horizon))
        return Observation(self.grad, self.theta, told(self.loss, self.task), step, horizon)

    def to(self, device: torch.device | str) -> "Episode":
        """Give the same episode on another device."""
        task, state = ({key: value.to(device) for key, value in part.items()} for part in (self.task, self.state))
        theta, loss, grad = (part.to(device) for part in (self.theta, self.loss, self.grad))
        start_loss = None if self.start_loss is None else self.start_loss.to(device)
        return self._replace(task=task, theta=theta, loss=loss, grad=grad, state=state, start_loss=start_loss)


def told(losses: Tensor, task: Batch) -> Tensor:
    """Give what an update rule is told of losses (…, B): nan for the tasks that keep them to themselves."""
    return losses.where(task[TOLD], math.nan) if TOLD in task else losses


def start_episode(
    rule: UpdateRule, optimizee: Optimizee, num_tasks: int, generator: Generator, horizon: float = math.inf
) -> Episode:
    """Draw B tasks and evaluate f at θ_0. `horizon` tells the rule how many steps the episode will have."""
    theta, task = optimizee.sample(num_tasks, generator)
    loss, grad = optimizee.loss_and_grad(theta, optimizee.sample_batch(task, num_tasks, generator))
    return Episode(task, theta, loss, grad, rule.init_state(theta, optimizee.layout), 0, horizon, loss)


def step(
    rule: UpdateRule, optimizee: Optimizee, episode: Episode, generator: Generator, donate: bool = False
) -> tuple[Tensor, Episode]:
    """Do one inner step: g_t, h_{t+1} = m(∇f(θ_t), h_t, φ), θ_{t+1} = θ_t + g_t. Give g_t (B, P) and the episode.

    Where autograd records, it records all of it, the optimizee included (second order). With `donate` the caller says
    that nobody will read the episode's state again, so that a kernel may overwrite it.
    """
    with donated_state(donate):
        update, state = rule(episode.seen, episode.state, optimizee.layout)
    return update, _moved(episode, update, state, optimizee, generator)


def steps(
    rule: UpdateRule, optimizee: Optimizee, episode: Episode, num_steps: int, generator: Generator
) -> Iterator[tuple[Tensor, Episode]]:
    """Do K inner steps, and give g_t (B, P) and the episode after each of them. To be called without a graph.

    The episode that is passed in stays as it is. The state of each that is yielded is overwritten by the next step.
    """
    stepper = rule.stepper(episode.state, optimizee.layout)
    for t in range(num_steps):
        if stepper is None:
            update, episode = step(rule, optimizee, episode, generator, donate=t > 0)
        else:
            next_update, state = stepper
            update = next_update(episode.grad)
            episode = _moved(episode, update, state, optimizee, generator)
        yield update, episode


def _moved(episode: Episode, update: Tensor, state: State, optimizee: Optimizee, generator: Generator) -> Episode:
    """Return the episode after θ ← θ + g."""
    task, theta = episode.task, episode.theta + update
    loss, grad = optimizee.loss_and_grad(theta, optimizee.sample_batch(task, len(theta), generator))
    return Episode(task, theta, loss, grad, state, episode.step + 1, episode.horizon, episode.start_loss)


@torch.no_grad()
def unroll(
    rule: UpdateRule,
    optimizee: Optimizee,
    episode: Episode,
    num_steps: int,
    generator: Generator,
    record: Tensor | None = None,
) -> tuple[Tensor, Episode]:
    """Do K inner steps without a graph. Give the losses f(θ_1) … f(θ_K) (K, B) and the episode after these steps.

    `record` (K+1, B, P) is filled with the gradients ∇f(θ_0) … ∇f(θ_K).
    """
    losses = episode.theta.new_empty(num_steps, len(episode.theta))
    if record is not None:
        record[0] = episode.grad
    walk = steps(rule, optimizee, episode, num_steps, generator)
    for t, (_, episode) in enumerate(walk):
        losses[t] = episode.loss
        if record is not None:
            record[t + 1] = episode.grad
    return losses, episode

"""What is optimized: a distribution of functions f(θ), batched over tasks.

Shapes: B tasks, P coordinates of one optimizee.
"""

from abc import ABC, abstractmethod
from typing import Literal, Self

import torch
from torch import Generator, Tensor
from torch.func import vmap

from l2o.optimizees.layout import Layout

Batch = dict[str, Tensor]
"""What a loss reads. The leading axis of every tensor counts tasks."""

TOLD = "the loss is told"
"""The entry of a task, (B,) of true and false, that says whether an update rule is told the task's losses. A task
without it tells them."""

Split = Literal["train", "validation", "test"]
"""What tasks are for: meta-training, choosing φ and learning rates, the final comparison."""


class Optimizee(ABC):
    """Describes a distribution of functions, of which one draw is one task.

    A subclass gives `layout`, `sample` and `loss`; a stochastic f also gives `sample_batch`. All randomness comes from
    the generator that is passed in, and all tensors lie on the generator's device. `l2o.optimizees.checks` holds a
    user's subclass to this before it is used, and `l2o.optimizees.views` has views of an optimizee.
    """

    layout: Layout

    @abstractmethod
    def sample(self, num_tasks: int, generator: Generator) -> tuple[Tensor, Batch]:
        """Draw B tasks. Give θ_0 (B, P) and what stays fixed in each task."""

    @abstractmethod
    def loss(self, theta: Tensor, batch: Batch) -> Tensor:
        """Give f(θ) of one task, (), for θ (P,) and the batch without its leading axis.

        It must be differentiable by θ, and work under `torch.func.vmap` unless `losses` is overridden.
        """

    def sample_batch(self, task: Batch, num_tasks: int, generator: Generator) -> Batch:
        """Draw the data of one evaluation of f for each of B tasks. By default nothing is drawn; f reads the task."""
        return task

    def sample_test_batch(self, task: Batch, num_tasks: int, generator: Generator) -> Batch:
        """Draw the data of one evaluation of f on data that `sample_batch` never gives, for each of B tasks.

        By default all data come from one distribution, of which any draw is as new as a test batch. An optimizee that
        trains on finitely many examples overrides it.
        """
        return self.sample_batch(task, num_tasks, generator)

    def losses(self, theta: Tensor, batch: Batch) -> Tensor:
        """Give f of every task: θ (B, P) -> (B,). Override it where a native batch is faster than vmap."""
        if len(theta) == 1:  # vmap over one task costs time and gains nothing
            return self.loss(theta[0], {key: value[0] for key, value in batch.items()})[None]
        return vmap(self.loss)(theta, batch)

    def tasks_at_once(self, theta: Tensor) -> int:
        """Say how many of the B tasks `losses` takes at once: by default all. One by one they need less memory."""
        return len(theta)

    def loss_and_grad(self, theta: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Give f(θ) (B,) and ∇f(θ) (B, P), by one forward and backward pass for every `tasks_at_once` tasks.

        Where θ requires a gradient, so do both results (second-order meta-gradients); else both are detached.
        """
        at_once = self.tasks_at_once(theta)
        if at_once >= len(theta):
            return self._loss_and_grad(theta, batch)
        groups = [slice(start, start + at_once) for start in range(0, len(theta), at_once)]
        results = [self._loss_and_grad(theta[g], {key: value[g] for key, value in batch.items()}) for g in groups]
        losses, grads = (torch.cat(parts) for parts in zip(*results, strict=True))
        return losses, grads

    def _loss_and_grad(self, theta: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        second_order = theta.requires_grad
        with torch.enable_grad():
            theta = theta if second_order else theta.detach().requires_grad_()
            losses = self.losses(theta, batch)
            # The tasks are independent, so the gradient of the sum holds every task's own gradient.
            (grad,) = torch.autograd.grad(losses.sum(), theta, create_graph=second_order)
        return (losses, grad) if second_order else (losses.detach(), grad)

    def metrics(self, theta: Tensor, task: Batch) -> dict[str, Tensor]:
        """Report other numbers at θ (B, P), each (B,), such as a test loss or an accuracy."""
        return {}

    def pictures(self, theta: Tensor, task: Batch) -> dict[str, list[Tensor]]:
        """Give what can be looked at, as name -> B pictures (3, H, W) in [0, 1]. "theta" is what θ (B, P) itself looks
        like, the others come with the task. By default there is nothing to see."""
        return {}

    def split(self, name: Split) -> "Optimizee":
        """Give the same distribution over the tasks of a split. An optimizee by itself draws those of "train".

        By default all splits are one: tasks are drawn from a continuum, and no two draws are alike. Where
        tasks are made of finitely many pictures, for example, the splits share none. It is called after `to`.
        """
        return self

    def to(self, device: torch.device | str) -> Self:
        """Move the data to a device, in place. By default there is nothing to move."""
        return self

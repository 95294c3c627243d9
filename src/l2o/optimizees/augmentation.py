"""Views that make other problems of an optimizee: other scales of θ and of the loss, and noise in the gradient.

They are for meta-training: an update rule that has met every scale does not rely on one. What a view draws belongs to
the task, and so changes from episode to episode, or to the minibatch.

Shapes: B tasks, P coordinates of one optimizee.
"""

from abc import abstractmethod
from collections.abc import Sequence
from math import log

import torch
from torch import Generator, Tensor

from l2o.optimizees.base import Batch, Optimizee
from l2o.optimizees.layout import Axis
from l2o.optimizees.views import View


def log_uniform(ends: Sequence[float], shape: Sequence[int], generator: Generator) -> Tensor:
    """Draw numbers between two ends, uniformly in the logarithm."""
    low, high = (log(end) for end in ends)
    return (low + (high - low) * torch.rand(*shape, generator=generator, device=generator.device)).exp()


def refuse_ends(what: str, ends: Sequence[float]) -> None:
    """Raise ValueError, naming the view, for two ends that are not positive and in order."""
    if len(ends) != 2 or not 0 < ends[0] <= ends[1] < float("inf"):
        raise ValueError(f"{what} needs two positive numbers [low, high], got {[*ends]}")


class Drawing(View):
    """Adds what it draws to each task or minibatch of the inner optimizee, under the key `name`. The inner optimizee
    never sees it."""

    name: str

    def __init__(self, inner: Optimizee):
        seen: Optimizee = inner
        while isinstance(seen, View):
            if isinstance(seen, Drawing) and seen.name == self.name:  # each would read what the other has drawn
                raise ValueError(f"an optimizee has one {self.name}, and this one has it already: remove one view")
            seen = seen.inner
        super().__init__(inner)

    def inner_part(self, batch: Batch) -> Batch:
        """Return a task or minibatch without what this view has added."""
        return {key: value for key, value in batch.items() if key != self.name}

    def loss(self, theta: Tensor, batch: Batch) -> Tensor:
        return self.inner.loss(theta, self.inner_part(batch))

    def losses(self, theta: Tensor, batch: Batch) -> Tensor:
        return self.inner.losses(theta, self.inner_part(batch))

    def loss_and_grad(self, theta: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        return self.inner.loss_and_grad(theta, self.inner_part(batch))

    def metrics(self, theta: Tensor, task: Batch) -> dict[str, Tensor]:
        return self.inner.metrics(theta, self.inner_part(task))

    def pictures(self, theta: Tensor, task: Batch) -> dict[str, list[Tensor]]:
        return self.inner.pictures(theta, self.inner_part(task))


class OfTasks(Drawing):
    """Draws something for every task, which its minibatches keep."""

    @abstractmethod
    def drawn(self, num_tasks: int, generator: Generator) -> Tensor:
        """Draw it for B tasks: (B, …)."""

    def sample(self, num_tasks: int, generator: Generator) -> tuple[Tensor, Batch]:
        theta, task = self.inner.sample(num_tasks, generator)
        return theta, {**task, self.name: self.drawn(len(theta), generator)}

    def sample_batch(self, task: Batch, num_tasks: int, generator: Generator) -> Batch:
        batch = self.inner.sample_batch(self.inner_part(task), num_tasks, generator)
        return {**batch, self.name: task[self.name]}

    def sample_test_batch(self, task: Batch, num_tasks: int, generator: Generator) -> Batch:
        batch = self.inner.sample_test_batch(self.inner_part(task), num_tasks, generator)
        return {**batch, self.name: task[self.name]}


class Reparametrised(OfTasks):
    """f'(w) = f(α w) from w_0 = θ_0 / α: the same problem, whose parameters have another scale.

    α is drawn for every task, uniformly in the logarithm between two ends: one number for all coordinates where `level`
    is "global", one for each parameter where it is "tensor", one for each coordinate where it is "coordinate".
    """

    name = "reparametrisation"

    def __init__(self, inner: Optimizee, ends: Sequence[float] = (1e-3, 1e3), level: str = "global"):
        super().__init__(inner)
        refuse_ends("a reparametrisation", ends)
        if level not in ("global", "tensor", "coordinate"):
            raise ValueError(f"level must be global, tensor or coordinate, got {level!r}")
        self.ends, self.level = tuple(ends), level

    def drawn(self, num_tasks: int, generator: Generator) -> Tensor:
        sizes = {"global": 1, "tensor": self.layout.length(Axis.TENSORS), "coordinate": self.layout.size}
        alpha = log_uniform(self.ends, (num_tasks, sizes[self.level]), generator)
        return self.layout.spread(alpha) if self.level == "tensor" else alpha  # (B, 1) or (B, P)

    def sample(self, num_tasks: int, generator: Generator) -> tuple[Tensor, Batch]:
        theta, task = super().sample(num_tasks, generator)
        return theta / task[self.name], task

    def loss(self, theta: Tensor, batch: Batch) -> Tensor:
        return super().loss(theta * batch[self.name], batch)

    def losses(self, theta: Tensor, batch: Batch) -> Tensor:
        return super().losses(theta * batch[self.name], batch)

    def loss_and_grad(self, theta: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        losses, grads = super().loss_and_grad(theta * batch[self.name], batch)
        return losses, grads * batch[self.name]

    def metrics(self, theta: Tensor, task: Batch) -> dict[str, Tensor]:
        return super().metrics(theta * task[self.name], task)

    def pictures(self, theta: Tensor, task: Batch) -> dict[str, list[Tensor]]:
        return super().pictures(theta * task[self.name], task)

    def of(self, inner: Optimizee) -> "Reparametrised":
        return type(self)(inner, self.ends, self.level)


class LossScaled(OfTasks):
    """f'(θ) = c f(θ), where c is drawn for every task, uniformly in the logarithm between two ends.

    The metrics are those of f itself.
    """

    name = "loss scale"

    def __init__(self, inner: Optimizee, ends: Sequence[float] = (1e-3, 1e3)):
        super().__init__(inner)
        refuse_ends("a scale of the loss", ends)
        self.ends = tuple(ends)

    def drawn(self, num_tasks: int, generator: Generator) -> Tensor:
        return log_uniform(self.ends, (num_tasks,), generator)

    def loss(self, theta: Tensor, batch: Batch) -> Tensor:
        return batch[self.name] * super().loss(theta, batch)

    def losses(self, theta: Tensor, batch: Batch) -> Tensor:
        return batch[self.name] * super().losses(theta, batch)

    def loss_and_grad(self, theta: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        losses, grads = super().loss_and_grad(theta, batch)
        return batch[self.name] * losses, batch[self.name][:, None] * grads

    def of(self, inner: Optimizee) -> "LossScaled":
        return type(self)(inner, self.ends)


class NoisyGradients(Drawing):
    """Adds noise to the gradient, and leaves the loss as it is.

    A parameter's gradient gets N(0, std²) times its own root mean square, so that `std` means the same on every
    problem: at 1 there is as much noise as signal. The noise is drawn with the minibatch.
    """

    name = "gradient noise"

    def __init__(self, inner: Optimizee, std: float = 0.5):
        super().__init__(inner)
        if not 0 <= std < float("inf"):
            raise ValueError(f"the noise of gradients needs a standard deviation >= 0, got {std}")
        self.std = std

    def sample_batch(self, task: Batch, num_tasks: int, generator: Generator) -> Batch:
        return self._with_noise(self.inner.sample_batch(task, num_tasks, generator), num_tasks, generator)

    def sample_test_batch(self, task: Batch, num_tasks: int, generator: Generator) -> Batch:
        return self._with_noise(self.inner.sample_test_batch(task, num_tasks, generator), num_tasks, generator)

    def loss_and_grad(self, theta: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        losses, grads = super().loss_and_grad(theta, batch)
        parts = self.layout.unravel(grads.detach()).values()
        sizes = torch.stack(
            [part.reshape(len(grads), -1).square().mean(1).sqrt() for part in parts], 1
        )  # (B, number of parts)
        return losses, grads + self.std * self.layout.spread(sizes) * batch[self.name]

    def of(self, inner: Optimizee) -> "NoisyGradients":
        return type(self)(inner, self.std)

    def _with_noise(self, batch: Batch, num_tasks: int, generator: Generator) -> Batch:
        rows = next((len(value) for value in batch.values()), num_tasks)  # of a subset there are fewer
        noise = torch.randn(rows, self.layout.size, generator=generator, device=generator.device)
        return {**batch, self.name: noise}

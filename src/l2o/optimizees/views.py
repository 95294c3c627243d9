"""Views of an optimizee: the same function f, with other tasks drawn from it.

Shapes: B tasks, P coordinates of one optimizee, R copies.
"""

from collections.abc import Callable
from typing import Self

import torch
from torch import Generator, Tensor

from l2o.optimizees.base import Batch, Optimizee, Split
from l2o.optimizees.layout import Layout


class View(Optimizee):
    """Hands everything over to another optimizee, `inner`. A subclass says what differs.

    `sample` gives the view's tasks as a batch whose leading axis is the view's; whatever takes such a batch goes to
    the inner optimizee as it stands.
    """

    def __init__(self, inner: Optimizee):
        self.inner = inner

    @property
    def layout(self) -> Layout:  # type: ignore[override]  # the inner optimizee's, whenever that is asked for
        return self.inner.layout

    def sample(self, num_tasks: int, generator: Generator) -> tuple[Tensor, Batch]:
        return self.inner.sample(num_tasks, generator)

    def sample_batch(self, task: Batch, num_tasks: int, generator: Generator) -> Batch:
        return self.inner.sample_batch(task, num_tasks, generator)

    def sample_test_batch(self, task: Batch, num_tasks: int, generator: Generator) -> Batch:
        return self.inner.sample_test_batch(task, num_tasks, generator)

    def loss(self, theta: Tensor, batch: Batch) -> Tensor:
        return self.inner.loss(theta, batch)

    def losses(self, theta: Tensor, batch: Batch) -> Tensor:
        return self.inner.losses(theta, batch)

    def tasks_at_once(self, theta: Tensor) -> int:
        return self.inner.tasks_at_once(theta)

    def loss_and_grad(self, theta: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        return self.inner.loss_and_grad(theta, batch)

    def metrics(self, theta: Tensor, task: Batch) -> dict[str, Tensor]:
        return self.inner.metrics(theta, task)

    def pictures(self, theta: Tensor, task: Batch) -> dict[str, list[Tensor]]:
        return self.inner.pictures(theta, task)

    def split(self, name: Split) -> "View":
        return self.of(self.inner.split(name))

    def to(self, device: torch.device | str) -> Self:
        self.inner.to(device)
        return self

    def of(self, inner: Optimizee) -> "View":
        """Return the same view of another optimizee."""
        return type(self)(inner)


class Subset(View):
    """Keeps the tasks `chosen` of every draw; work is done on these alone.

    All tasks are drawn, as they are without the view, so that a task does not depend on how many processes share the
    tasks. `sample` draws B tasks and gives those of `chosen`; `sample_batch` draws the minibatches of all B tasks and
    gives those of `chosen`. The tasks that were left out are remembered until the next `sample`, because the minibatch
    of a task may depend on it: a view serves one episode at a time.
    """

    def __init__(self, inner: Optimizee, chosen: slice):
        super().__init__(inner)
        self.chosen = chosen
        self._all_tasks: Batch = {}
        self._num_tasks = 0

    def sample(self, num_tasks: int, generator: Generator) -> tuple[Tensor, Batch]:
        theta, self._all_tasks = self.inner.sample(num_tasks, generator)
        self._num_tasks = num_tasks
        return theta[self.chosen], self._of_chosen(self._all_tasks)

    def sample_batch(self, task: Batch, num_tasks: int, generator: Generator) -> Batch:
        return self._of_chosen(self.inner.sample_batch(self._all_tasks, self._num_tasks, generator))

    def sample_test_batch(self, task: Batch, num_tasks: int, generator: Generator) -> Batch:
        return self._of_chosen(self.inner.sample_test_batch(self._all_tasks, self._num_tasks, generator))

    def of(self, inner: Optimizee) -> "Subset":
        return type(self)(inner, self.chosen)

    def _of_chosen(self, batch: Batch) -> Batch:
        return {key: value[self.chosen] for key, value in batch.items()}


class Repeated(View):
    """Makes R `copies` of every task and of every minibatch, which are drawn once: all copies meet the same problem.

    The view's R·B tasks lie copy by copy: all B tasks of the first copy, then all of the second, and so on. Asking for
    a number of tasks that R does not divide raises a ValueError.
    """

    def __init__(self, inner: Optimizee, copies: int):
        if copies < 1:
            raise ValueError(f"Repeated needs at least one copy of every task, got copies={copies}")
        super().__init__(inner)
        self.copies = copies

    def sample(self, num_tasks: int, generator: Generator) -> tuple[Tensor, Batch]:
        theta, task = self.inner.sample(self._originals(num_tasks), generator)
        return self._repeat(theta), {key: self._repeat(value) for key, value in task.items()}

    def sample_batch(self, task: Batch, num_tasks: int, generator: Generator) -> Batch:
        return self._batch(self.inner.sample_batch, task, num_tasks, generator)

    def sample_test_batch(self, task: Batch, num_tasks: int, generator: Generator) -> Batch:
        return self._batch(self.inner.sample_test_batch, task, num_tasks, generator)

    def _batch(
        self, draw: Callable[[Batch, int, Generator], Batch], task: Batch, num_tasks: int, generator: Generator
    ) -> Batch:
        """Draw the minibatches of the first copy's tasks, and repeat them for every copy."""
        count = self._originals(num_tasks)
        batch = draw({key: value[:count] for key, value in task.items()}, count, generator)
        return {key: self._repeat(value) for key, value in batch.items()}

    def of(self, inner: Optimizee) -> "Repeated":
        return type(self)(inner, self.copies)

    def _originals(self, num_tasks: int) -> int:
        if num_tasks % self.copies:
            raise ValueError(f"{self.copies} copies of every task make no {num_tasks} tasks: ask for a multiple")
        return num_tasks // self.copies

    def _repeat(self, tensor: Tensor) -> Tensor:
        return torch.cat([tensor] * self.copies)  # for minibatches in a fraction of the time of Tensor.repeat

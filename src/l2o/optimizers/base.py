"""What optimizes: an update rule m(∇, h, φ), learned or hand-designed.

Shapes: B tasks, P coordinates of one optimizee, K steps of a window.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from l2o.optimizees.layout import Layout
from l2o.optimizers import registry

State = dict[str, Tensor]
"""What an update rule remembers; axis 0 tasks, axis 1 P or 1 (Adam's step count: (B, 1))."""


class UpdateRule(nn.Module, ABC):
    """[g_t, h_{t+1}] = m(∇_t, h_t, φ), then θ_{t+1} = θ_t + g_t (Andrychowicz et al. 2016, equation 3).

    φ are the module's parameters. The arguments of a subclass's constructor are kept as attributes of the same names:
    that is how a trained rule is exported and built again.
    """

    card: dict[str, Any] | None = None
    """What an exported rule says of itself: what it was trained on, results, licence (`l2o.deploy.model_card`)."""

    coordinatewise: bool
    """Each coordinate's update depends on that coordinate alone: it may be chunked, replayed, sharded."""

    def __init_subclass__(cls, **keywords: Any) -> None:
        """Make the class known by its name, so that exported files can name it."""
        super().__init_subclass__(**keywords)
        registry.register(cls)

    @property
    def label(self) -> str:
        """What tables and figures call a rule of this class."""
        return type(self).__name__

    @abstractmethod
    def init_state(self, theta: Tensor, layout: Layout) -> State:
        """h_0 for θ_0 (B, P)."""

    @abstractmethod
    def forward(self, grad: Tensor, state: State, theta: Tensor, layout: Layout) -> tuple[Tensor, State]:
        """∇_t, θ_t (B, P) -> g_t (B, P), h_{t+1}. Pure: neither argument is changed.

        In first order θ arrives detached: the paper's meta-gradient has no path through what the rule reads.
        """

    def advance(self, grad: Tensor, state: State, theta: Tensor, layout: Layout) -> tuple[Tensor, State]:
        """`forward` for a caller who gives `state` away: its memory may be used for the next state. No graph."""
        return self(grad, state, theta, layout)

    def replay_numbers(self, state: State) -> int:
        """How many numbers `replay_gradient` keeps for each coordinate and step, at most about; by default for a graph
        of autograd: eight for each number of the state (gates, their inputs, products; an LSTM's takes four)."""
        return 8 * (sum(value[0, 0].numel() for value in state.values()) + 1)

    def replay_gradient(
        self, grads: Tensor, cotangents: Tensor, state: State, theta: Tensor, layout: Layout
    ) -> list[Tensor]:
        """Σ_t ⟨λ_t, ∂g_t/∂φ⟩ over the K steps of a window, replayed from recorded gradients.

        grads ∇_t and cotangents λ_t are (K, B, P); state and theta are those of the window's first step. One gradient
        for each of `parameters()`, in their order. Needs no optimizee; a subclass may have a faster way.
        """
        parameters = list(self.parameters())
        with torch.enable_grad():
            objective = theta.new_zeros(())
            for grad, cotangent in zip(grads, cotangents, strict=True):
                update, state = self(grad, state, theta, layout)
                theta = theta + update.detach()  # the trajectory that was recorded, without recording it
                objective = objective + (update * cotangent).sum()
        return gradients(objective, parameters)

    def replay_in_chunks(
        self,
        grads: Tensor,
        cotangents: Callable[[Sequence[slice]], Tensor],
        state: State,
        theta: Tensor,
        layout: Layout,
        max_bytes: int,
        runs: Sequence[slice] = (slice(None),),
    ) -> list[Tensor]:
        """`replay_gradient`; a coordinatewise rule's by chunks of coordinates that take about `max_bytes` each.

        `cotangents` gives λ (K, B, G) of the G coordinates of some runs, as `take` would of all of them. `runs` are
        where the rule's coordinates lie in grads; only a chunk's are ever copied, and only its λ ever made.
        """
        total = [torch.zeros_like(parameter) for parameter in self.parameters()]
        for part in self.chunks(len(grads), state, theta, max_bytes):
            own = {key: value if value.shape[1] == 1 else value[:, part] for key, value in state.items()}
            where = runs_within(runs, part, grads.shape[-1])
            recorded = take(grads, where), cotangents(where)
            share = self.replay_gradient(*recorded, own, theta[:, part], layout)
            total = [sum_ + added for sum_, added in zip(total, share, strict=True)]
        return total

    def chunks(self, num_steps: int, state: State, theta: Tensor, max_bytes: int) -> list[slice]:
        """The coordinates, shared out so that a replay of K steps over each share takes about `max_bytes`."""
        num_tasks, num_coordinates = theta.shape
        if not self.coordinatewise:
            return [slice(0, num_coordinates)]
        copied = sum(part[0, 0].numel() for part in state.values())
        numbers_each = num_tasks * (num_steps * self.replay_numbers(state) + copied)
        size = max(1, max_bytes // (numbers_each * theta.element_size()))
        return [slice(start, start + size) for start in range(0, num_coordinates, size)]


def take(tensor: Tensor, runs: Sequence[slice]) -> Tensor:
    """(…, P) -> (…, G), the coordinates of the runs one after another; a view where there is one run."""
    return tensor[..., runs[0]] if len(runs) == 1 else torch.cat([tensor[..., run] for run in runs], -1)


def runs_within(runs: Sequence[slice], part: slice, size: int) -> list[slice]:
    """The runs of 0 … size − 1 that `take` is to take for `take(tensor, runs)[..., part]`."""
    ranges, found, before = [range(size)[run] for run in runs], [], 0
    start, stop, _ = part.indices(sum(map(len, ranges)))
    for run in ranges:
        if inner := run[max(0, start - before) : max(0, stop - before)]:
            found.append(slice(inner.start, inner.stop))
        before += len(run)
    return found or [slice(0, 0)]


def gradients(objective: Tensor, parameters: Sequence[Tensor]) -> list[Tensor]:
    """∂objective/∂φ, with zeros for parameters that are frozen or that the objective does not depend on."""
    if not objective.requires_grad:
        return [torch.zeros_like(parameter) for parameter in parameters]
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    found = iter(torch.autograd.grad(objective, trained, allow_unused=True, materialize_grads=True))
    return [next(found) if parameter.requires_grad else torch.zeros_like(parameter) for parameter in parameters]

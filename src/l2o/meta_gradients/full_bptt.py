"""The exact gradient of whole, short episodes: second order, with the graph of only a few steps at a time.

Shapes: B tasks, P coordinates of one optimizee, T steps of an episode.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from l2o.meta_gradients.base import MetaGradient, WindowResult
from l2o.meta_gradients.losses_read import LossOn, OtherLosses, refuse_unknown
from l2o.meta_gradients.objectives import Objective, Sum
from l2o.optimizees.base import Optimizee
from l2o.optimizers.base import UpdateRule
from l2o.unroll import Episode, step


class FullBPTT(MetaGradient):
    """Propagates back through the whole episode, optimizee included: one window is one episode (for short horizons).

    L(φ) = 1/B Σ_tasks objective(ℓ_1 … ℓ_T), differentiated with every path (∂∇_t/∂φ included) by autograd. The episode
    runs to its horizon, whatever number of steps is asked for. Only the states between stretches of `stretch` steps are
    kept (by default √T steps), and each stretch is run once more with a graph: it takes the memory of √T steps, and
    twice the time. The result equals that of `TruncatedBPTT(second_order=True)` with the window as long as the episode.

    The gradient of a long episode may explode, where the inner dynamics are chaotic (Metz et al. 2019): then evolution
    strategies serve better. The carry is the `Episode`. Raises ValueError for an episode without a horizon.
    """

    def __init__(self, objective: Objective | None = None, loss_on: LossOn = "inner", stretch: int | None = None):
        if stretch is not None and stretch < 1:
            raise ValueError(
                f"stretch is how many steps are differentiated at a time, at least 1 or null, got {stretch}"
            )
        refuse_unknown(loss_on)
        self.objective, self.stretch = objective or Sum(), stretch
        self.loss_on: LossOn = loss_on

    def __call__(
        self, rule: UpdateRule, optimizee: Optimizee, carry: Episode, num_steps: int, generator: Generator
    ) -> WindowResult:
        if not math.isfinite(carry.horizon):
            raise ValueError("FullBPTT runs whole episodes and needs to know their horizon: give a finite one")
        length = int(carry.horizon) - carry.step
        starts = range(0, length, self.stretch or max(1, math.isqrt(length)))
        run = Run(rule, optimizee, OtherLosses(self.loss_on, optimizee), generator)
        kept, curve, episode = [], [], carry
        with torch.no_grad():
            for first, last in pairwise([*starts, length]):
                kept.append((episode, generator.get_state()))
                losses, episode = run(episode, last - first)
                curve.append(losses)
            final = generator.get_state()
        losses, objective, weights = self._weights(torch.cat(curve), carry)
        gradient = _back(run, kept, weights.split([len(part) for part in curve]))
        generator.set_state(final)
        return WindowResult(losses, objective, gradient, episode, True)

    def _weights(self, losses: Tensor, start: Episode) -> tuple[Tensor, Tensor, Tensor]:
        """Return the losses, the objective's value, and ∂L/∂ℓ (T, B)."""
        first = torch.full_like(start.loss, math.nan) if start.start_loss is None else start.start_loss
        with torch.enable_grad():
            leaf = losses.requires_grad_()
            objective = self.objective(leaf, first, True).mean()
            (weights,) = torch.autograd.grad(objective, leaf, allow_unused=True, materialize_grads=True)
        return losses.detach(), objective.detach(), weights


class Run(NamedTuple):
    """Hold what is needed to do some steps of an episode again."""

    rule: UpdateRule
    optimizee: Optimizee
    other: OtherLosses
    generator: Generator

    def __call__(self, episode: Episode, num_steps: int) -> tuple[Tensor, Episode]:
        """Do some steps, and return the losses that the objective reads, (steps, B), and the episode after them."""
        losses = []
        for _ in range(num_steps):
            _, episode = step(self.rule, self.optimizee, episode, self.generator)
            losses.append(self.other.loss(episode, self.generator) if self.other.needed else episode.loss)
        return torch.stack(losses), episode


@torch.enable_grad()
def _back(run: Run, kept: Sequence[tuple[Episode, Tensor]], weights: Sequence[Tensor]) -> list[Tensor]:
    """Return Σ_t ⟨w_t, dℓ_t/dφ⟩, from the last stretch to the first, each of which is run again with a graph."""
    parameters = list(run.rule.parameters())
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    total = [torch.zeros_like(parameter) for parameter in trained]
    if not trained:
        return [torch.zeros_like(parameter) for parameter in parameters]
    arriving: dict[str, Tensor] = {}  # ∂L by what the next stretch started from
    for (episode, stream), weight in zip(reversed(kept), reversed(weights), strict=True):
        run.generator.set_state(stream)
        start, leaves = _with_leaves(run, episode)
        losses, after = run(start, len(weight))
        outputs = {"losses": losses} | {key: value for key, value in _parts(after).items() if key in arriving}
        cotangents = {"losses": weight} | arriving
        live = [key for key, value in outputs.items() if value.requires_grad]
        found = torch.autograd.grad(
            [outputs[key] for key in live],
            [*trained, *leaves.values()],
            [cotangents[key] for key in live],
            allow_unused=True,
            materialize_grads=True,
        )
        total = [a + b for a, b in zip(total, found, strict=False)]
        arriving = dict(zip(leaves, found[len(trained) :], strict=True))
    shares = iter(total)
    return [next(shares) if parameter.requires_grad else torch.zeros_like(parameter) for parameter in parameters]


def _with_leaves(run: Run, episode: Episode) -> tuple[Episode, dict[str, Tensor]]:
    """Return the episode with leaves of a graph in the places of its parts, and these leaves by name.

    At an episode's start nothing comes from an earlier stretch, but a learned initial state is made anew from φ.
    """
    if not episode.step:
        return episode._replace(state=run.rule.init_state(episode.theta, run.optimizee.layout)), {}
    leaves = {
        key: value.detach().requires_grad_() for key, value in _parts(episode).items() if value.is_floating_point()
    }
    state = {key: leaves.get(f"state.{key}", value) for key, value in episode.state.items()}
    return episode._replace(theta=leaves["theta"], loss=leaves["loss"], grad=leaves["grad"], state=state), leaves


def _parts(episode: Episode) -> dict[str, Tensor]:
    """Return what one stretch hands on to the next, by name."""
    own = {"theta": episode.theta, "loss": episode.loss, "grad": episode.grad}
    return own | {f"state.{key}": value for key, value in episode.state.items()}

"""Estimators of dL/dφ over one window of an episode.

Shapes: B tasks, P coordinates of one optimizee, K steps of the window.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Generator, Tensor

from l2o.optimizees.base import Optimizee
from l2o.optimizers.base import UpdateRule, gradients, take
from l2o.unroll import Episode, unroll

WindowResult = tuple[Tensor, list[Tensor], Episode]
"""Losses f(θ_1) … f(θ_K) (K, B); gradients in the order of rule.parameters(); the episode moved on, detached."""


class MetaGradient(ABC):
    """An estimator of dL/dφ over one window; what L is, the estimator says."""

    @abstractmethod
    def __call__(
        self, rule: UpdateRule, optimizee: Optimizee, episode: Episode, num_steps: int, generator: Generator
    ) -> WindowResult: ...


class TruncatedBPTT(MetaGradient):
    """Backpropagation through the K steps of a window; the state is carried over, gradients are not.

    L(φ) = 1/B Σ_tasks Σ_t w_t f(θ_t), w_t = 1 for every step, as in the paper, or only for the window's last step
    (`last_step_only`: with windows as long as the episode, its final loss).

    First order (the paper's: ∂∇_t/∂φ = 0) needs no graph of the optimizee. With θ_s = θ_0 + Σ_{t<s} g_t,

        dL/dφ = Σ_t ⟨λ_t, ∂g_t/∂φ⟩,   λ_t = ∂L/∂g_t = 1/B Σ_{s>t} w_s ∇f(θ_s),

    and every ∇f(θ_s) is one that the rule reads anyway: they are recorded, then the rule alone is replayed over them. A
    coordinatewise rule is replayed in chunks of coordinates, so that a replay, its λ included, takes at most about
    `max_replay_bytes`.
    Second order is plain autograd through the whole window, optimizee included.
    """

    def __init__(self, second_order: bool = False, last_step_only: bool = False, max_replay_bytes: int = 2**30):
        if max_replay_bytes < 1:
            raise ValueError(f"max_replay_bytes must be positive, got {max_replay_bytes}")
        self.second_order, self.last_step_only, self.max_replay_bytes = second_order, last_step_only, max_replay_bytes

    def __call__(
        self, rule: UpdateRule, optimizee: Optimizee, episode: Episode, num_steps: int, generator: Generator
    ) -> WindowResult:
        weights = torch.ones(num_steps, dtype=episode.theta.dtype, device=episode.theta.device)
        if self.last_step_only:
            weights[:-1] = 0
        window = self._second_order if self.second_order else self._first_order
        return window(rule, optimizee, episode, weights, generator)

    def _first_order(
        self, rule: UpdateRule, optimizee: Optimizee, episode: Episode, weights: Tensor, generator: Generator
    ) -> WindowResult:
        num_steps, num_tasks = len(weights), len(episode.theta)
        grads = episode.theta.new_empty(num_steps + 1, *episode.theta.shape)  # ∇_0 … ∇_K
        losses, after = unroll(rule, optimizee, episode, num_steps, generator, record=grads)

        def cotangents(runs: Sequence[slice]) -> Tensor:
            summed = take(grads[1:], runs) * (weights / num_tasks)[:, None, None]
            for later, earlier in pairwise(reversed(summed.unbind())):  # in place: λ_0 … λ_{K−1}
                earlier += later
            return summed

        gradient = rule.replay_in_chunks(
            grads[:-1], cotangents, episode.state, episode.theta, optimizee.layout, self.max_replay_bytes
        )
        return losses, gradient, after

    def _second_order(
        self, rule: UpdateRule, optimizee: Optimizee, episode: Episode, weights: Tensor, generator: Generator
    ) -> WindowResult:
        task, theta, loss, grad, state, step = episode
        losses = []
        with torch.enable_grad():
            for _ in weights:
                update, state = rule(grad, state, theta, optimizee.layout)
                theta = theta + update
                loss, grad = optimizee.loss_and_grad(theta, optimizee.sample_batch(task, len(theta), generator))
                losses.append(loss)
            curves = torch.stack(losses)
            gradient = gradients((weights @ curves).mean(), list(rule.parameters()))
        state = {key: value.detach() for key, value in state.items()}
        after = Episode(task, theta.detach(), loss.detach(), grad.detach(), state, step + len(weights))
        return curves.detach(), gradient, after

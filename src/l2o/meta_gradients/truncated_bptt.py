"""Truncated backpropagation through time: the meta-gradient of Andrychowicz et al. (2016).

Shapes: B tasks, P coordinates of one optimizee, K steps of the window.
"""

from itertools import pairwise

import torch
from torch import Generator, Tensor

from l2o.meta_gradients.base import MetaGradient, WindowResult
from l2o.optimizees.base import Optimizee
from l2o.optimizers.base import Recording, UpdateRule, take
from l2o.replay import gradients, replay
from l2o.unroll import Episode, step, unroll


class TruncatedBPTT(MetaGradient):
    """Propagates back through the K steps of a window. The state is carried over to the next window, gradients are not.

    L(φ) = 1/B Σ_tasks Σ_t w_t f(θ_t), w_t = 1 for every step, as in the paper, or only for the window's last step
    (`last_step_only`: with windows as long as the episode, its final loss).

    First order (the paper's: ∂∇_t/∂φ = 0) needs no graph of the optimizee. With θ_s = θ_0 + Σ_{t<s} g_t,

        dL/dφ = Σ_t ⟨λ_t, ∂g_t/∂φ⟩,   λ_t = ∂L/∂g_t = 1/B Σ_{s>t} w_s ∇f(θ_s),

    and the rule reads every ∇f(θ_s) anyway. The gradients are therefore recorded, and the rule alone is replayed over
    them (`l2o.replay`), in chunks that take about `max_replay_bytes` each, their λ included.
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

        def cotangents(spans: list[slice]) -> Tensor:
            summed = take(grads[1:], spans) * (weights / num_tasks)[:, None, None]
            for later, earlier in pairwise(reversed(summed.unbind())):  # in place: λ_0 … λ_{K−1}
                earlier += later
            return summed

        recording = recorded(episode, grads[:-1], losses, optimizee)
        return losses, replay(rule, recording, cotangents, self.max_replay_bytes), after

    def _second_order(
        self, rule: UpdateRule, optimizee: Optimizee, episode: Episode, weights: Tensor, generator: Generator
    ) -> WindowResult:
        losses = []
        with torch.enable_grad():
            for _ in weights:
                _, episode = step(rule, optimizee, episode, generator)
                losses.append(episode.loss)
            curves = torch.stack(losses)
            gradient = gradients((weights @ curves).mean(), list(rule.parameters()))
        state = {key: value.detach() for key, value in episode.state.items()}
        theta, loss, grad = episode.theta.detach(), episode.loss.detach(), episode.grad.detach()
        return curves.detach(), gradient, episode._replace(theta=theta, loss=loss, grad=grad, state=state)


def recorded(start: Episode, grads: Tensor, losses: Tensor, optimizee: Optimizee) -> Recording:
    """Make the recording of a window that began at `start`, from the gradients that were read and f(θ_1) … f(θ_K)."""
    read = torch.cat((start.loss[None], losses[:-1]))
    return Recording(grads, read, start.theta, start.state, start.step, start.horizon, optimizee.layout)

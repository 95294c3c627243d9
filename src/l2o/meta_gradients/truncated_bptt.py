"""Truncated backpropagation through time: the meta-gradient of Andrychowicz et al. (2016).

Shapes: B tasks, P coordinates of one optimizee, K steps of the window.
"""

from itertools import pairwise

import torch
from torch import Generator, Tensor

from l2o.meta_gradients.base import MetaGradient, WindowResult, ends
from l2o.meta_gradients.losses_read import LossOn, OtherLosses, refuse_unknown
from l2o.meta_gradients.objectives import Last, Objective, Sum
from l2o.optimizees.base import Optimizee
from l2o.optimizers.base import Recording, UpdateRule, take
from l2o.replay import gradients, replay
from l2o.unroll import Episode, step, steps, told


class TruncatedBPTT(MetaGradient):
    """Propagates back through the K steps of a window. The state is carried over to the next window, gradients are not.

    L(φ) = 1/B Σ_tasks objective(ℓ_1 … ℓ_K). By default the objective is the paper's, the sum over the window, and
    ℓ_t = f(θ_t) on the minibatch that the rule reads next (`loss_on="inner"`). With `loss_on="fresh"` or "test", ℓ_t is
    taken on another minibatch of the training data, or on one of the test data, at the cost of a second evaluation at
    every step; the rule still reads the inner ones. `last_step_only` stands for the objective `Last(each_window=True)`.

    First order (the paper's: ∂∇_t/∂φ = 0) needs no graph of the optimizee. With θ_s = θ_0 + Σ_{t<s} g_t,

        dL/dφ = Σ_t ⟨λ_t, ∂g_t/∂φ⟩,   λ_t = ∂L/∂g_t = Σ_{s>t} w_s ∇ℓ(θ_s),   w_s = ∂L/∂ℓ_s,

    which is exact for every differentiable objective. The rule reads every ∇f(θ_s) anyway. The gradients are therefore
    recorded, and the rule alone is replayed over them (`l2o.replay`), in chunks that take about `max_replay_bytes`
    each, their λ included. Second order is plain autograd through the whole window, optimizee included.

    The carry is the `Episode`. Raises ValueError for an unknown `loss_on`, for `last_step_only` beside an objective,
    and where `max_replay_bytes` is not positive.
    """

    def __init__(
        self,
        second_order: bool = False,
        last_step_only: bool = False,
        max_replay_bytes: int = 2**30,
        objective: Objective | None = None,
        loss_on: LossOn = "inner",
    ):
        if max_replay_bytes < 1:
            raise ValueError(f"max_replay_bytes must be positive, got {max_replay_bytes}")
        if last_step_only and objective is not None:
            raise ValueError(
                "last_step_only=true and an objective contradict each other: give one of them "
                "(last_step_only is the objective Last with each_window=true)"
            )
        refuse_unknown(loss_on)
        self.second_order, self.last_step_only, self.max_replay_bytes = second_order, last_step_only, max_replay_bytes
        self.objective = objective or (Last(each_window=True) if last_step_only else Sum())
        self.loss_on: LossOn = loss_on

    def __call__(
        self, rule: UpdateRule, optimizee: Optimizee, carry: Episode, num_steps: int, generator: Generator
    ) -> WindowResult:
        window = self._second_order if self.second_order else self._first_order
        return window(rule, optimizee, carry, num_steps, generator)

    @torch.no_grad()
    def _first_order(
        self, rule: UpdateRule, optimizee: Optimizee, episode: Episode, num_steps: int, generator: Generator
    ) -> WindowResult:
        start, other = episode, OtherLosses(self.loss_on, optimizee)
        read = episode.theta.new_empty(num_steps + 1, *episode.theta.shape)  # ∇f(θ_0) … ∇f(θ_K)
        inner = losses = episode.theta.new_empty(num_steps, len(episode.theta))  # f(θ_1) … f(θ_K)
        aimed = read[1:]  # ∇ℓ(θ_1) … ∇ℓ(θ_K)
        if other.needed:
            losses, aimed = torch.empty_like(inner), torch.empty_like(aimed)
        read[0] = episode.grad
        walk = steps(rule, optimizee, episode, num_steps, generator)
        for t, ((_, episode), loss, grad) in enumerate(zip(walk, inner.unbind(), read[1:].unbind(), strict=True)):
            loss.copy_(episode.loss)
            grad.copy_(episode.grad)
            if other.needed:
                losses[t], aimed[t] = other.loss_and_grad(episode, generator)
        objective, weights = self._weights(losses, start, num_steps)
        recording = recorded(start, read[:-1], inner, optimizee)
        if weights is None:
            gradient = [torch.zeros_like(parameter) for parameter in rule.parameters()]
        else:
            gradient = replay(
                rule, recording, lambda spans: summed_back(take(aimed, spans), weights), self.max_replay_bytes
            )
        return WindowResult(losses, objective, gradient, episode, episode.step >= episode.horizon)

    def _weights(self, losses: Tensor, start: Episode, num_steps: int) -> tuple[Tensor, Tensor | None]:
        """Return the objective's value and w = ∂L/∂ℓ (K, B), which is None where L does not depend on the losses."""
        slope = self.objective.slope(num_steps)
        if slope is not None:
            return self._objective(losses, start, num_steps), torch.full_like(losses, slope / losses.shape[1])
        with torch.enable_grad():
            losses = losses.detach().requires_grad_()
            objective = self._objective(losses, start, num_steps)
            if not objective.requires_grad:
                return objective, None
            (weights,) = torch.autograd.grad(objective, losses)
        return objective.detach(), weights

    def _objective(self, losses: Tensor, start: Episode, num_steps: int) -> Tensor:
        """Return L for the losses (K, B) of a window that began at `start`."""
        start_loss = torch.full_like(start.loss, torch.nan) if start.start_loss is None else start.start_loss
        return self.objective(losses, start_loss, ends(start.step, num_steps, start.horizon)).mean()

    @torch.enable_grad()
    def _second_order(
        self, rule: UpdateRule, optimizee: Optimizee, episode: Episode, num_steps: int, generator: Generator
    ) -> WindowResult:
        start, other, curve = episode, OtherLosses(self.loss_on, optimizee), []
        if not start.step:  # a learned initial state gets its gradient in the first window
            episode = episode._replace(state=rule.init_state(episode.theta, optimizee.layout))
        for _ in range(num_steps):
            _, episode = step(rule, optimizee, episode, generator)
            curve.append(other.loss(episode, generator) if other.needed else episode.loss)
        losses = torch.stack(curve)
        objective = self._objective(losses, start, num_steps)
        gradient = gradients(objective, list(rule.parameters()))
        state = {key: value.detach() for key, value in episode.state.items()}
        theta, loss, grad = episode.theta.detach(), episode.loss.detach(), episode.grad.detach()
        after = episode._replace(theta=theta, loss=loss, grad=grad, state=state)
        return WindowResult(losses.detach(), objective.detach(), gradient, after, after.step >= after.horizon)


def summed_back(grads: Tensor, weights: Tensor) -> Tensor:
    """Return λ_0 … λ_{K−1}, λ_t = Σ_{s>t} w_s ∇ℓ(θ_s), for ∇ℓ(θ_1) … ∇ℓ(θ_K) (K, B, G) and their weights (K, B)."""
    summed = grads * weights[..., None]
    for later, earlier in pairwise(reversed(summed.unbind())):  # in place
        earlier.add_(later)
    return summed


def recorded(start: Episode, grads: Tensor, losses: Tensor, optimizee: Optimizee) -> Recording:
    """Make the recording of a window that began at `start`, from the gradients that were read and f(θ_1) … f(θ_K)."""
    read = told(torch.cat((start.loss[None], losses[:-1])), start.task)
    return Recording(grads, read, start.theta, start.state, start.step, start.horizon, optimizee.layout)

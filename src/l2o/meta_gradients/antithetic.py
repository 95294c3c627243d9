"""Antithetic pairs of perturbed φ: what every evolution strategy here is made of.

Shapes: N pairs, D numbers of φ that are trained, K steps of a window. There are 2N tasks: the N that are served by
φ + ε, then the same N once more, served by φ − ε.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from l2o.meta_gradients.base import MetaGradient, WindowResult, ends
from l2o.meta_gradients.differences import capped, difference, signal_to_noise, start_losses, sum_of_products
from l2o.meta_gradients.losses_read import LossOn, OtherLosses, refuse_unknown
from l2o.meta_gradients.objectives import Mean, Objective
from l2o.meta_gradients.perturbation import centre, in_order, perturbed
from l2o.optimizees.base import Optimizee
from l2o.optimizees.views import Repeated
from l2o.optimizers.base import UpdateRule
from l2o.unroll import Episode, start_episode, steps


class Pairs(NamedTuple):
    """Hold N antithetic pairs in the midst of an episode: the carry of an evolution strategy."""

    episode: Episode  # of 2N tasks
    noise: Tensor  # (N, D)  ε, the perturbation of the last steps
    credit: Tensor  # (N, D)  ξ, the sum of all perturbations that the inner states depend on
    before: Tensor  # (N,)  the difference of the objective at the end of the last stretch, for `telescoping`


class AntitheticPairs(MetaGradient, ABC):
    """Estimates dL/dφ from differences of losses alone, of pairs of episodes at φ + ε_i and φ − ε_i, ε_i ~ N(0, σ² I):

        ĝ = 1/N Σ_i ξ_i Δ_i / 2σ²,   Δ_i = L(losses of pair i at +) − L(losses of pair i at −).

    A subclass says when ε is drawn anew, and what ξ is. `num_tasks` counts the pairs: there are twice as many episodes.
    Both of a pair have the same task, the same θ_0 and the same minibatches. Frozen parameters are not perturbed. The
    losses of a window are those of both signs, (K, 2N), capped; the objective is the mean of both signs.

    `sigma` is σ, and `objective` is L, by default the window's mean. With `telescoping`, L is instead the objective of
    the window's last loss minus that of the last window's last loss; over an episode these sum to the objective of its
    final loss. With `sign`, Δ is replaced by its sign; with `clip`, it is clipped to ±clip.

    No particle can void an update: before differences are taken, every loss is capped at `cap` times the task's own
    first loss ℓ_0 (in general at ℓ_0 + (cap − 1) |ℓ_0|), and a loss that is not finite counts as the cap. With
    `cap=None` it counts as the largest finite loss of the window. The diagnostics are the signal-to-noise ratio of one
    pair, ‖ḡ‖² / mean_i ‖g_i − ḡ‖², and the fractions of episodes that are not finite and of losses that were capped.

    Raises ValueError for a σ, clip or cap that makes no sense.
    """

    def __init__(
        self,
        sigma: float = 0.01,
        objective: Objective | None = None,
        telescoping: bool = False,
        sign: bool = False,
        clip: float | None = None,
        cap: float | None = 2.0,
        loss_on: LossOn = "inner",
    ):
        if not (sigma > 0 and math.isfinite(sigma)):
            raise ValueError(f"an evolution strategy needs a positive sigma, got {sigma}")
        if clip is not None and not clip > 0:
            raise ValueError(f"clip limits the differences of an evolution strategy and must be positive, got {clip}")
        if cap is not None and not 1 < cap < math.inf:
            raise ValueError(f"cap is how many times its first loss a loss may count, more than 1 or null, got {cap}")
        refuse_unknown(loss_on)
        self.sigma, self.objective, self.telescoping = sigma, objective or Mean(), telescoping
        self.sign, self.clip, self.cap = sign, clip, cap
        self.loss_on: LossOn = loss_on

    @torch.no_grad()
    def start(
        self, rule: UpdateRule, optimizee: Optimizee, num_tasks: int, horizon: float, generator: Generator
    ) -> Pairs:
        """Start N = `num_tasks` pairs of episodes, whose learned initial states are perturbed as well."""
        noise = self.drawn(rule, num_tasks, generator)
        with perturbed(rule, noise):
            episode = start_episode(rule, Repeated(optimizee, 2), 2 * num_tasks, generator, horizon)
        return Pairs(episode, noise, noise, episode.loss.new_zeros(num_tasks))

    @abstractmethod
    def stretches(self, step: int, num_steps: int) -> list[int]:
        """Cut the window that begins at `step` into stretches of constant ε, and return their numbers of steps."""

    @abstractmethod
    def renewed(self, pairs: Pairs, rule: UpdateRule, generator: Generator) -> Pairs:
        """Give the pairs the ε and the ξ of the stretch that begins now."""

    def counts(self, step: float, horizon: float) -> float:
        """Return how many times a window counts whose middle is at a step of an episode."""
        return 1.0

    def drawn(self, rule: UpdateRule, num_pairs: int, generator: Generator) -> Tensor:
        """Draw ε (N, D)."""
        like = centre(rule)
        shape = num_pairs, len(like)
        return self.sigma * torch.randn(shape, generator=generator, dtype=like.dtype, device=generator.device)

    @torch.no_grad()
    def __call__(
        self, rule: UpdateRule, optimizee: Optimizee, carry: Pairs, num_steps: int, generator: Generator
    ) -> WindowResult:
        start, pairs, lengths = carry.episode, carry, self.stretches(carry.episode.step, num_steps)
        found, credits = [], []
        for length in lengths:
            pairs = self.renewed(pairs, rule, generator)
            with perturbed(rule, pairs.noise):
                losses, episode = self._unrolled(rule, Repeated(optimizee, 2), pairs.episode, length, generator)
            pairs = pairs._replace(episode=episode)
            found.append(losses)
            credits.append(pairs.credit)
        losses, first = torch.cat(found), start_losses(start)
        capped_losses = capped(losses, first, self.cap)
        last = ends(start.step, num_steps, start.horizon)
        value, differences, before = self._differences(capped_losses, lengths, first, last, carry.before)
        counts = self.counts(start.step + num_steps / 2, start.horizon)
        each = sum_of_products(counts * self._weighed(differences) / (2 * self.sigma**2), credits)  # (N, D)
        diagnostics = {
            "snr": signal_to_noise(each),
            "not_finite": 1 - losses[-1].isfinite().to(losses.dtype).mean(),
            "capped": (capped_losses != losses).to(losses.dtype).mean(),
        }
        gradient, carry = in_order(rule, each.mean(0)), pairs._replace(before=before)
        done = pairs.episode.step >= pairs.episode.horizon
        return WindowResult(capped_losses, counts * value, gradient, carry, done, diagnostics)

    def _unrolled(
        self, rule: UpdateRule, optimizee: Optimizee, episode: Episode, num_steps: int, generator: Generator
    ) -> tuple[Tensor, Episode]:
        """Do some steps, and return the losses that the objective reads, (steps, 2N), and the episode after them."""
        other, losses = OtherLosses(self.loss_on, optimizee), []
        walk = steps(rule, optimizee, episode, num_steps, generator)
        for _, episode in walk:
            losses.append(other.loss(episode, generator) if other.needed else episode.loss)
        return torch.stack(losses), episode

    def _differences(
        self, losses: Tensor, lengths: Sequence[int], first: Tensor, last: bool, before: Tensor
    ) -> tuple[Tensor, list[Tensor], Tensor]:
        """Give the objective's value, Δ (N,) of every stretch, and what `before` is for the next window."""
        ends_at = [*accumulate(lengths)]
        if self.telescoping:
            values = [self.objective(losses[end - 1 : end], first, True) for end in ends_at]
            now = [difference(value) for value in values]
            return values[-1].mean(), [b - a for a, b in pairwise([before, *now])], now[-1]
        value = self.objective(losses, first, last)
        if len(lengths) == 1:
            return value.mean(), [difference(value)], before
        # A stretch is credited with what changes where the two signs differ in its own steps alone. For objectives that
        # are sums over steps, these differences sum to the whole one.
        middle = (losses + losses.roll(losses.shape[1] // 2, 1)) / 2
        found = []
        for length, end in zip(lengths, ends_at, strict=True):
            alone = middle.clone()
            alone[end - length : end] = losses[end - length : end]
            found.append(difference(self.objective(alone, first, last)))
        return value.mean(), found, before

    def _weighed(self, differences: list[Tensor]) -> Tensor:
        """Give the differences as they count, (stretches, N)."""
        weighed = torch.stack(differences)
        if self.clip is not None:
            weighed = weighed.clamp(-self.clip, self.clip)
        return weighed.sign() if self.sign else weighed

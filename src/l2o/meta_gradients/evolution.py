"""Evolution strategies over a window (biased, cheap) and over whole episodes (unbiased, costly).

Shapes: N pairs, B = 2N tasks.
"""

import math

import torch
from torch import Generator

from l2o.meta_gradients.antithetic import AntitheticPairs, Pairs
from l2o.meta_gradients.base import WindowResult
from l2o.optimizees.base import Optimizee
from l2o.optimizers.base import UpdateRule
from l2o.unroll import Episode


class EvolutionStrategies(AntitheticPairs):
    """Estimates the gradient of each window alone: ε is drawn for every window, and ξ = ε.

    Both signs of a pair start a window from the same state, which is the one that the positive sign had come to. What
    the window does to later ones is left out: like truncated backpropagation, the estimate is biased towards what pays
    within a window. Where the window is the whole episode, it is `FullES`.
    """

    def stretches(self, step: int, num_steps: int) -> list[int]:
        return [num_steps]

    def renewed(self, pairs: Pairs, rule: UpdateRule, generator: Generator) -> Pairs:
        if not pairs.episode.step:  # the learned initial state was made with the ε that the pairs have
            return pairs
        noise = self.drawn(rule, len(pairs.noise), generator)
        return Pairs(_from_positive(pairs), noise, noise, torch.zeros_like(pairs.before))


def _from_positive(pairs: Pairs) -> Episode:
    """Let the negative sign go on from where the positive one is."""
    both = lambda value: value[: len(value) // 2].repeat(2, *[1] * (value.ndim - 1))  # noqa: E731
    episode = pairs.episode
    state = {key: both(value) for key, value in episode.state.items()}
    return episode._replace(theta=both(episode.theta), loss=both(episode.loss), grad=both(episode.grad), state=state)


class FullES(AntitheticPairs):
    """Estimates the gradient of whole episodes: one window is one episode, whatever number of steps is asked for.

    One ε serves the episode from θ_0 to its horizon. The estimate is unbiased for the objective smoothed by N(0, σ² I),
    and there is one update for every T steps. The objective `Mean` is the average loss, `Last` the final one. Raises
    ValueError for an episode without a horizon.
    """

    def stretches(self, step: int, num_steps: int) -> list[int]:
        return [num_steps]

    def renewed(self, pairs: Pairs, rule: UpdateRule, generator: Generator) -> Pairs:
        return pairs

    def __call__(
        self, rule: UpdateRule, optimizee: Optimizee, carry: Pairs, num_steps: int, generator: Generator
    ) -> WindowResult:
        horizon = carry.episode.horizon
        if not math.isfinite(horizon):
            raise ValueError("FullES runs whole episodes and needs to know their horizon: give a finite one")
        return super().__call__(rule, optimizee, carry, int(horizon) - carry.episode.step, generator)

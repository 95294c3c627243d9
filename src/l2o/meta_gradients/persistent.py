"""Persistent evolution strategies: unbiased over whole episodes, with an update after every window.

Shapes: N pairs, D numbers of φ that are trained.
"""

import math
from typing import Literal

from torch import Generator

from l2o.meta_gradients.antithetic import AntitheticPairs, Pairs
from l2o.meta_gradients.losses_read import LossOn
from l2o.meta_gradients.objectives import Objective
from l2o.optimizers.base import UpdateRule

Period = int | Literal["window", "episode"]
"""After how many steps of an episode ε is drawn anew; "window" and "episode" are so many steps as these have."""


class PersistentES(AntitheticPairs):
    """Estimates the gradient of whole episodes window by window: both signs of a pair keep states of their own.

    ε is drawn anew after every `period`, and ξ = Σ ε is the sum of all that were drawn in the episode:

    - `period="window"` is PES (Vicol, Metz & Sohl-Dickstein 2021, arXiv 2112.13835);
    - `period="episode"` is NRES (Li et al. 2023, arXiv 2304.12180), or ES-Single (Vicol 2023, arXiv 2304.11153): one ε
      for the whole episode, so that ξ = ε. Of all periods it has the least variance;
    - a number of steps K is GPES_K (Li et al. 2023); within a window, every stretch between two draws is credited with
      its own ξ.

    The mean of the estimates of an episode's windows is unbiased for the mean of their objectives, smoothed by noise
    that is independent between periods, as long as φ stays the same. While it is trained, φ moves between windows, and
    the estimates lag behind (hysteresis); episodes must be out of phase. An episode ends between two windows, so that ξ
    starts anew just where the states do.

    With `emphasis` p, a window counts (p + 1) (t/T)^p times, where t is the step in its middle: the end of an episode
    matters more than its start, and all windows together count as many times as there are. For the other arguments see
    `AntitheticPairs`.

    Raises ValueError for a period that is neither of the two words nor a positive number of steps.
    """

    def __init__(
        self,
        period: Period = "window",
        sigma: float = 0.01,
        objective: Objective | None = None,
        telescoping: bool = False,
        sign: bool = False,
        clip: float | None = None,
        cap: float | None = 2.0,
        loss_on: LossOn = "inner",
        emphasis: float = 0.0,
    ):
        super().__init__(sigma, objective, telescoping, sign, clip, cap, loss_on)
        steps = isinstance(period, int) and not isinstance(period, bool) and period > 0
        if not steps and period not in ("window", "episode"):
            raise ValueError(f"period must be window, episode or a positive number of steps, got {period!r}")
        if not 0 <= emphasis < math.inf:
            raise ValueError(f"emphasis is the power of t/T by which a window counts, from 0 on, got {emphasis}")
        self.period, self.emphasis = period, emphasis

    def counts(self, step: float, horizon: float) -> float:
        if not self.emphasis:
            return 1.0
        if not math.isfinite(horizon):
            raise ValueError("emphasis weighs windows by t/T, and this episode has no horizon T: give it a finite one")
        return (self.emphasis + 1) * (step / horizon) ** self.emphasis

    def stretches(self, step: int, num_steps: int) -> list[int]:
        if isinstance(self.period, str):
            return [num_steps]
        first = min(num_steps, self.period - step % self.period)
        whole, rest = divmod(num_steps - first, self.period)
        return [first, *[self.period] * whole, *[rest] * (rest > 0)]

    def renewed(self, pairs: Pairs, rule: UpdateRule, generator: Generator) -> Pairs:
        if not self._begins_at(pairs.episode.step):
            return pairs
        noise = self.drawn(rule, len(pairs.noise), generator)
        return pairs._replace(noise=noise, credit=pairs.credit + noise)

    def _begins_at(self, step: int) -> bool:
        """Return whether a new period begins at this step, at which a window or a stretch of one begins."""
        if not step or self.period == "episode":  # the first ε was drawn where the episode started
            return False
        return self.period == "window" or step % int(self.period) == 0

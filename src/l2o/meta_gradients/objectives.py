"""What meta-training minimises: a function of the losses of one window.

Shapes: B tasks, K steps of a window.
"""

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor


class Objective(ABC):
    """Turns the losses of a window into one number for each task. An estimator averages over tasks.

    It must be differentiable by the losses wherever an estimator differentiates it, as `TruncatedBPTT` does.
    """

    @abstractmethod
    def __call__(self, losses: Tensor, start_loss: Tensor, last: bool) -> Tensor:
        """Return the objective of every task, (B,), for the losses (K, B) and f(θ_0) (B,).

        `last` says that the window is the last one of its episode.
        """

    def slope(self, num_steps: int) -> float | None:
        """Return ∂L/∂ℓ_t where it is the same constant for every step of a window, else None: autograd finds it."""
        return None


class Sum(Objective):
    """L = Σ_t ℓ_t, the sum over the steps of a window (Andrychowicz et al. 2016, equation 2 with w_t = 1)."""

    def __call__(self, losses: Tensor, start_loss: Tensor, last: bool) -> Tensor:
        return losses.sum(0)

    def slope(self, num_steps: int) -> float:
        return 1.0


class Mean(Objective):
    """L = 1/K Σ_t ℓ_t, the mean over the steps of a window."""

    def __call__(self, losses: Tensor, start_loss: Tensor, last: bool) -> Tensor:
        return losses.mean(0)

    def slope(self, num_steps: int) -> float:
        return 1 / num_steps


class Last(Objective):
    """L = ℓ_T, the loss after the last step of the episode. Windows before the last one contribute nothing.

    With `each_window`, the objective is the loss after the last step of every window instead.
    """

    def __init__(self, each_window: bool = False):
        self.each_window = each_window

    def __call__(self, losses: Tensor, start_loss: Tensor, last: bool) -> Tensor:
        # Zeros that do not depend on the losses tell a first-order estimator that it has nothing to propagate back.
        return losses[-1] if last or self.each_window else torch.zeros_like(losses[-1])


class Log(Objective):
    """Replaces every loss by log(ℓ + epsilon), so that a tenfold smaller loss counts alike at every scale.

    `then` makes one number of the results; by default it is their mean. A loss below −epsilon gives nan.
    Raises ValueError for an epsilon below 0.
    """

    def __init__(self, epsilon: float = 1e-8, then: Objective | None = None):
        if not epsilon >= 0 or math.isinf(epsilon):
            raise ValueError(f"the objective Log needs an epsilon of at least 0, got {epsilon}")
        self.epsilon, self.then = epsilon, then or Mean()

    def __call__(self, losses: Tensor, start_loss: Tensor, last: bool) -> Tensor:
        return self.then((losses + self.epsilon).log(), (start_loss + self.epsilon).log(), last)


class Normalised(Objective):
    """Replaces every loss by ℓ/ℓ_0, at most `cap`, where ℓ_0 = f(θ_0) is the task's own first loss.

    Tasks whose losses differ by orders of magnitude count alike, and a diverging task counts as `cap` at most, as does
    a loss that is not finite. The gradient of a loss above the cap is zero. `then` makes one number of the results; by
    default it is their mean. Losses at θ_0 must be positive. Raises ValueError for a cap that is not positive.
    """

    def __init__(self, cap: float = 2.0, then: Objective | None = None):
        if not cap > 0:
            raise ValueError(f"the objective Normalised needs a positive cap, got {cap}")
        self.cap, self.then = cap, then or Mean()

    def __call__(self, losses: Tensor, start_loss: Tensor, last: bool) -> Tensor:
        ratio = (losses / start_loss).nan_to_num(nan=self.cap, posinf=self.cap).clamp(max=self.cap)
        return self.then(ratio, torch.ones_like(start_loss), last)

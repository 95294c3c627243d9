"""Schedule-free AdamW (Defazio et al. 2024, "The road less scheduled", arXiv 2405.15682).

Shapes: B tasks, P coordinates.
"""

import torch
from torch import Tensor

from l2o.optimizees.layout import Axis, Layout
from l2o.optimizers.adam_averages import bias_correction
from l2o.optimizers.base import Observation, State
from l2o.optimizers.hand_designed import HandDesigned


class ScheduleFreeAdamW(HandDesigned):
    """z ← z − γ d, x ← (1 − c) x + c z, y = (1 − β₁) z + β₁ x, with d = ∇f(y) / (√v̂ + ε) + weight_decay · y.

    γ is the learning rate, after its `warmup`; c = γ_max² / Σ γ_max² makes x an average of the z, weighted by the
    largest rate until then. It equals `schedulefree.AdamWScheduleFree` step by step.

    The gradients are taken at y, and x is the result. θ of the contract is y: losses during an episode are those of y,
    which in the package is the model in its `train` mode. `averaged` gives x, its `eval` mode. No other schedule is
    wanted, hence its name.
    """

    def __init__(
        self,
        lr: float | Tensor | None = None,
        beta1: float = 0.9,
        beta2: float = 0.999,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        warmup: float = 0.0,
    ):
        super().__init__(lr, weight_decay, warmup)
        if not 0 < beta1 <= 1:
            raise ValueError(f"ScheduleFreeAdamW: beta1 must be more than 0 and at most 1, got {beta1}")
        self.beta1, self.beta2, self.eps = beta1, beta2, eps

    def init_state(self, theta: Tensor, layout: Layout) -> State:
        counts = {key: theta.new_zeros(len(theta), len(layout.shapes)) for key in ("step", "largest", "weights")}
        return {"z": theta.clone(), "square": torch.zeros_like(theta)} | counts

    def state_axes(self) -> dict[str, Axis]:
        axes = {"z": Axis.COORDINATES, "square": Axis.COORDINATES}
        return axes | {"step": Axis.TENSORS, "largest": Axis.TENSORS, "weights": Axis.TENSORS}

    def forward(self, seen: Observation, state: State, layout: Layout) -> tuple[Tensor, State]:
        step, y, z = state["step"] + 1, seen.theta, state["z"]
        square = self.beta2 * state["square"] + (1 - self.beta2) * seen.grad.square()
        correct = layout.spread(bias_correction(self.beta2, step))
        direction = seen.grad / ((square / correct).sqrt() + self.eps) + self.weight_decay * y
        rate = self.rate * (self.scheduled(seen) if self.warmup else 1.0)
        largest = torch.maximum(state["largest"], torch.zeros_like(step) + rate)
        weights = state["weights"] + largest.square()
        share = torch.where(weights > 0, largest.square() / weights, 0.0)  # c
        share = layout.spread(share)
        update = share * (z - y) + rate * (self.beta1 * (1 - share) - 1) * direction
        after = {"z": z - rate * direction, "square": square, "step": step, "largest": largest, "weights": weights}
        return update, after

    def averaged(self, theta: Tensor, state: State) -> Tensor:
        """Give x (B, P), the weighted average that is the result, at θ = y (B, P)."""
        return torch.lerp(theta, state["z"], 1 - 1 / self.beta1)

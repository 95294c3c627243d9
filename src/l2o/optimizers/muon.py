"""Muon (Jordan et al. 2024): momentum, orthogonalised for matrices, beside AdamW for everything else.

Shapes: B tasks, P coordinates.
"""

import math
import re

import torch
from torch import Tensor

from l2o.checks import below_one, expression, true_or_false
from l2o.optimizees.layout import Axis, Layout, Shape
from l2o.optimizers.adam_averages import ADAM_AXES, adam_step, init_adam
from l2o.optimizers.base import Observation, Scope, State
from l2o.optimizers.hand_designed import HandDesigned
from l2o.optimizers.newton_schulz import COEFFICIENTS

ADJUSTMENTS = ("original", "match_rms_adamw")


class Muon(HandDesigned):
    """g = −lr (s · NS(∇ + μ b) + weight_decay · θ), b ← μ b + (1 − μ) ∇, for matrices; AdamW for the other parameters.

    For matrices it equals `torch.optim.Muon` step by step, whose Newton-Schulz iteration NS is done in bfloat16. With
    `nesterov=False` the direction is s · NS(b). s depends on the matrix's shape: it is √max(1, rows/columns) with
    `adjust="original"`, and 0.2 √max(rows, columns), which makes steps as large as AdamW's, with "match_rms_adamw".

    torch's Muon takes matrices alone, and its users give the other parameters to AdamW. Here one rule does both: a
    parameter is a matrix where it has two axes and `adam_pattern`, a regular expression, is not found in its name; for
    the others lr is multiplied by `adam_mult`, and AdamW has its own β₁, β₂ and ε, and the same weight decay.
    """

    scope = Scope.TENSOR

    def __init__(
        self,
        lr: float | Tensor | None = None,
        momentum: float = 0.95,
        nesterov: bool = True,
        adjust: str = "original",
        adam_pattern: str | None = "embed",
        adam_mult: float = 1.0,
        beta1: float = 0.9,
        beta2: float = 0.95,
        eps: float = 1e-8,
        weight_decay: float = 0.1,
        warmup: float = 0.0,
        schedule: str = "constant",
        final: float = 0.0,
    ):
        super().__init__(lr, weight_decay, warmup, schedule, final)
        if adjust not in ADJUSTMENTS:
            raise ValueError(f"Muon: adjust must be one of {', '.join(ADJUSTMENTS)}, got {adjust!r}")
        true_or_false("Muon", nesterov=nesterov)
        self.momentum, self.nesterov, self.adjust = momentum, nesterov, adjust
        self.adam_pattern, self.adam_mult = adam_pattern, adam_mult
        below_one("Muon", beta1=beta1, beta2=beta2)
        expression("Muon", adam_pattern=adam_pattern)
        self.beta1, self.beta2, self.eps = beta1, beta2, eps

    def init_state(self, theta: Tensor, layout: Layout) -> State:
        return init_adam(theta, layout) | {"buffer": torch.zeros_like(theta)}

    def state_axes(self) -> dict[str, Axis]:
        return ADAM_AXES | {"buffer": Axis.COORDINATES}

    def forward(self, seen: Observation, state: State, layout: Layout) -> tuple[Tensor, State]:
        buffer = torch.lerp(state["buffer"], seen.grad, 1 - self.momentum)
        momentum = torch.lerp(seen.grad, buffer, self.momentum) if self.nesterov else buffer
        adam, after = adam_step(seen.grad, state, layout, self.beta1, self.beta2, self.eps)
        parts, rates = layout.unravel(adam), []
        for name, part in layout.unravel(momentum).items():
            if is_matrix := self._is_matrix(name, layout.shapes[name]):
                parts[name] = self._scale(layout.shapes[name]) * orthogonal(part)
            rates.append(1.0 if is_matrix else self.adam_mult)
        direction = layout.ravel(parts) if parts else adam
        lr = self.rate * layout.spread(adam.new_tensor([rates]))
        return self.descent(seen, direction, lr), after | {"buffer": buffer}

    def _is_matrix(self, name: str, shape: Shape) -> bool:
        by_name = self.adam_pattern is not None and re.search(self.adam_pattern, name)
        return len(shape) == 2 and min(shape) > 0 and not by_name

    def _scale(self, shape: Shape) -> float:
        rows, columns = shape
        return math.sqrt(max(1, rows / columns)) if self.adjust == "original" else 0.2 * math.sqrt(max(rows, columns))


def orthogonal(x: Tensor) -> Tensor:
    """Orthogonalise (B, rows, columns) as torch's Muon does: in bfloat16, with ‖X‖_F no smaller than 10⁻⁷."""
    if x.shape[-2] > x.shape[-1]:
        return orthogonal(x.mT).mT
    a, b, c = COEFFICIENTS
    y = x.bfloat16()
    y = y / torch.linalg.vector_norm(y, dim=(-2, -1), keepdim=True).clamp(min=1e-7)
    for _ in range(5):
        gram = y @ y.mT
        y = torch.baddbmm(y, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), y, beta=a)
    return y.to(x.dtype)

"""Celo-Adam (Moudgil et al. 2025, arXiv 2501.12670): Adam's direction at the rate of Celo's learned scheduler.

Shapes: B tasks, P coordinates.
"""

import torch
from torch import Tensor

from l2o.checks import at_least_one
from l2o.optimizees.layout import Axis, Layout
from l2o.optimizers.base import Observation, Scope, State
from l2o.optimizers.celo import Celo
from l2o.optimizers.celo_scheduler import CeloScheduler
from l2o.optimizers.schedules import ScheduledRule

BETA1, BETA2 = 0.9, 0.999

EPS, SQUARE_EPS = 1e-8, 1e-10


class CeloAdam(ScheduledRule):
    """g = −step_mult · η_t · m / (10⁻⁸ + √(v + 10⁻¹⁰)), with Adam's averages m and v as they are.

    m ← 0.9 m + 0.1 ∇ and v ← 0.999 v + 0.001 ∇² start at 0 and are not corrected for it. η_t is the rate of Celo's
    scheduler (`CeloScheduler`), which sees the loss and the horizon, and which is all of φ. The authors used it where
    Celo itself was unstable. `celo_adam` makes one of a trained Celo.
    """

    scope = Scope.COORDINATE
    batched_phi = True

    def __init__(
        self,
        scheduler_size: int = 64,
        step_mult: float = 1e-3,
        weight_decay: float = 0.0,
        warmup: float = 0.0,
        schedule: str = "constant",
        final: float = 0.0,
    ):
        super().__init__(weight_decay, warmup, schedule, final)
        at_least_one("optimizer", scheduler_size=scheduler_size)
        self.scheduler_size, self.step_mult = scheduler_size, step_mult
        self.scheduler = CeloScheduler(scheduler_size)
        self.needs = self.needs | {"loss", "horizon"}

    def init_state(self, theta: Tensor, layout: Layout) -> State:
        return {"mean": torch.zeros_like(theta), "square": torch.zeros_like(theta)} | self.scheduler.init_state(theta)

    def state_axes(self) -> dict[str, Axis]:
        return {"mean": Axis.COORDINATES, "square": Axis.COORDINATES} | self.scheduler.state_axes()

    def forward(self, seen: Observation, state: State, layout: Layout) -> tuple[Tensor, State]:
        mean = torch.lerp(state["mean"], seen.grad, 1 - BETA1)
        square = torch.lerp(state["square"], seen.grad.square(), 1 - BETA2)
        rate, shared = self.scheduler(seen, state)
        direction = rate * mean / (EPS + (square + SQUARE_EPS).sqrt())
        return self.descent(seen, direction, self.step_mult), {"mean": mean, "square": square} | shared


def celo_adam(celo: Celo) -> CeloAdam:
    """Give Celo-Adam with the scheduler of a Celo that was trained in phase 2; raise ValueError for another rule."""
    if not isinstance(celo, Celo) or celo.phase != 2:
        raise ValueError(f"Celo-Adam takes the scheduler of a Celo of phase 2, got {celo.label}")
    rule = CeloAdam(celo.scheduler_size, celo.step_mult, celo.weight_decay, celo.warmup, celo.schedule, celo.final)
    rule = rule.to(celo.scheduler.initial_hidden)  # first its dtype, so that no number is rounded
    rule.scheduler.load_state_dict(celo.scheduler.state_dict())
    return rule.train(celo.training)

"""An update rule whose updates are scaled: the one learning rate that a learned rule has.

Shapes: B tasks, P coordinates.
"""

from torch import Tensor

from l2o.optimizees.layout import Axis, Layout
from l2o.optimizers.base import Observation, Part, Scope, State, UpdateRule


class Scaled(UpdateRule):
    """g = scale · m(∇, h, φ). The scale is a float, or (B, 1): then one unroll serves several scales."""

    def __init__(self, rule: UpdateRule, scale: float | Tensor = 1.0):
        super().__init__()
        self.rule, self.scale = rule, scale
        self.scope: Scope = rule.scope
        self.needs = rule.needs

    @property
    def label(self) -> str:
        return self.rule.label

    def init_state(self, theta: Tensor, layout: Layout) -> State:
        return self.rule.init_state(theta, layout)

    def state_axes(self) -> dict[str, Axis]:
        return self.rule.state_axes()

    def parts(self, layout: Layout) -> list[Part]:
        return [part._replace(rule=Scaled(part.rule, self.scale)) for part in self.rule.parts(layout)]

    def forward(self, seen: Observation, state: State, layout: Layout) -> tuple[Tensor, State]:
        update, state = self.rule(seen, state, layout)
        return self.scale * update, state

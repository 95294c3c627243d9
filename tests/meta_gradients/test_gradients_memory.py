"""A meta-gradient's parts have memory of their own, so that one can be scaled in place without the others."""

import torch
from torch import Tensor, nn

from l2o.meta_gradients import TruncatedBPTT
from l2o.optimizees import Layout, Quadratic
from l2o.optimizees.layout import Axis
from l2o.optimizers.base import Observation, Scope, State, UpdateRule


class SumOfTwo(UpdateRule):
    """g = −(a + b) ∇."""

    scope = Scope.COORDINATE

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = (nn.Parameter(torch.zeros(1)) for _ in range(2))

    def init_state(self, theta: Tensor, layout: Layout) -> State:
        return {}

    def state_axes(self) -> dict[str, Axis]:
        return {}

    def forward(self, seen: Observation, state: State, layout: Layout) -> tuple[Tensor, State]:
        return -(self.a + self.b) * seen.grad, {}


def test_parameters_that_are_added_up_do_not_share_a_gradient():
    rule, estimator, generator = SumOfTwo(), TruncatedBPTT(), torch.Generator().manual_seed(0)
    carry = estimator.start(rule, Quadratic(), 4, 20, generator)
    first, second = estimator(rule, Quadratic(), carry, 1, generator).gradient
    assert first == second != 0
    assert first.data_ptr() != second.data_ptr()

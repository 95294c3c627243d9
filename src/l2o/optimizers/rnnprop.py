"""RNNProp (Lv, Jiang & Li 2017, "Learning gradient descent: better generalization and longer horizons").

Shapes: B tasks, P coordinates, F features of the input layer.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from l2o.optimizees.layout import Axis, Layout
from l2o.optimizers.adam_averages import bias_correction
from l2o.optimizers.base import Observation, Scope, State, UpdateRule
from l2o.optimizers.lstm import LSTM
from l2o.optimizers.preprocessing import Preprocessing

EPS = 1e-8


class RNNProp(UpdateRule):
    """g = output_scale · tanh(LSTM(ELU(W [m̂/√v̂, ∇/√v̂] + b))), bounded and blind to the gradient's scale.

    m ← β m + (1 − β) ∇, v ← β v + (1 − β) ∇², hats: bias-corrected as in Adam; 10⁻⁸ is added to √v̂. The LSTM is the
    coordinatewise one, behind an input layer of `hidden_size` features.
    """

    scope = Scope.COORDINATE
    batched_phi = True

    def __init__(
        self,
        hidden_size: int = 20,
        num_layers: int = 2,
        beta: float = 0.95,
        output_scale: float = 0.01,
        forget_bias: float = 1.0,
        head_init: float = 1.0,
    ):
        super().__init__()
        if not 0 <= beta < 1:
            raise ValueError(f"beta must lie in [0, 1), got {beta}")
        self.hidden_size, self.num_layers, self.beta = hidden_size, num_layers, beta
        self.output_scale, self.forget_bias, self.head_init = output_scale, forget_bias, head_init
        self.lstm = LSTM(InputLayer(hidden_size), hidden_size, num_layers, forget_bias=forget_bias, head_init=head_init)

    def init_state(self, theta: Tensor, layout: Layout) -> State:
        moments = {"mean": torch.zeros_like(theta), "square": torch.zeros_like(theta)}
        steps = {"step": theta.new_zeros(len(theta), len(layout.shapes))}
        return moments | steps | self.lstm.init_state(theta, layout)

    def state_axes(self) -> dict[str, Axis]:
        moments = {"mean": Axis.COORDINATES, "square": Axis.COORDINATES, "step": Axis.TENSORS}
        return moments | self.lstm.state_axes()

    def forward(self, seen: Observation, state: State, layout: Layout) -> tuple[Tensor, State]:
        step = state["step"] + 1
        mean = torch.lerp(state["mean"], seen.grad, 1 - self.beta)
        square = torch.lerp(state["square"], seen.grad.square(), 1 - self.beta)
        correct = layout.spread(bias_correction(self.beta, step))
        size = (square / correct).sqrt() + EPS
        directions = torch.stack((mean / correct, seen.grad), -1) / size[..., None]  # (B, P, 2)
        out, memory = self.lstm(seen._replace(grad=directions), state, layout)
        return self.output_scale * out.tanh(), {"mean": mean, "square": square, "step": step} | memory


class InputLayer(Preprocessing):
    """ELU(W x + b) of a pair x: (..., 2) -> (..., F). Where W is (B, F, 2), one for each task, x is (B, P, 2)."""

    batched_phi = True

    def __init__(self, num_features: int):
        super().__init__()
        self.num_features = num_features
        self.linear = nn.Linear(2, num_features)

    def forward(self, grad: Tensor) -> Tensor:
        weight, bias = self.linear.weight, self.linear.bias
        if weight.ndim == bias.ndim + 1 == 2:
            return F.elu(F.linear(grad, weight, bias))
        return F.elu(grad @ weight.mT + (bias if bias.ndim == 1 else bias[:, None]))

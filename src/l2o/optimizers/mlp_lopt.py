"""MLPLOpt, the learned optimizer that sees momenta and the time alone (Metz et al. 2022, `mlp_lopt`).

Shapes: B tasks, P coordinates.
"""

from torch import Tensor

from l2o.checks import at_least_one
from l2o.optimizees.layout import Axis, Layout
from l2o.optimizers.accumulators import Decays, constant
from l2o.optimizers.adafac_mlp import TIMESCALES
from l2o.optimizers.base import Observation, Scope, State
from l2o.optimizers.kernels.coordinate_mlp import step
from l2o.optimizers.kernels.recipe import Feature, Recipe
from l2o.optimizers.mlp import MLP
from l2o.optimizers.schedules import ScheduledRule

DECAYS = (0.1, 0.5, 0.9, 0.99, 0.999, 0.9999)

RECIPE = Recipe((Feature.GRAD, Feature.THETA, Feature.MOMENTA), norm_eps=1e-5, timescales=TIMESCALES)
"""What the network sees, in the order of the authors' weights."""


class MLPLOpt(ScheduledRule):
    """g = −step_mult · d · exp(exp_mult · a), with [d, a] = MLP(∇, θ, six momenta, tanh(t/τ − 1)).

    ∇, θ and each momentum are divided by their root mean squares over their own tensor. There are no second moments,
    and 1 762 meta-parameters at the default sizes.
    """

    scope = Scope.TENSOR
    batched_phi = True

    def __init__(
        self,
        hidden_size: int = 32,
        num_layers: int = 2,
        step_mult: float = 1e-3,
        exp_mult: float = 1e-3,
        weight_decay: float = 0.0,
        warmup: float = 0.0,
        schedule: str = "constant",
        final: float = 0.0,
    ):
        super().__init__(weight_decay, warmup, schedule, final)
        at_least_one("optimizer", hidden_size=hidden_size)
        self.hidden_size, self.num_layers = hidden_size, num_layers
        self.step_mult, self.exp_mult = step_mult, exp_mult
        self.mlp = MLP([19, *[hidden_size] * num_layers, 2])

    def init_state(self, theta: Tensor, layout: Layout) -> State:
        return {"momenta": theta.new_zeros(len(DECAYS), *theta.shape).movedim(0, -1)}

    def state_axes(self) -> dict[str, Axis]:
        return {"momenta": Axis.COORDINATES}

    def forward(self, seen: Observation, state: State, layout: Layout) -> tuple[Tensor, State]:
        none = constant((), seen.grad)
        decays = Decays(constant(DECAYS, seen.grad), squares=none, factors=none)
        recipe, scale = RECIPE._replace(exp_mult=self.exp_mult), -1.0 * self.rate_at(seen, self.step_mult)
        update, after = step(recipe, self.mlp.weights, decays, seen, state, layout, scale)
        return self.decayed(seen, update, self.step_mult), after

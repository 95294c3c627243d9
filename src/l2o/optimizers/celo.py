"""Celo (Moudgil et al. 2025, "Celo: training versatile learned optimizers on a compute diet", arXiv 2501.12670).

Shapes: B tasks, P coordinates, F features.
"""

from torch import Tensor

from l2o.checks import at_least_one
from l2o.optimizees.layout import Axis, Layout
from l2o.optimizers.accumulators import AXES, Decays, constant, init_moments
from l2o.optimizers.base import Observation, Scope, State
from l2o.optimizers.celo_scheduler import CeloScheduler
from l2o.optimizers.kernels.coordinate_mlp import step
from l2o.optimizers.kernels.recipe import Feature, Recipe
from l2o.optimizers.mlp import MLP
from l2o.optimizers.schedules import ScheduledRule

FEATURES = (
    Feature.GRAD,
    Feature.CLIPPED_GRAD,
    Feature.THETA,
    Feature.MOMENTA,
    Feature.SQUARES,
    Feature.SCALED_MOMENTA,
    Feature.ROOT,
    Feature.FACTORED_GRAD,
    Feature.SCALED_GRAD,
    Feature.ROWS,
    Feature.COLUMNS,
    Feature.RSQRT_ROWS,
    Feature.RSQRT_COLUMNS,
    Feature.FACTORED_MOMENTA,
)
"""What the network sees, in the order of the authors' fourteen groups of weights."""

NUM_FEATURES = 30

LARGEST = 1000.0
"""What the size of a gradient's element is clipped to."""

DECAYS = ((0.9, 0.99, 0.999), (0.999,), (0.9, 0.99, 0.999))
"""β of the momenta, of the second moment, and of the factored second moments."""

RECIPE = Recipe(FEATURES, norm_eps=1e-5, square_eps=1e-6, limit=LARGEST, relative=True)


class Celo(ScheduledRule):
    """g = −step_mult · η_t · d · ρ · exp(exp_mult · a), with [d, a, ·] = MLP(30 features of the coordinate).

    ρ = √(mean θ² + 10⁻⁹) of the coordinate's tensor: steps are relative to how large its parameters are. η_t comes from
    a learned schedule (`CeloScheduler`) that sees the loss and the horizon. The gradient is clipped to ±1000.

    Celo is trained in two phases. In phase 1 there is no scheduler, η is 1, and φ is the MLP (159 numbers); in phase 2
    the MLP is frozen and φ is the scheduler. `second_phase` makes the rule for phase 2 of the trained one of phase 1.
    With `weight_decay` θ shrinks by step_mult · weight_decay · θ, whatever η is.
    """

    scope = Scope.TENSOR
    batched_phi = True

    def __init__(
        self,
        phase: int = 2,
        hidden_size: int = 4,
        num_layers: int = 2,
        scheduler_size: int = 64,
        step_mult: float = 1e-3,
        exp_mult: float = 1e-3,
        weight_decay: float = 0.0,
        warmup: float = 0.0,
        schedule: str = "constant",
        final: float = 0.0,
    ):
        super().__init__(weight_decay, warmup, schedule, final)
        at_least_one("optimizer", hidden_size=hidden_size, scheduler_size=scheduler_size)
        if phase not in (1, 2):
            raise ValueError(f"Celo: phase must be 1 (the MLP is trained) or 2 (its scheduler is), got {phase!r}")
        self.phase, self.scheduler_size = phase, scheduler_size
        self.hidden_size, self.num_layers = hidden_size, num_layers
        self.step_mult, self.exp_mult = step_mult, exp_mult
        self.mlp = MLP([NUM_FEATURES, *[hidden_size] * num_layers, 3])
        if phase == 2:
            self.mlp.requires_grad_(False)
            self.scheduler = CeloScheduler(scheduler_size)
            self.needs = self.needs | {"loss", "horizon"}

    def init_state(self, theta: Tensor, layout: Layout) -> State:
        state = init_moments(theta, layout, *map(len, DECAYS))
        return state | self.scheduler.init_state(theta) if self.phase == 2 else state

    def state_axes(self) -> dict[str, Axis]:
        return AXES | self.scheduler.state_axes() if self.phase == 2 else dict(AXES)

    def forward(self, seen: Observation, state: State, layout: Layout) -> tuple[Tensor, State]:
        scale, shared = -1.0 * self.rate_at(seen, self.step_mult), {}
        if self.phase == 2:
            rate, shared = self.scheduler(seen, state)
            scale = scale * rate
        recipe, moments = RECIPE._replace(exp_mult=self.exp_mult), {key: state[key] for key in AXES}
        decays = Decays(*(constant(part, seen.grad) for part in DECAYS))
        update, after = step(recipe, self.mlp.weights, decays, seen, moments, layout, scale)
        return self.decayed(seen, update, self.step_mult), after | shared


def second_phase(first: Celo) -> Celo:
    """Give the rule to train in phase 2: the MLP of a rule that was trained in phase 1, with a new scheduler."""
    if not isinstance(first, Celo) or first.phase != 1:
        raise ValueError(f"phase 2 starts from a Celo of phase 1, got {first.label}: train optimizer=celo first")
    options = (first.step_mult, first.exp_mult, first.weight_decay, first.warmup, first.schedule, first.final)
    second = Celo(2, first.hidden_size, first.num_layers, 64, *options)
    second = second.to(next(first.mlp.parameters()))  # first its dtype, so that no number is rounded
    second.mlp.load_state_dict(first.mlp.state_dict())
    return second

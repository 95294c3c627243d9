"""AdafacMLP, the small learned optimizer with factored second moments (Metz et al. 2022, arXiv 2203.11860).

Shapes: B tasks, P coordinates, M decays.
"""

import functools
import re
from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor, nn

from l2o.checks import at_least_one, below_one, expression, true_or_false
from l2o.optimizees.layout import Axis, Layout
from l2o.optimizers.accumulators import AXES, Decays, constant, init_moments
from l2o.optimizers.base import Observation, Scope, State
from l2o.optimizers.kernels.coordinate_mlp import step
from l2o.optimizers.kernels.recipe import Feature, Recipe
from l2o.optimizers.mlp import MLP
from l2o.optimizers.schedules import ScheduledRule

TIMESCALES = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1e3, 3e3, 1e4, 3e4, 1e5)
"""τ of the time features tanh(t/τ − 1)."""

DECAYS = (0.9, 0.99, 0.999)

RECIPE = Recipe(
    (
        Feature.GRAD,
        Feature.THETA,
        Feature.MOMENTA,
        Feature.SQUARES,
        Feature.SCALED_MOMENTA,
        Feature.ROOT,
        Feature.FACTORED_GRAD,
        Feature.ROWS,
        Feature.COLUMNS,
        Feature.RSQRT_ROWS,
        Feature.RSQRT_COLUMNS,
        Feature.FACTORED_MOMENTA,
    ),
    norm_eps=1e-5,
    square_eps=1e-6,
    vector_eps=1e-6,
    timescales=TIMESCALES,
)
"""What the network sees, in the order of the authors' weights."""


class AdafacMLP(ScheduledRule):
    """g = −step_mult · d · exp(exp_mult · a), with [d, a] = MLP(features of the coordinate, tanh(t/τ − 1)).

    The 28 features are, in this order: ∇, θ, momenta m, second moment v, m/√v, 1/√v, ∇ and later m scaled by factored
    second moments, the factors r and c and their inverse roots. Each is divided by its root mean square over its own
    tensor. With `learned_decays` β = 1 − exp(10 (ln(1 − β_0)/10 + δ)), and the δ, which start at 0, belong to φ.

    Known as small_fc_lopt at `hidden_size=4` (197 meta-parameters). With `hidden_size=32` it is the rule of µLO and of
    PyLO (`step_mult=1e-2`), and with `learned_decays=False` besides it is ELO's ELO-small_fc: ELO differs in how it is
    trained, not in what is used.

    `step_scale="fan_in"` is µLO's rule (Thérien et al. 2024): the step of a hidden weight is multiplied by 1/fan-in.
    The steps of the first and the last weight, and of tensors with fewer than two axes (biases, gains), stay as they
    are. By default the first and the last weight are the tensors with two axes or more that come first and last in the
    layout. A tensor's update then depends on which others there are, so that the scope is ALL. With `unscaled`, a
    regular expression, they are instead the tensors in whose names it is found, and the scope stays TENSOR. `out_axis`
    says which axis of a weight counts its outputs: 0 is torch's (out, in, …), −1 is JAX's (…, in, out); of kernels that
    the layout knows to be turned it is the last. The fan-in is the product of the other axes.
    """

    scope = Scope.TENSOR
    batched_phi = True

    def __init__(
        self,
        hidden_size: int = 4,
        num_layers: int = 2,
        learned_decays: bool = True,
        step_mult: float = 1e-3,
        exp_mult: float = 1e-3,
        momentum_decays: Sequence[float] = DECAYS,
        square_decays: Sequence[float] = (0.999,),
        factor_decays: Sequence[float] = DECAYS,
        step_scale: str | None = None,
        unscaled: str | None = None,
        out_axis: int = 0,
        weight_decay: float = 0.0,
        warmup: float = 0.0,
        schedule: str = "constant",
        final: float = 0.0,
    ):
        super().__init__(weight_decay, warmup, schedule, final)
        at_least_one("optimizer", hidden_size=hidden_size)
        true_or_false("AdafacMLP", learned_decays=learned_decays)
        if step_scale not in (None, "fan_in"):
            raise ValueError(f"AdafacMLP: step_scale must be null or fan_in, got {step_scale!r}")
        if len(square_decays) != 1 or len(momentum_decays) != len(factor_decays):
            raise ValueError(
                "AdafacMLP needs one decay in square_decays and as many in momentum_decays as in factor_decays, "
                f"got {len(square_decays)}, {len(momentum_decays)} and {len(factor_decays)}"
            )
        decays = {"momentum_decays": momentum_decays, "square_decays": square_decays, "factor_decays": factor_decays}
        below_one("AdafacMLP", **{name: [*map(float, value)] for name, value in decays.items()})
        expression("AdafacMLP", unscaled=unscaled)
        self.hidden_size, self.num_layers, self.learned_decays = hidden_size, num_layers, learned_decays
        self.step_mult, self.exp_mult = step_mult, exp_mult
        self.momentum_decays, self.square_decays = [*map(float, momentum_decays)], [*map(float, square_decays)]
        self.factor_decays = [*map(float, factor_decays)]
        self.step_scale, self.unscaled, self.out_axis = step_scale, unscaled, out_axis
        if step_scale is not None and unscaled is None:
            self.scope = Scope.ALL
        num_features = 4 + 8 * len(factor_decays) + len(TIMESCALES)
        self.mlp = MLP([num_features, *[hidden_size] * num_layers, 2])
        if learned_decays:
            self.momentum_offsets, self.square_offsets, self.factor_offsets = (
                nn.Parameter(torch.zeros(len(decays))) for decays in self._decays_at_start
            )

    def init_state(self, theta: Tensor, layout: Layout) -> State:
        return init_moments(theta, layout, *map(len, self._decays_at_start))

    def state_axes(self) -> dict[str, Axis]:
        return dict(AXES)

    def forward(self, seen: Observation, state: State, layout: Layout) -> tuple[Tensor, State]:
        recipe = RECIPE._replace(exp_mult=self.exp_mult)
        scale = -1.0 * self.rate_at(seen, self.step_mult)
        if self.step_scale is not None:
            scale = scale * constant(self._scales(layout), seen.grad)[None]
        update, after = step(recipe, self.mlp.weights, self.decays(seen.grad), seen, state, layout, scale)
        return self.decayed(seen, update, self.step_mult), after

    def decays(self, like: Tensor) -> Decays:
        """Give β of every accumulator as φ has it now: (M,), or (B, M) where φ has a leading task axis."""
        starts = self._decays_at_start
        if not self.learned_decays:
            return Decays(*(constant(decays, like) for decays in starts))
        parts = (self.momentum_offsets, self.square_offsets, self.factor_offsets)
        tasks = max((part.shape[:-1] for part in parts), key=len)  # some may be the same for all tasks
        offsets = torch.cat([part.expand(*tasks, -1) for part in parts], -1)
        decays = learned_decays(starts[0] + starts[1] + starts[2], offsets)
        return Decays(*decays.split([*map(len, starts)], -1))

    @property
    def _decays_at_start(self) -> tuple[list[float], list[float], list[float]]:
        return self.momentum_decays, self.square_decays, self.factor_decays

    def _scales(self, layout: Layout) -> list[float]:
        """Give what each tensor's step is multiplied by."""
        weights = [name for name, shape in layout.shapes.items() if len(shape) > 1]
        if self.unscaled is None:
            hidden = set(weights[1:-1])
        else:
            hidden = {name for name in weights if not re.search(self.unscaled, name)}
        return [1 / self._fan_in(name, layout) if name in hidden else 1.0 for name in layout.shapes]

    def _fan_in(self, name: str, layout: Layout) -> int:
        """Give how many inputs one output of a weight has. A kernel that is turned for rules has its outputs last."""
        shape = layout.shapes[name]
        outputs = shape[-1 if name in layout.turned else self.out_axis]
        return max(1, prod(shape) // max(1, outputs))


def learned_decays(starts: Sequence[float], offsets: Tensor) -> Tensor:
    """Give β = 1 − exp(10 (ln(1 − β_0)/10 + δ)) for δ (…, M), so that δ moves the logarithm of an average's length."""
    return 1 - torch.exp(10 * (_log_lengths(tuple(starts), offsets.dtype, offsets.device) + offsets))


@functools.lru_cache(maxsize=64)
def _log_lengths(starts: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Give ln(1 − β_0)/10, rounded as the authors' code rounds it: published trajectories show a last digit of β."""
    with torch.inference_mode(False):  # a tensor made in that mode could never be used in training again
        return torch.log(1 - torch.tensor(starts, dtype=dtype, device=device)) / 10

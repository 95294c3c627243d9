"""Celo2 (Moudgil et al. 2026, arXiv 2602.19142): a learned direction, orthogonalised and normalised.

Shapes: B tasks, P coordinates, G of them in the tensors that the MLP serves.
"""

import functools
import re
from collections.abc import Mapping
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor

from l2o.checks import at_least_one, expression, true_or_false
from l2o.optimizees.layout import Axis, Layout
from l2o.optimizers.accumulators import AXES, Decays, constant, init_moments, normalised
from l2o.optimizers.adam_averages import bias_correction
from l2o.optimizers.base import Observation, Scope, State, take
from l2o.optimizers.celo import FEATURES, LARGEST, NUM_FEATURES
from l2o.optimizers.kernels.coordinate_mlp import step
from l2o.optimizers.kernels.recipe import Recipe, served_layout
from l2o.optimizers.mlp import MLP
from l2o.optimizers.newton_schulz import newton_schulz
from l2o.optimizers.schedules import ScheduledRule

DECAYS = ((0.9, 0.99, 0.999), (0.95,), (0.9, 0.99, 0.999))
"""β of the momenta, of the second moment, and of the factored second moments."""

EPS = 1e-8

OUTPUT_EPS = 1e-9
"""ε of the mean square that the direction is normalised by."""

RECIPE = Recipe(FEATURES, norm_eps=1e-9, square_eps=EPS, limit=LARGEST, matrices=True, vectors=False)


class Celo2(ScheduledRule):
    """g = −step_mult · N(NS(d)), where d is the first output of an MLP of Celo's 30 features of the coordinate.

    N divides by the root mean square over a tensor's last two axes, so that every matrix takes a step with a root mean
    square of `step_mult`; NS is Newton-Schulz's orthogonalisation of these matrices. With `orthogonal=False` it is left
    out: that rule, with `adam_vectors=False` and `adam_pattern=None`, is Celo2-base. There are 347 meta-parameters.

    Some tensors are better served by Adam, with β of 0.9 and 0.95 from the same accumulators, and steps that are
    `mult_1d` times as large: those with fewer than two axes (`adam_vectors`) and those whose name `adam_pattern`, a
    regular expression, is found in. The defaults are those of use. The authors trained Celo2 with a pattern alone,
    `adam_vectors=False, adam_pattern="/b$"`, and without the correction for the averages' start at 0
    (`bias_correction=False`: m (v + 10⁻⁸)^−½ instead of m̂ / (√v̂ + 10⁻⁸)). `mult_1d=20` is theirs both times, although
    the default of PyLO's port is 1.

    ELO-Celo2 (arXiv 2607.06772) is this rule, at its defaults, with warm-up and a cosine: ELO differs in the training.
    """

    scope = Scope.TENSOR
    batched_phi = True

    def __init__(
        self,
        hidden_size: int = 8,
        num_layers: int = 2,
        orthogonal: bool = True,
        step_mult: float = 1e-3,
        mult_1d: float = 20.0,
        adam_vectors: bool = True,
        adam_pattern: str | None = "embed",
        bias_correction: bool = True,
        weight_decay: float = 0.0,
        warmup: float = 0.0,
        schedule: str = "constant",
        final: float = 0.0,
    ):
        super().__init__(weight_decay, warmup, schedule, final)
        at_least_one("optimizer", hidden_size=hidden_size)
        expression("Celo2", adam_pattern=adam_pattern)
        true_or_false("Celo2", orthogonal=orthogonal, adam_vectors=adam_vectors, bias_correction=bias_correction)
        self.hidden_size, self.num_layers, self.orthogonal = hidden_size, num_layers, orthogonal
        self.step_mult, self.mult_1d, self.bias_correction = step_mult, mult_1d, bias_correction
        self.adam_vectors, self.adam_pattern = adam_vectors, adam_pattern
        self.mlp = MLP([NUM_FEATURES, *[hidden_size] * num_layers, 3])

    def init_state(self, theta: Tensor, layout: Layout) -> State:
        steps = theta.new_zeros(len(theta), len(layout.shapes))
        return init_moments(theta, layout, *map(len, DECAYS)) | {"step": steps}

    def state_axes(self) -> dict[str, Axis]:
        return AXES | {"step": Axis.TENSORS}  # counted from the tensor's first gradient on, however late that comes

    def forward(self, seen: Observation, state: State, layout: Layout) -> tuple[Tensor, State]:
        routes = _routes(layout, self.adam_vectors, self.adam_pattern)
        decays, moments = Decays(*(constant(part, seen.grad) for part in DECAYS)), {key: state[key] for key in AXES}
        number, rate = state["step"] + 1, self.rate_at(seen, self.step_mult)
        recipe, scale = (RECIPE, 1.0) if self.orthogonal else (RECIPE._replace(output_eps=OUTPUT_EPS), -1.0 * rate)
        update, after = step(recipe, self.mlp.weights, decays, seen, moments, layout, scale, routes.learned)
        if self.orthogonal:
            update = -rate * _orthogonalised(update, served_layout(layout, routes.learned))
        if routes.adam:
            of_adam = -rate * self.mult_1d * self._adam(after, number, layout, routes.adam)
            update = _joined(layout, {routes.learned: update, routes.adam: of_adam})
        lr = self.step_mult
        if self.weight_decay:
            lr = lr * routes.for_each(layout, seen.grad, learned=1.0, adam=self.mult_1d)
        return self.decayed(seen, update, lr), after | {"step": number}

    def _adam(self, moments: State, step: Tensor, layout: Layout, names: tuple[str, ...]) -> Tensor:
        """Give Adam's direction for the tensors that Adam serves (B, G)."""
        spans, own = [layout.slices[name] for name in names], served_layout(layout, names)
        mean, square = take(moments["momenta"][..., 0], spans), take(moments["squares"][..., -1], spans)
        if not self.bias_correction:
            return mean * (square + EPS).rsqrt()
        places = [place for place, name in enumerate(layout.shapes) if name in names]
        step = step[:, places]
        of_mean, of_square = (own.spread(bias_correction(decays[0], step)) for decays in DECAYS[:2])
        return mean / of_mean / ((square / of_square).sqrt() + EPS)


class Routes(NamedTuple):
    """Name the tensors that the MLP serves, and those that Adam serves."""

    learned: tuple[str, ...]
    adam: tuple[str, ...]

    def for_each(self, layout: Layout, like: Tensor, learned: float, adam: float) -> Tensor:
        """Give one number to the tensors of the MLP and one to Adam's: (1, P)."""
        numbers = [adam if name in self.adam else learned for name in layout.shapes]
        return layout.spread(constant(numbers, like)[None])


@functools.lru_cache(maxsize=64)
def _routes(layout: Layout, adam_vectors: bool, adam_pattern: str | None) -> Routes:
    adam = tuple(
        name
        for name, shape in layout.shapes.items()
        if (adam_vectors and len(shape) < 2) or (adam_pattern is not None and re.search(adam_pattern, name))
    )
    return Routes(tuple(name for name in layout.shapes if name not in adam), adam)


def _orthogonalised(direction: Tensor, layout: Layout) -> Tensor:
    """Give N(NS(d)) of every tensor of two axes or more, and N(d) of all others: (B, G) -> (B, G)."""
    parts = layout.unravel(direction)
    has_matrices = lambda part: part.ndim > 2 and part.numel()  # noqa: E731
    parts = {name: newton_schulz(part) if has_matrices(part) else part for name, part in parts.items()}
    return normalised(layout.ravel(parts), layout, OUTPUT_EPS, matrices=True) if parts else direction


def _joined(layout: Layout, shares: Mapping[tuple[str, ...], Tensor]) -> Tensor:
    """Join what belongs to some of the tensors with what belongs to the others, in the layout's order: (B, P)."""
    pieces: dict[str, Tensor] = {}
    for names, flat in shares.items():
        sizes = [prod(layout.shapes[name]) for name in names]
        pieces |= zip(names, flat.split(sizes, 1), strict=True)
    return torch.cat([pieces[name] for name in layout.shapes], 1)

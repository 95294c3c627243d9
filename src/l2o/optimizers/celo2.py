"""Celo2 (Moudgil et al. 2026, arXiv 2602.19142): a learned direction, orthogonalised and normalised.

Shapes: B tasks, P coordinates, G of them in the tensors that the MLP serves.
"""

import functools
import math
import re
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from l2o.checks import at_least_one
from l2o.optimizees.layout import Axis, Layout
from l2o.optimizers.accumulators import (
    AXES,
    Decays,
    Moments,
    constant,
    init_moments,
    normalised,
    update_moments,
)
from l2o.optimizers.adam_averages import bias_correction
from l2o.optimizers.base import Observation, Scope, State, take
from l2o.optimizers.celo import LARGEST, NUM_FEATURES, celo_features
from l2o.optimizers.mlp import MLP
from l2o.optimizers.newton_schulz import newton_schulz
from l2o.optimizers.schedules import ScheduledRule

DECAYS = ((0.9, 0.99, 0.999), (0.95,), (0.9, 0.99, 0.999))
"""β of the momenta, of the second moment, and of the factored second moments."""

EPS = 1e-8


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
        limit = routes.for_each(layout, seen.grad, learned=LARGEST, adam=math.inf)
        grad = torch.clamp(seen.grad, -limit, limit)
        moments = update_moments(grad, state, layout, Decays(*(constant(part, grad) for part in DECAYS)))
        step = state["step"] + 1
        pieces: dict[str, Tensor] = {}
        if routes.learned:
            pieces |= self._learned(grad, seen.theta, moments, layout, routes.learned)
        if routes.adam:
            pieces |= self._adam(moments, step, layout, routes.adam)
        direction = torch.cat([pieces[name] for name in layout.shapes], 1) if pieces else grad
        lr = self.step_mult * routes.for_each(layout, grad, learned=1.0, adam=self.mult_1d)
        return self.descent(seen, direction, lr), moments.state | {"step": step}

    def _learned(
        self, grad: Tensor, theta: Tensor, moments: Moments, layout: Layout, names: Sequence[str]
    ) -> dict[str, Tensor]:
        """Give N(NS(d)) of each tensor that the MLP serves, flat."""
        own, spans = Layout({name: layout.shapes[name] for name in names}), [layout.slices[name] for name in names]
        moments = moments.of(layout, names)
        features = celo_features(take(grad, spans), take(theta, spans), moments, own, square_eps=EPS, vectors=False)
        direction = self.mlp(normalised(features, own, eps=1e-9, matrices=True))[0]
        if self.orthogonal:
            parts = own.unravel(direction)
            direction = own.ravel({name: _orthogonal(part) for name, part in parts.items()})
        return _pieces(normalised(direction, own, eps=1e-9, matrices=True), own)

    def _adam(self, moments: Moments, step: Tensor, layout: Layout, names: Sequence[str]) -> dict[str, Tensor]:
        """Give Adam's direction for each tensor that Adam serves, flat."""
        mean, square = moments.momenta[0], moments.squares[-1]
        if not self.bias_correction:
            direction = mean * (square + EPS).rsqrt()
        else:
            of_mean, of_square = (layout.spread(bias_correction(decays[0], step)) for decays in DECAYS[:2])
            direction = mean / of_mean / ((square / of_square).sqrt() + EPS)
        pieces = _pieces(direction, layout)
        return {name: pieces[name] for name in names}


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


def _orthogonal(part: Tensor) -> Tensor:
    """Give NS of a tensor (B, *shape) of two axes or more. Others, and those without elements, stay as they are."""
    return newton_schulz(part) if part.ndim > 2 and part.numel() else part


def _pieces(flat: Tensor, layout: Layout) -> dict[str, Tensor]:
    """(B, P) -> name: (B, n)."""
    return {name: flat[:, span] for name, span in layout.slices.items()}

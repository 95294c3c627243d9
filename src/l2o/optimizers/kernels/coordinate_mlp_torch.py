"""A small network's step for every coordinate in plain torch: the reference, differentiable, for any device.

Shapes: B tasks, P coordinates, G of them in the tensors that the network serves, M decays, F features.

The function and its contract are those of `coordinate_mlp_cpp`.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from l2o.optimizees.layout import Layout
from l2o.optimizers.accumulators import Decays, Moments, constant, factored, mean_square, normalised, update_moments
from l2o.optimizers.base import Observation, State, take
from l2o.optimizers.kernels.recipe import FACTORS, Feature, Recipe, served_layout
from l2o.optimizers.mlp import linear


def step(
    recipe: Recipe,
    weights: list[Tensor],
    decays: Decays,
    seen: Observation,
    state: State,
    layout: Layout,
    served: tuple[str, ...],
    scale: Tensor,
    in_place: bool = False,
) -> tuple[Tensor, State]:
    """Do one step, as `coordinate_mlp_cpp.step` does; autograd records it.

    `in_place` is accepted, as a permission that is not used.
    """
    grad = _clipped(seen.grad, recipe.limit, layout, served)
    moments = update_moments(grad, state, layout, decays)
    after = {key: value for key, value in moments.state.items() if key in state}
    own = served_layout(layout, served)
    spans = [layout.slices[name] for name in served]
    if not spans:
        return grad[:, :0], after
    grad, theta = take(grad, spans), take(seen.theta, spans)
    features = _features(recipe, grad, theta, moments.of(layout, served), own)
    if recipe.timescales:
        features.append(_time_features(recipe.timescales, seen.step, own))
    kept = len(recipe.timescales)
    out = _network(weights, normalised(torch.cat(features), own, recipe.norm_eps, recipe.matrices, kept))
    direction = out[0] * torch.exp(recipe.exp_mult * out[1]) if recipe.exp_mult else out[0]
    if recipe.relative:
        direction = direction * own.spread((mean_square(theta, own) + 1e-9).sqrt())
    if recipe.output_eps is not None:
        direction = normalised(direction, own, recipe.output_eps, recipe.matrices)
    return direction * (own.spread(scale) if scale.shape[1] > 1 else scale), after


def _clipped(grad: Tensor, limit: float, layout: Layout, served: tuple[str, ...]) -> Tensor:
    if limit == torch.inf or not served:
        return grad
    if len(served) == len(layout.shapes):
        return grad.clamp(-limit, limit)
    limits = constant((limit if name in served else torch.inf for name in layout.shapes), grad)
    of_coordinates = layout.spread(limits[None])
    return torch.clamp(grad, -of_coordinates, of_coordinates)


def _features(recipe: Recipe, grad: Tensor, theta: Tensor, moments: Moments, layout: Layout) -> list[Tensor]:
    """Give the groups of features, each (numbers in the group, B, G), not normalised."""
    m, v, g = moments.momenta, moments.squares, grad[None]
    values: dict[Feature, Callable[[], Tensor]] = {
        Feature.GRAD: lambda: g,
        Feature.CLIPPED_GRAD: lambda: g.clamp(-0.1, 0.1),
        Feature.THETA: lambda: theta[None],
        Feature.MOMENTA: lambda: m,
        Feature.SQUARES: lambda: v,
    }
    if len(v):
        s = (v + recipe.square_eps).rsqrt()
        values |= {Feature.SCALED_MOMENTA: lambda: m * s, Feature.ROOT: lambda: s, Feature.SCALED_GRAD: lambda: g * s}
    if FACTORS & set(recipe.features):
        by_factors = factored(moments, layout, recipe.vector_eps)
        shown = 1.0
        if not recipe.vectors:
            shown = layout.spread(constant((float(len(shape) > 1) for shape in layout.shapes.values()), grad)[None])
        values |= {
            Feature.FACTORED_GRAD: lambda: g * by_factors.scale,
            Feature.ROWS: lambda: by_factors.rows * shown,
            Feature.COLUMNS: lambda: by_factors.columns * shown,
            Feature.RSQRT_ROWS: lambda: by_factors.rsqrt_rows * shown,
            Feature.RSQRT_COLUMNS: lambda: by_factors.rsqrt_columns * shown,
            Feature.FACTORED_MOMENTA: lambda: m * by_factors.momentum_scale * shown,
        }
    return [values[feature]() for feature in recipe.features]


def _time_features(timescales: tuple[float, ...], step: Tensor, layout: Layout) -> Tensor:
    """Give tanh(t/τ − 1) for every τ: (B,) -> (number of τ, B, G), the same for all coordinates."""
    features = torch.tanh(step / constant(timescales, step)[:, None] - 1)
    return features[..., None].expand(-1, -1, layout.size)


def _network(weights: list[Tensor], x: Tensor) -> Tensor:
    """Send features (F, B, G) through linear layers with rectifiers between them."""
    for i in range(0, len(weights), 2):
        x = linear(x.relu() if i else x, weights[i], weights[i + 1])
    return x

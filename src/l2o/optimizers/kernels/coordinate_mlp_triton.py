"""A small network's step for every coordinate on an NVIDIA GPU, in Triton. Not measured on a GPU.

Shapes: B tasks, P coordinates, G of them in the tensors that the network serves, M decays, F features.

The function and its contract are those of `coordinate_mlp_cpp`: one φ, or one φ for each task. The work is shared out
by the tables of `coordinate_mlp_units`, in at most eight launches whatever the number of tensors. Sums of several
programs are written beside each other and added in order, without atomics: equal calls on one device give equal bits.

The code serves float32 and float64; `serves` offers float32 alone, which is what has been compiled for a GPU. The
kernels are in `factors_triton_source` and `coordinate_mlp_triton_source`; this module can be imported without Triton.
"""

import functools
from itertools import pairwise

import torch
from torch import Tensor

from l2o.native import triton_device
from l2o.native.triton_device import launch, padded
from l2o.optimizees.layout import Layout
from l2o.optimizers.accumulators import Decays, constant, init_moments
from l2o.optimizers.base import Observation, State
from l2o.optimizers.kernels.coordinate_mlp_arguments import (
    Layer,
    Moments,
    Output,
    Rows,
    Rule,
    Seen,
    decays_of,
    layers_of,
    moments_of,
    output_of,
    rule_of,
    seen_of,
)
from l2o.optimizers.kernels.coordinate_mlp_memory import checked_sizes
from l2o.optimizers.kernels.coordinate_mlp_units import BLOCK, TILE_X, TILE_Y, Tables, tables
from l2o.optimizers.kernels.recipe import Feature, Recipe, served_layout

MAX_UNITS = 64  # of a layer: beyond, a block's tiles do not fit into the registers
MAX_SIZE = 2**30  # coordinates: offsets within a tensor have 32 bits
TILE_NUMBERS = 4096  # of a tile of a block's coordinates and a layer's units
SUMMED = 64  # units whose sums are added at a time


def serves(recipe: Recipe, weights: list[Tensor], decays: Decays, seen: Observation) -> bool:
    """Whether the kernels can do this rule's step for tensors of this device, dtype and size.

    They are compiled and tried the first time; one line warns where that fails.
    """
    like, sizes = seen.grad, (weights[0].shape[-1], *(bias.shape[-1] for bias in weights[1::2]))
    return (
        triton_device.offered(like.device)
        and all(x.dtype == torch.float32 and x.device == like.device for x in (like, seen.theta, *weights, *decays))
        and max(sizes[1:]) <= MAX_UNITS
        and decays.squares.shape[-1] <= 1
        and not (recipe.relative and (recipe.matrices or Feature.THETA not in recipe.features))
        and like.shape[1] <= MAX_SIZE
        and _works(like.device, recipe, tuple(decay.shape[-1] for decay in decays), sizes)
    )


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
    """Do one step, as `coordinate_mlp_cpp.step` does, on the gradient's device."""
    sizes, grad = checked_sizes(weights, decays, seen, state, layout), seen.grad
    momenta, squares, factors = (decay.shape[-1] for decay in decays)
    table = tables(layout, served, recipe.matrices, grad.device)
    rule = rule_of(recipe, (momenta, squares, factors), sizes, triton_device.PRECISION)
    moments = moments_of(state, grad.new_empty(factors, len(grad), len(table.lines)), in_place)
    output = output_of(seen, scale, len(served), served_layout(layout, served).size)
    observed, rows = seen_of(seen), decays_of(decays)
    with triton_device.on(grad.device):
        if factors:
            _update_factors(rule, table, observed, moments, rows)
        sums = _accumulate(rule, table, observed, moments, rows)
        if table.num_served:
            timescales = constant(recipe.timescales, grad)
            _ask(rule, table, observed, moments, rows, layers_of(weights), timescales, sums, output)
    after = {key: moment.now.movedim(0, -1) for key, moment in moments._asdict().items() if key in state}
    return output.out, after


def _update_factors(rule: Rule, table: Tables, seen: Seen, moments: Moments, decays: Rows) -> None:
    """Take up the gradient in the factored moments of all tensors that have two axes or more."""
    from l2o.optimizers.kernels.factors_triton_source import line_means, tile_sums, update_factors

    tasks, tensors, tile = len(seen.grad), table.tensors, (TILE_X, TILE_Y)
    sums = seen.grad.new_empty(tasks, table.num_sums)
    read = seen.grad, seen.grad_row, sums, table.num_sums
    launch(tile_sums, table.tiles, tasks, tensors, len(table.tiles), *read, rule.limit, *tile)
    given = sums, table.num_sums, moments.major, moments.minor, decays.factors
    launch(update_factors, table.factors, tasks, tensors, len(table.factors), *given, rule.factors, *tile, BLOCK)
    given = moments.major, moments.means, rule.factors
    launch(line_means, table.lines, tasks, tensors, len(table.lines), *given, BLOCK)


def _accumulate(rule: Rule, table: Tables, seen: Seen, moments: Moments, decays: Rows) -> Tensor:
    """Update all other moments; give the sums of the features' squares (B, units, F)."""
    from l2o.optimizers.kernels.coordinate_mlp_triton_source import accumulate

    count = len(table.units)
    sums = seen.grad.new_empty(len(seen.grad), count, rule.num_features)
    given = table.tensors, count, seen, moments, decays, sums, rule, BLOCK
    launch(accumulate, table.units, len(seen.grad), *given)
    return sums


def _ask(
    rule: Rule,
    table: Tables,
    seen: Seen,
    moments: Moments,
    decays: Rows,
    layers: tuple[Layer, ...],
    timescales: Tensor,
    sums: Tensor,
    output: Output,
) -> None:
    """Write the direction of the tensors that the network serves, from the sums of their features' squares."""
    from l2o.optimizers.kernels.coordinate_mlp_triton_source import directions, normalise

    tasks, count, matrices = len(seen.grad), table.num_served, len(table.matrices)
    of_features = _scales(table, sums, rule.norm_eps, rule.theta_at)
    squares = sums.new_empty(tasks, count, 1)
    block = min(BLOCK, TILE_NUMBERS // max(rule.padded[1:]))
    units = table.units[:count]
    given = seen, moments, decays, of_features, matrices, layers, timescales, output, squares
    launch(directions, units, tasks, table.tensors, count, *given, rule, block)
    if rule.output_eps is not None:
        of_direction = _scales(table, squares, rule.output_eps)
        launch(normalise, units, tasks, table.tensors, count, of_direction, matrices, output, BLOCK)


def _scales(table: Tables, sums: Tensor, eps: float, theta_at: int = -1) -> Tensor:
    """Give what normalises n numbers in every matrix, from sums of squares: (B, units, n) -> (B, matrices, n + 1).

    The last one is what the direction is multiplied by: the root mean square of θ where `theta_at` says which of the n
    sums is that of θ's squares, else 1.
    """
    from l2o.optimizers.kernels.coordinate_mlp_triton_source import find_scales

    (tasks, units, n), matrices = sums.shape, len(table.matrices)
    found = sums.new_empty(tasks, matrices, n + 1)
    launch(find_scales, table.matrices, tasks, matrices, sums, units, found, n, padded(n), eps, theta_at, SUMMED)
    return found


@functools.lru_cache(maxsize=64)
def _works(device: torch.device, recipe: Recipe, counts: tuple[int, ...], sizes: tuple[int, ...]) -> bool:
    """Compile the kernels for a rule and run a tiny step; False after a warning where that fails."""

    def attempt() -> Tensor:
        one = lambda *shape: torch.ones(shape, device=device)  # noqa: E731
        layout = Layout({"weight": (2, 2), "bias": (2,)})
        weights = [one(*shape) / inputs for inputs, units in pairwise(sizes) for shape in ((units, inputs), (units,))]
        decays, seen = Decays(*(one(count) / 2 for count in counts)), Observation(*one(2, 1, layout.size), *one(3, 1))
        state = init_moments(seen.theta, layout, *counts)
        return step(recipe, weights, decays, seen, state, layout, tuple(layout.shapes), one(1, 1))[0]

    return triton_device.works(device, "the Triton kernel of the coordinates' network", attempt)

"""What the Triton kernels of a small network's step are given: what they are compiled for, and where numbers lie.

Shapes: B tasks, P coordinates, M decays, L layers. A row is the distance in memory between two tasks, 0 where all tasks
read the same numbers; a plane is that between two decays.
"""

import functools
from typing import NamedTuple

import torch
from torch import Tensor

from l2o.native.triton_device import padded
from l2o.optimizers.accumulators import AXES, Decays
from l2o.optimizers.base import Observation, State
from l2o.optimizers.kernels.coordinate_mlp_memory import before_and_after, in_rows, task_rows
from l2o.optimizers.kernels.recipe import FACTORS, Feature, Recipe


class Rule(NamedTuple):
    """Hold what a kernel is compiled for: a recipe, with the numbers of decays and the sizes of the network."""

    features: tuple[int, ...]
    num_features: int
    momenta: int
    squares: int
    factors: int
    vectors: bool
    limit: float
    square_eps: float
    vector_eps: float
    exp_mult: float
    norm_eps: float
    output_eps: float | None
    theta_at: int  # θ's place among the features, where the direction is multiplied by the root of its mean square
    times: int
    padded_times: int
    sizes: tuple[int, ...]  # of the network: inputs, units, …, outputs
    padded: tuple[int, ...]  # of the tiles that hold so many numbers
    precision: str


class Seen(NamedTuple):
    """Say where the observation lies."""

    grad: Tensor
    grad_row: int
    theta: Tensor
    theta_row: int
    step: Tensor


class Moment(NamedTuple):
    """Say where an accumulator (M, B, n) lies before and after the step."""

    old: Tensor
    now: Tensor
    old_plane: int
    old_row: int
    plane: int
    row: int


class Moments(NamedTuple):
    """Hold the accumulators; `means` are those of the larger factor along its lines, which no state keeps."""

    momenta: Moment
    squares: Moment
    major: Moment
    minor: Moment
    means: Moment


class Row(NamedTuple):
    """Say where the decays of one kind lie."""

    pointer: Tensor
    row: int


class Rows(NamedTuple):
    """Hold the decays β of the accumulators."""

    momenta: Row
    squares: Row
    factors: Row


class Layer(NamedTuple):
    """Say where a layer's weight and bias lie."""

    weight: Tensor
    weight_row: int
    bias: Tensor
    bias_row: int


class Output(NamedTuple):
    """Say where the direction lies (B, G), and what it is multiplied by (B, number of tensors served)."""

    out: Tensor
    out_row: int
    scale: Tensor
    scale_row: int
    scale_column: int


@functools.lru_cache(maxsize=64)
def rule_of(recipe: Recipe, counts: tuple[int, int, int], sizes: tuple[int, ...], precision: str) -> Rule:
    """Give what kernels are compiled for, with so many decays of each kind and a network of these sizes."""
    return Rule(
        tuple(int(feature) for feature in recipe.features),
        sizes[0] - len(recipe.timescales),
        *counts,
        recipe.vectors,
        recipe.limit,
        recipe.square_eps,
        recipe.vector_eps,
        recipe.exp_mult,
        recipe.norm_eps,
        recipe.output_eps,
        _theta_at(recipe, counts),
        len(recipe.timescales),
        padded(len(recipe.timescales)),
        sizes,
        tuple(map(padded, sizes)),
        precision,
    )


def _theta_at(recipe: Recipe, counts: tuple[int, int, int]) -> int:
    """Give θ's place among the features, or −1 where the direction is not relative to it."""
    if not recipe.relative:
        return -1
    of_momenta = (Feature.MOMENTA, Feature.SCALED_MOMENTA, Feature.FACTORED_MOMENTA)
    before = recipe.features[: recipe.features.index(Feature.THETA)]
    return sum(counts[0] if group in of_momenta else counts[2] if group in FACTORS else 1 for group in before)


def seen_of(seen: Observation) -> Seen:
    """Say where the observation lies."""
    grad, theta = in_rows(seen.grad), in_rows(seen.theta)
    return Seen(grad, grad.stride(0), theta, theta.stride(0), seen.step.to(grad.dtype).contiguous())


def moments_of(state: State, means: Tensor, in_place: bool) -> Moments:
    """Say where the accumulators lie. In the place of those that a rule does not have stands what is never read."""
    none = means.new_empty(1, 1, 0)
    pairs = [before_and_after(state[key], in_place) if key in state else (none, none) for key in AXES]
    return Moments(*(Moment(old, now, *old.stride()[:2], *now.stride()[:2]) for old, now in (*pairs, (means, means))))


def decays_of(decays: Decays) -> Rows:
    """Say where the decays lie."""
    values = [value if value.stride(-1) == 1 else value.contiguous() for value in map(Tensor.detach, decays)]
    return Rows(*map(Row, values, task_rows(values, [1] * len(values))))


def layers_of(weights: list[Tensor]) -> tuple[Layer, ...]:
    """Say where the weights of every layer lie."""
    values = [weight.detach().contiguous() for weight in weights]
    rows = task_rows(values, [2, 1] * (len(values) // 2))
    return tuple(map(Layer, values[::2], rows[::2], values[1::2], rows[1::2]))


def output_of(seen: Observation, scale: Tensor, tensors: int, size: int) -> Output:
    """Make the direction, not filled, and say where it lies."""
    out = torch.empty(len(seen.grad), size, dtype=seen.grad.dtype, device=seen.grad.device)
    scale = scale.detach().to(out.dtype).expand(len(out), tensors)
    return Output(out, out.stride(0), scale, *scale.stride())

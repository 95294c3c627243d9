"""What the compiled steps of a small network for every coordinate rely on: shapes that fit, and where numbers lie.

Shapes: B tasks, P coordinates, M decays, H units, F features.
"""

import functools
from itertools import pairwise

from torch import Tensor

from l2o.optimizees.layout import Layout, Shape
from l2o.optimizers.accumulators import AXES, Decays
from l2o.optimizers.base import Observation, State


def checked_sizes(
    weights: list[Tensor], decays: Decays, seen: Observation, state: State, layout: Layout
) -> tuple[int, ...]:
    """Give the sizes of the network: inputs, units, …, outputs, after checking every shape that a kernel relies on.

    Raises:
        ValueError: a shape does not fit. A kernel reads memory by these sizes.
    """
    keys = tuple(key for key in AXES if key in state)
    tensors = (*seen, *decays, *weights, *(state[key] for key in keys))
    return _checked_sizes(layout, keys, tuple(tensor.shape for tensor in tensors))


@functools.lru_cache(maxsize=256)
def _checked_sizes(layout: Layout, keys: tuple[str, ...], given: tuple[Shape, ...]) -> tuple[int, ...]:
    found, tasks = [tuple(shape) for shape in given], given[0][0]
    decays, weights = found[5:8], found[8 : len(found) - len(keys)]
    sizes = (weights[0][-1], *(bias[-1] for bias in weights[1::2]))
    leading = lambda shape, ndim: (tasks,) if len(shape) > ndim else ()  # noqa: E731
    wanted = [(tasks, layout.size)] * 2 + [(tasks,)] * 3 + [(*leading(decay, 1), decay[-1]) for decay in decays]
    for (inputs, outputs), weight, bias in zip(pairwise(sizes), weights[::2], weights[1::2], strict=True):
        wanted += [(*leading(weight, 2), outputs, inputs), (*leading(bias, 1), outputs)]
    counts = dict(zip(AXES, (*decays, decays[2]), strict=True))
    wanted += [(tasks, layout.length(AXES[key]), counts[key][-1]) for key in keys]
    if wanted != found or any(counts[key][-1] for key in AXES if key not in keys):
        raise ValueError(f"expected shapes {wanted}, got {found}, with the accumulators {keys}")
    return sizes


def before_and_after(state: Tensor, in_place: bool) -> tuple[Tensor, Tensor]:
    """Give an accumulator (B, n, M) as (M, B, n) with runs of n numbers, and what its new numbers go into.

    These are the same where it may be overwritten and no two of its numbers lie at one place.
    """
    old = state.movedim(-1, 0)  # (M, B, n), in the kernels' own order where it must be copied
    if old.stride(2) != 1 and old.shape[2] > 1:
        old = old.contiguous()
    count, tasks, size = old.shape
    plane, row, _ = old.stride()
    is_own = (tasks == 1 or row >= size) and (count == 1 or plane >= size)
    return old, old if in_place and is_own else old.new_empty(old.shape)


def in_rows(tensor: Tensor) -> Tensor:
    """Give (B, P) with its rows contiguous, of any distance from each other."""
    return tensor if tensor.stride(1) == 1 or tensor.shape[1] <= 1 else tensor.contiguous()


def task_rows(values: list[Tensor], axes: list[int]) -> list[int]:
    """Give the distance between tasks of each tensor: 0 where it has just the axes of one task, for all of them."""
    return [value.stride(0) if value.ndim > count else 0 for value, count in zip(values, axes, strict=True)]

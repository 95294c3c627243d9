"""What the implementations of the hierarchical rule's step have in common: its constants, and the shapes that fit.

Shapes: B tasks, P coordinates, K tensors, M momenta.
"""

import functools
from itertools import pairwise
from typing import NamedTuple

from torch import Tensor

from l2o.optimizees.layout import Layout, Shape
from l2o.optimizers.base import Observation, State
from l2o.optimizers.loss_trend import NUM_FEATURES

EPS = 1e-8
"""ε of ∇ / (√v̂ + ε)."""

LARGEST_INPUT = 10.0
"""What the inputs of the coordinates' network are clipped to, plus and minus."""


class Memory(NamedTuple):
    """Hold what is remembered of every coordinate."""

    momenta: Tensor  # (M, B, P)
    square: Tensor  # (B, P)


class Settings(NamedTuple):
    """Hold the numbers of a rule that are not trained, as `l2o.optimizers.hierarchical.Hierarchical` explains them."""

    step_mult: float
    warmup: float
    cosine: bool
    adam: bool
    reads_loss: bool
    gain: float
    largest_exponent: float


STATE = ("momenta", "square", "statistics", "step", "losses")
"""What the rule remembers, in the order in which compiled kernels take it."""

AXES = (2, 1) * 7
"""How many axes the weights and biases of φ have, where all tasks have the same: those of the linear function and the
network of a tensor, then those of the coordinates' network."""


def checked_sizes(
    layout: Layout, momenta: int, seen: Observation, state: State, phi: list[Tensor]
) -> tuple[int, int, int]:
    """Give the numbers of hidden units of the coordinates' network and of a tensor's, and of the outputs of the latter.

    Raises ValueError where a shape of the observation, the state or φ does not fit: a compiled kernel reads memory by
    these sizes.
    """
    tensors = (*seen, *(state[key] for key in STATE), *phi)
    return _checked_sizes(layout, momenta, tuple(tensor.shape for tensor in tensors))


def shapes_of_state(tasks: int, layout: Layout, momenta: int) -> dict[str, tuple[int, ...]]:
    """Give the shapes of what is remembered."""
    rows, of_tensors = (tasks, layout.size), (tasks, len(layout.shapes))
    shapes = (*rows, momenta), rows, (*of_tensors, 2 * momenta + 1), of_tensors, (tasks, 1, 4)
    return dict(zip(STATE, shapes, strict=True))


def shapes_of_phi(momenta: int, sizes: tuple[int, int, int]) -> list[tuple[int, ...]]:
    """Give the shapes of φ for one task, for the sizes that `checked_sizes` gives."""
    hidden, units, outputs = sizes
    features = 2 * momenta + 10 + NUM_FEATURES
    networks = ((features, 1), (features, units, units, outputs), (momenta + 1 + outputs, hidden, hidden, 1))
    layers = [layer for network in networks for layer in pairwise(network)]
    return [shape for inputs, size in layers for shape in ((size, inputs), (size,))]


@functools.lru_cache(maxsize=256)
def _checked_sizes(layout: Layout, momenta: int, given: tuple[Shape, ...]) -> tuple[int, int, int]:
    found, tasks = [tuple(shape) for shape in given], given[0][0]
    phi = found[len(Observation._fields) + len(STATE) :]
    sizes = phi[9][-1], phi[3][-1], phi[7][-1]
    wanted = [(tasks, layout.size)] * 2 + [(tasks,)] * 3 + [*shapes_of_state(tasks, layout, momenta).values()]
    leading = [(tasks,) if len(shape) > axes else () for shape, axes in zip(phi, AXES, strict=True)]
    wanted += [(*first, *shape) for first, shape in zip(leading, shapes_of_phi(momenta, sizes), strict=True)]
    of_phi = (f"weight {number} of φ" for number in range(len(phi)))
    for name, shape, fitting in zip((*Observation._fields, *STATE, *of_phi), found, wanted, strict=True):
        if shape != fitting:
            raise ValueError(f"Hierarchical: {name} must have the shape {fitting}, got {shape}")
    return sizes

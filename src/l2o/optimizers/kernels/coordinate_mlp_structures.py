"""The structures that `coordinate_mlp.cpp` reads, mirrored for ctypes, and what they hold for a recipe and a layout."""

import ctypes
import functools
import math
from math import prod

from l2o.optimizees.layout import Axis, Layout, Shape, factored_axes
from l2o.optimizers.kernels.recipe import Recipe, served_layout

MAX_GROUPS, MAX_LAYERS, MAX_TIMES, MAX_DECAYS = 16, 16, 16, 8

Int, Real, Pointer = ctypes.c_int64, ctypes.c_double, ctypes.c_void_p


class RecipeStructure(ctypes.Structure):
    """A recipe, with the numbers of decays and the sizes of the network."""

    _fields_ = [
        *((name, Int) for name in ("momenta", "squares", "factors", "num_groups")),
        ("groups", Int * MAX_GROUPS),
        ("num_layers", Int),
        ("sizes", Int * (MAX_LAYERS + 1)),
        *((name, Int) for name in ("num_times", "matrices", "vectors", "relative")),
        ("times", Real * MAX_TIMES),
        *((name, Real) for name in ("square_eps", "vector_eps", "norm_eps", "exp_mult", "output_eps")),
    ]


class Geometry(ctypes.Structure):
    """A tensor of a layout, seen as (A, X, M, Y, C) where X and Y are its two largest axes."""

    _fields_ = [
        *((name, Int) for name in ("size", "factored", "A", "X", "M", "Y", "C", "rows_are_major", "num_matrices")),
        *((name, Int) for name in ("served", "number", "coordinate", "major", "minor", "out")),
        ("limit", Real),
    ]


class Moment(ctypes.Structure):
    """Accumulators (M, B, n) before and after: where they lie, and the distances between decays and between tasks."""

    _fields_ = [
        ("old", Pointer),
        ("now", Pointer),
        *((name, Int) for name in ("old_plane", "old_row", "plane", "row")),
    ]


class Call(ctypes.Structure):
    """What one step is given."""

    _fields_ = [
        *((name, Int) for name in ("num_tasks", "num_tensors", "threads")),
        *((name, Pointer) for name in ("grad", "theta", "out")),
        *((name, Int) for name in ("grad_row", "theta_row", "out_row")),
        *((name, Moment) for name in ("momenta", "squares", "major", "minor")),
        ("decays", Pointer * 3),
        ("decays_row", Int * 3),
        ("weights", Pointer * (2 * MAX_LAYERS)),
        ("weights_row", Int * (2 * MAX_LAYERS)),
        *((name, Pointer) for name in ("step", "scale")),
        *((name, Int) for name in ("scale_row", "scale_column")),
    ]


@functools.lru_cache(maxsize=64)
def recipe_structure(recipe: Recipe, decays: tuple[int, int, int], sizes: tuple[int, ...]) -> RecipeStructure:
    """Give a recipe's structure for so many decays of each kind, and a network of these sizes."""
    own = RecipeStructure(*decays, len(recipe.features))
    own.groups[: len(recipe.features)] = [int(feature) for feature in recipe.features]
    own.num_layers, own.num_times = len(sizes) - 1, len(recipe.timescales)
    own.sizes[: len(sizes)] = sizes
    own.times[: len(recipe.timescales)] = recipe.timescales
    own.matrices, own.vectors, own.relative = recipe.matrices, recipe.vectors, recipe.relative
    own.square_eps, own.vector_eps, own.norm_eps = recipe.square_eps, recipe.vector_eps, recipe.norm_eps
    own.exp_mult, own.output_eps = recipe.exp_mult, -1 if recipe.output_eps is None else recipe.output_eps
    return own


@functools.lru_cache(maxsize=256)
def geometries(layout: Layout, served: tuple[str, ...], matrices: bool, limit: float) -> ctypes.Array[Geometry]:
    """Give the structure of every tensor of a layout. The network serves some of them; only those are clipped."""
    spans = {axis: layout.spans(axis) for axis in (Axis.COORDINATES, Axis.MAJOR, Axis.MINOR)}
    outs = served_layout(layout, served).slices
    found = (Geometry * len(layout.shapes))()
    for own, (name, shape) in zip(found, layout.shapes.items(), strict=True):
        own.size, own.num_matrices = prod(shape), prod(shape[:-2]) if matrices else 1
        own.coordinate, own.major, own.minor = (span[name].start for span in spans.values())
        if name in outs:
            own.served, own.number, own.out = True, served.index(name), outs[name].start
        own.limit = limit if name in outs else math.inf
        own.factored = len(shape) > 1
        if own.factored:
            _fill_axes(own, shape)
    return found


def _fill_axes(own: Geometry, shape: Shape) -> None:
    largest, second = factored_axes(shape)
    x, y = sorted((largest, second))
    own.A, own.X, own.M = prod(shape[:x]), shape[x], prod(shape[x + 1 : y])
    own.Y, own.C, own.rows_are_major = shape[y], prod(shape[y + 1 :]), largest == y

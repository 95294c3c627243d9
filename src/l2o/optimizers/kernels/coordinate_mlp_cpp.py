"""A small network's step for every coordinate in C++, compiled on first use.

Shapes: B tasks, P coordinates, G of them in the tensors that the network serves, M decays, F features, H units.

CPU, float32 and float64; nothing here is recorded by autograd. The bits of a result do not depend on the number of
threads, which is `torch.get_num_threads()`, or one where the work is small.

`compilation` builds `coordinate_mlp.cpp` once per machine. Without a compiler `available()` is False. The environment
variable `L2O_KERNEL=0` disables the kernel.
"""

import ctypes
import functools
import logging
import os
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor

from l2o.optimizees.layout import Layout
from l2o.optimizers.accumulators import AXES, Decays
from l2o.optimizers.base import Observation, State
from l2o.optimizers.kernels import compilation
from l2o.optimizers.kernels.coordinate_mlp_structures import (
    MAX_DECAYS,
    MAX_GROUPS,
    MAX_LAYERS,
    MAX_TIMES,
    Call,
    Moment,
    geometries,
    recipe_structure,
)
from l2o.optimizers.kernels.recipe import Recipe, served_layout

logger = logging.getLogger(__name__)

SOURCE = Path(__file__).with_name("coordinate_mlp.cpp")
MULTIPLY_ADDS_PER_THREAD = 2_000_000  # about 50 us, some times what it takes to start or wake a thread
WORK_PER_COORDINATE = 200  # what features cost beside the network, in multiply-adds
IMPORTED_BY = os.getpid()  # torch's threads, if they run already, are this process's


def available() -> bool:
    """Whether the kernel can be used. Compiles it the first time; warns once where that fails; never raises."""
    return os.environ.get("L2O_KERNEL") != "0" and _library() is not None


def serves(recipe: Recipe, weights: list[Tensor], decays: Decays, seen: Observation) -> bool:
    """Whether the kernel can do this rule's step for tensors of this device and dtype."""
    like = seen.grad
    return (
        like.device.type == "cpu"
        and like.dtype in (torch.float32, torch.float64)
        and all(tensor.dtype == like.dtype for tensor in (seen.theta, *weights, *decays))
        and len(weights) <= 2 * MAX_LAYERS
        and len(recipe.features) <= MAX_GROUPS
        and len(recipe.timescales) <= MAX_TIMES
        and decays.momenta.shape[-1] <= MAX_DECAYS
        and available()
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
    """Update the accumulators of every tensor, and give the direction of those that the network serves.

    Args:
        recipe: what the direction is made of.
        weights: of the network: of each layer W (H, F) and b (H,), or (B, H, F) and (B, H) for one of each task.
        decays: β of each accumulator: (M,), or (B, M) for one of each task.
        seen: what the rule is told; the gradient and θ are (B, P).
        state: the accumulators (B, n, M); those that have no decay are not there.
        layout: of the P coordinates.
        served: the names of the tensors that the network serves, in the layout's order. Gradients of others are not
            clipped.
        scale: what the direction is multiplied by, (1 or B, 1 or number of tensors served).
        in_place: the new accumulators may take the old ones' memory; else the inputs are not modified.

    Returns:
        The direction (B, G) and the new accumulators.

    Raises:
        ValueError: the shapes do not fit.
        RuntimeError: the kernel is not `available()`.
        MemoryError: the workspaces do not fit into memory.
    """
    tasks, grad, theta = len(seen.grad), _rows(seen.grad), _rows(seen.theta)
    shapes = geometries(layout, served, recipe.matrices, recipe.limit)
    sizes = (weights[0].shape[-1], *(bias.shape[-1] for bias in weights[1::2]))
    _check(recipe, weights, decays, sizes, state, grad, theta, layout)
    counts = tuple(decay.shape[-1] for decay in decays)
    out = grad.new_empty(tasks, served_layout(layout, served).size)
    threads = _threads(sizes, grad.numel())
    data = (grad, theta, out)
    call = Call(tasks, len(shapes), threads, *(x.data_ptr() for x in data), *(x.stride(0) for x in data))
    kept, after = [grad, theta], {}
    for key, moment in zip(AXES, (call.momenta, call.squares, call.major, call.minor), strict=True):
        if key in state:
            old = _planes(state[key])
            new = old if in_place and _is_own(old) else old.new_empty(old.shape)
            _fill(moment, old, new)
            kept.append(old)
            after[key] = new.movedim(0, -1)
    given = [value.detach().contiguous() for value in (*decays, *weights)]
    for i, value in enumerate(given[:3]):
        call.decays[i], call.decays_row[i] = value.data_ptr(), value.stride(0) if value.ndim == 2 else 0
    for i, value in enumerate(given[3:]):
        call.weights[i], call.weights_row[i] = value.data_ptr(), value.stride(0) if value.ndim == 3 - i % 2 else 0
    scale = scale.detach().expand(tasks, len(served))
    told = seen.step.to(grad.dtype).contiguous()
    call.step, call.scale = told.data_ptr(), scale.data_ptr()
    call.scale_row, call.scale_column = scale.stride()
    _run(grad.dtype, recipe_structure(recipe, counts, sizes), shapes, call)
    return out, after


def _check(
    recipe: Recipe,
    weights: list[Tensor],
    decays: Decays,
    sizes: tuple[int, ...],
    state: State,
    grad: Tensor,
    theta: Tensor,
    layout: Layout,
) -> None:
    """Raise ValueError where a shape does not fit: the kernel reads memory by these sizes."""
    tasks = len(grad)
    wanted = [(tasks, layout.size)] * 2
    found = [tuple(grad.shape), tuple(theta.shape)]
    for (inputs, outputs), weight, bias in zip(pairwise(sizes), weights[::2], weights[1::2], strict=True):
        leading = [(tasks,) if tensor.ndim > own else () for tensor, own in ((weight, 2), (bias, 1))]
        wanted += [(*leading[0], outputs, inputs), (*leading[1], outputs)]
        found += [tuple(weight.shape), tuple(bias.shape)]
    for (key, axis), decay in zip(AXES.items(), (*decays, decays.factors), strict=True):
        wanted += [(tasks, layout.length(axis), decay.shape[-1])] if key in state else []
        found += [tuple(state[key].shape)] if key in state else []
    if wanted != found:
        raise ValueError(f"expected shapes {wanted}, got {found}")


def _rows(tensor: Tensor) -> Tensor:
    """Give (B, P) with its rows contiguous, of any distance from each other."""
    own = tensor.detach()
    return own if own.stride(1) == 1 or own.shape[1] <= 1 else own.contiguous()


def _planes(state: Tensor) -> Tensor:
    """(B, n, M) -> (M, B, n) with its rows contiguous; in the kernel's own order where it must be copied."""
    planes = state.detach().movedim(-1, 0)
    return planes if planes.stride(2) == 1 or planes.shape[2] <= 1 else planes.contiguous()


def _is_own(planes: Tensor) -> bool:
    """Whether no two numbers (M, B, n) lie at the same place."""
    count, tasks, size = planes.shape
    return (tasks == 1 or planes.stride(1) >= size) and (count == 1 or planes.stride(0) >= size)


def _fill(moment: Moment, old: Tensor, new: Tensor) -> None:
    moment.old, moment.now = old.data_ptr(), new.data_ptr()
    moment.old_plane, moment.old_row, moment.plane, moment.row = *old.stride()[:2], *new.stride()[:2]


def _threads(sizes: Iterable[int], coordinates: int) -> int:
    work = coordinates * (WORK_PER_COORDINATE + sum(inputs * outputs for inputs, outputs in pairwise(sizes)))
    return torch.get_num_threads() if work >= 2 * MULTIPLY_ADDS_PER_THREAD else 1


def _run(dtype: torch.dtype, *structures: ctypes.Structure | ctypes.Array) -> None:
    library = _library()
    if library is None or not available():
        raise RuntimeError("the compiled kernel of the coordinates' network is not available")
    function = library.l2o_coordinate_mlp_float32 if dtype == torch.float32 else library.l2o_coordinate_mlp_float64
    if function(*map(ctypes.byref, structures)):
        raise MemoryError("the compiled kernel of the coordinates' network ran out of memory")


@functools.cache
def _library() -> ctypes.CDLL | None:
    """Give the loaded library, or None after a warning."""
    try:
        library = compilation.load(SOURCE)
        ctypes.c_int64.in_dll(library, "l2o_pool_owner").value = IMPORTED_BY
        return library
    except (compilation.CompilerError, OSError, ImportError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        logger.warning("the compiled kernel of the coordinates' network is not available: %s", reason)
        return None

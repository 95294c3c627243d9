"""A small network's step for every coordinate in C++, compiled on first use.

Shapes: B tasks, P coordinates, G of them in the tensors that the network serves, M decays, F features, H units.

CPU, float32 and float64; nothing here is recorded by autograd. The bits of a result do not depend on the number of
threads, which is `torch.get_num_threads()`, or one where the work is small.

`compilation` builds `coordinate_mlp.cpp` once per machine. Without a compiler `available()` is False. The environment
variable `L2O_KERNEL=0` disables the kernel.
"""

import ctypes
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor

from l2o.native.libraries import library
from l2o.optimizees.layout import Layout
from l2o.optimizers.accumulators import AXES, Decays
from l2o.optimizers.base import Observation, State
from l2o.optimizers.kernels.coordinate_mlp_memory import before_and_after, checked_sizes, in_rows, task_rows
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

SOURCE = Path(__file__).with_name("coordinate_mlp.cpp")
MULTIPLY_ADDS_PER_THREAD = 2_000_000  # about 50 us, some times what it takes to start or wake a thread
WORK_PER_COORDINATE = 200  # what features cost beside the network, in multiply-adds


def available() -> bool:
    """Whether the kernel can be used. Compiles it the first time; warns once where that fails; never raises."""
    return _library() is not None


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
    tasks, out = len(seen.grad), seen.grad.new_empty(len(seen.grad), served_layout(layout, served).size)
    keys = tuple(key for key in AXES if key in state)
    sizes = checked_sizes(weights, decays, seen, state, layout)
    counts = tuple(decay.shape[-1] for decay in decays)
    shapes = geometries(layout, served, recipe.matrices, recipe.limit)
    call = Call(tasks, len(shapes), _threads(sizes, seen.grad.numel()))
    kept = _fill_inputs(call, seen, out, scale.expand(tasks, len(served)))
    kept += _fill_phi(call, decays, weights)
    moments = {key: _fill_moment(getattr(call, key), state[key], in_place) for key in keys}
    _run(out.dtype, recipe_structure(recipe, counts, sizes), shapes, call)
    del kept  # until here the kernel has read them
    return out, {key: new.movedim(0, -1) for key, (_, new) in moments.items()}


def _fill_inputs(call: Call, seen: Observation, out: Tensor, scale: Tensor) -> list[Tensor]:
    """Write down where the observation lies, and the direction; give the tensors, which must outlive the call."""
    grad, theta, step = in_rows(seen.grad), in_rows(seen.theta), seen.step.to(out.dtype).contiguous()
    call.grad, call.theta, call.out = grad.data_ptr(), theta.data_ptr(), out.data_ptr()
    call.grad_row, call.theta_row, call.out_row = grad.stride(0), theta.stride(0), out.stride(0)
    call.step, call.scale = step.data_ptr(), scale.data_ptr()
    call.scale_row, call.scale_column = scale.stride()
    return [grad, theta, step, scale]


def _fill_phi(call: Call, decays: Decays, weights: list[Tensor]) -> list[Tensor]:
    """Write down where φ lies; give the tensors, which must outlive the call."""
    given = [value if value.stride(-1) == 1 else value.contiguous() for value in decays]
    given += [value if value.is_contiguous() else value.contiguous() for value in weights]
    pointers = [value.data_ptr() for value in given]
    rows = task_rows(given, [1, 1, 1, *[2, 1] * (len(weights) // 2)])
    call.decays[:], call.weights[: len(weights)] = pointers[:3], pointers[3:]
    call.decays_row[:], call.weights_row[: len(weights)] = rows[:3], rows[3:]
    return given


def _fill_moment(moment: Moment, state: Tensor, in_place: bool) -> tuple[Tensor, Tensor]:
    """Write down where an accumulator lies before and after the step; give both, (M, B, n), the new one not filled."""
    old, new = before_and_after(state, in_place)
    (moment.old_plane, moment.old_row, _), (moment.plane, moment.row, _) = old.stride(), new.stride()
    moment.old, moment.now = old.data_ptr(), new.data_ptr()
    return old, new


def _threads(sizes: Iterable[int], coordinates: int) -> int:
    work = coordinates * (WORK_PER_COORDINATE + sum(inputs * outputs for inputs, outputs in pairwise(sizes)))
    return torch.get_num_threads() if work >= 2 * MULTIPLY_ADDS_PER_THREAD else 1


def _run(dtype: torch.dtype, *structures: ctypes.Structure | ctypes.Array) -> None:
    loaded = _library()
    if loaded is None:
        raise RuntimeError("the compiled kernel of the coordinates' network is not available")
    function = loaded.l2o_coordinate_mlp_float32 if dtype == torch.float32 else loaded.l2o_coordinate_mlp_float64
    if function(*map(ctypes.byref, structures)):
        raise MemoryError("the compiled kernel of the coordinates' network ran out of memory")


def _library() -> ctypes.CDLL | None:
    return library(SOURCE, "the compiled kernel of the coordinates' network")

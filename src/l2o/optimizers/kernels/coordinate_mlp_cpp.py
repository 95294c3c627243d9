"""A small network's step for every coordinate in C++, compiled on first use.

Shapes: B tasks, P coordinates, G of them in the tensors that the network serves, M decays, F features, H units.

CPU, float32 and float64; nothing here is recorded by autograd. The bits of a result do not depend on the number of
threads, which is `torch.get_num_threads()`, or one where the work is small.

`compilation` builds `coordinate_mlp.cpp` once per machine. Without a compiler `available()` is False. The environment
variable `L2O_KERNEL=0` disables the kernel.
"""

import ctypes
import functools
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor

from l2o.native.libraries import library
from l2o.optimizees.layout import Layout, Shape
from l2o.optimizers.accumulators import AXES, Decays
from l2o.optimizers.base import Observation, State
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
    sizes = _checked_sizes(
        layout, keys, tuple(x.shape for x in (*seen, *decays, *weights, *(state[key] for key in keys)))
    )
    counts = tuple(decay.shape[-1] for decay in decays)
    shapes = geometries(layout, served, recipe.matrices, recipe.limit)
    call = Call(tasks, len(shapes), _threads(sizes, seen.grad.numel()))
    kept = _fill_inputs(call, seen, out, scale.expand(tasks, len(served)))
    kept += _fill_phi(call, decays, weights)
    moments = {key: _fill_moment(getattr(call, key), state[key], in_place) for key in keys}
    _run(out.dtype, recipe_structure(recipe, counts, sizes), shapes, call)
    del kept  # until here the kernel has read them
    return out, {key: new.movedim(0, -1) for key, (_, new) in moments.items()}


@functools.lru_cache(maxsize=256)
def _checked_sizes(layout: Layout, keys: tuple[str, ...], given: tuple[Shape, ...]) -> tuple[int, ...]:
    """Give the sizes of the network: inputs, units, …, outputs, after checking every shape that the kernel relies on.

    Raises ValueError where one does not fit: the kernel reads memory by these sizes.
    """
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


def _fill_inputs(call: Call, seen: Observation, out: Tensor, scale: Tensor) -> list[Tensor]:
    """Write down where the observation lies, and the direction; give the tensors, which must outlive the call."""
    grad, theta, step = _rows(seen.grad), _rows(seen.theta), seen.step.to(out.dtype).contiguous()
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
    rows = [value.stride(0) if value.ndim > 1 + (i > 2 and i % 2) else 0 for i, value in enumerate(given)]
    call.decays[:], call.weights[: len(weights)] = pointers[:3], pointers[3:]
    call.decays_row[:], call.weights_row[: len(weights)] = rows[:3], rows[3:]
    return given


def _fill_moment(moment: Moment, state: Tensor, in_place: bool) -> tuple[Tensor, Tensor]:
    """Write down where an accumulator lies before and after the step; give both, (M, B, n), the new one not filled."""
    old = state.movedim(-1, 0)  # (M, B, n), in the kernel's own order where it must be copied
    if old.stride(2) != 1 and old.shape[2] > 1:
        old = old.contiguous()
    count, tasks, size = old.shape
    (old_plane, old_row, _) = old.stride()
    is_own = (tasks == 1 or old_row >= size) and (count == 1 or old_plane >= size)  # no two numbers at one place
    new = old if in_place and is_own else old.new_empty(old.shape)
    moment.old, moment.now, moment.old_plane, moment.old_row = old.data_ptr(), new.data_ptr(), old_plane, old_row
    moment.plane, moment.row, _ = new.stride()
    return old, new


def _rows(tensor: Tensor) -> Tensor:
    """Give (B, P) with its rows contiguous, of any distance from each other."""
    return tensor if tensor.stride(1) == 1 or tensor.shape[1] <= 1 else tensor.contiguous()


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

"""A step of the hierarchical rule in C++, compiled on first use: `hierarchical.cpp`.

CPU, float32 and float64; nothing here is recorded by autograd. The bits of a result do not depend on the number of
threads. Without a compiler `serves` is False, as it is with the environment variable `L2O_KERNEL=0`.

Shapes: B tasks, P coordinates, K tensors, M momenta, H hidden units.
"""

import ctypes
import functools
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from l2o.native.libraries import library
from l2o.optimizees.layout import Layout
from l2o.optimizers.accumulators import constant
from l2o.optimizers.base import Observation, State
from l2o.optimizers.kernels.dispatch import is_donated
from l2o.optimizers.kernels.hierarchical_memory import AXES, EPS, Settings, checked_sizes
from l2o.optimizers.loss_trend import FAST, SLOW, SMALLEST
from l2o.optimizers.tensor_features import SMOOTHED, UNKNOWN_HORIZON, of_shapes

SOURCE = Path(__file__).with_name("hierarchical.cpp")
MAX_MOMENTA, MAX_HIDDEN = 8, 64
COORDINATES_PER_THREAD = 8192  # what takes longer than to wake a thread


def serves(tensors: Sequence[Tensor], momenta: int, hidden_size: int) -> bool:
    """Say whether the kernel takes tensors of this device and dtype, and networks of this size. It never raises."""
    kinds = {(tensor.device.type, tensor.dtype) for tensor in tensors}
    fits = kinds in ({("cpu", torch.float32)}, {("cpu", torch.float64)})
    small = 0 < momenta <= MAX_MOMENTA and hidden_size <= MAX_HIDDEN
    return fits and small and _library() is not None


def step(
    settings: Settings, decays: tuple[float, ...], phi: list[Tensor], seen: Observation, state: State, layout: Layout
) -> tuple[Tensor, State]:
    """Give g (B, P), not yet orthogonal, and the next state.

    `decays` are those of the M momenta, then that of the square. `phi` are the weights and biases of the linear
    function and of the network of a tensor, then of the coordinates' network; any of them may have a leading axis of
    tasks. Raises ValueError where shapes do not fit, and MemoryError where the memory runs out.
    """
    hidden, units, outputs = checked_sizes(layout, len(decays) - 1, seen, state, phi)
    old = [_in_planes(state["momenta"].movedim(-1, 0)), state["square"].contiguous()]
    new = old if is_donated() else [part.new_empty(part.shape) for part in old]
    statistics = state["statistics"].movedim(-1, 0).contiguous()
    steps, losses = state["step"].contiguous(), state["losses"].contiguous()
    kept, steps_done, losses_known = (torch.empty_like(part) for part in (statistics, steps, losses))
    grad, told = seen.grad.contiguous(), [part.contiguous() for part in (seen.loss, seen.step, seen.horizon)]
    update = torch.empty_like(grad)
    (tasks, size), tensors = grad.shape, len(layout.shapes)
    many = any(weight.ndim > axes for weight, axes in zip(phi, AXES, strict=True))
    if many:
        pairs = zip(phi, AXES, strict=True)
        phi = [weight if weight.ndim > axes else weight.expand(tasks, *weight.shape) for weight, axes in pairs]
    phi = [weight.contiguous() for weight in phi]
    given = [_ends(layout), grad, seen.theta.contiguous(), *old, constant(decays, grad)]
    given += [statistics, steps, losses, *told, of_shapes(layout, grad), kept, steps_done, losses_known, *new, update]
    planes = old[0].stride(0), new[0].stride(0)
    sizes = (tasks, size, tensors, len(decays) - 1, hidden, units, outputs - 1, int(many), *planes)
    threads = torch.get_num_threads() if tasks * size >= 2 * COORDINATES_PER_THREAD else 1
    function = getattr(_library(), f"l2o_step_{'float32' if grad.dtype == torch.float32 else 'float64'}")
    if function(_integers(sizes), ctypes.c_int64(threads), _numbers(settings), _pointers(given), _pointers(phi)):
        raise MemoryError("the compiled kernel of the hierarchical rule ran out of memory")
    after = {"momenta": new[0].movedim(0, -1), "square": new[1], "statistics": kept.movedim(0, -1)}
    return update, after | {"step": steps_done, "losses": losses_known}


def _in_planes(momenta: Tensor) -> Tensor:
    """Give momenta (M, B, P) of which each is one run of memory: those of a chunk lie among those of other chunks."""
    return momenta if momenta[0].is_contiguous() else momenta.contiguous()


@functools.lru_cache(maxsize=256)
def _ends(layout: Layout) -> Tensor:
    return torch.tensor([0, *(span.stop for span in layout.slices.values())], dtype=torch.int64, device="cpu")


@functools.lru_cache(maxsize=256)
def _integers(values: tuple[int, ...]) -> ctypes.Array[ctypes.c_int64]:
    return (ctypes.c_int64 * len(values))(*values)


@functools.lru_cache(maxsize=256)
def _numbers(settings: Settings) -> ctypes.Array[ctypes.c_double]:
    """Give the settings and the rule's constants in the order of `Settings` in the C++ source."""
    values = [EPS, *settings, SMOOTHED, FAST, SLOW, SMALLEST, UNKNOWN_HORIZON]
    return (ctypes.c_double * len(values))(*map(float, values))


def _pointers(tensors: list[Tensor]) -> ctypes.Array[ctypes.c_void_p]:
    return (ctypes.c_void_p * len(tensors))(*[tensor.data_ptr() for tensor in tensors])


def _library() -> ctypes.CDLL | None:
    return library(SOURCE, "the compiled kernel of the hierarchical rule")

"""The hierarchical rule's passes over the coordinates in C++, compiled on first use: `hierarchical.cpp`.

CPU, float32 and float64; nothing here is recorded by autograd. The bits of a result do not depend on the number of
threads. Without a compiler `serves` is False, as it is with the environment variable `L2O_KERNEL=0`.

Shapes: B tasks, P coordinates, K tensors, M momenta, H hidden units.
"""

import ctypes
import functools
from pathlib import Path

import torch
from torch import Tensor

from l2o.native.libraries import library
from l2o.optimizees.layout import Layout
from l2o.optimizers.base import Observation
from l2o.optimizers.kernels.dispatch import is_donated
from l2o.optimizers.kernels.hierarchical_memory import EPS, Memory

SOURCE = Path(__file__).with_name("hierarchical.cpp")
MAX_MOMENTA, MAX_HIDDEN = 8, 64
COORDINATES_PER_THREAD = 8192  # what takes longer than to wake a thread


def serves(tensors: list[Tensor], momenta: int, hidden_size: int) -> bool:
    """Say whether the kernel takes tensors of this device and dtype, and networks of this size. It never raises."""
    kinds = {(tensor.device.type, tensor.dtype) for tensor in tensors}
    fits = kinds in ({("cpu", torch.float32)}, {("cpu", torch.float64)})
    small = 0 < momenta <= MAX_MOMENTA and hidden_size <= MAX_HIDDEN
    return fits and small and _library() is not None


def remember(
    seen: Observation, memory: Memory, layout: Layout, decays: tuple[float, ...], correct: Tensor
) -> tuple[Memory, Tensor]:
    """Take up a gradient. See `l2o.optimizers.kernels.hierarchical.Kernel`."""
    old = Memory(*(part.contiguous() for part in memory))
    new = old if is_donated() else Memory(*map(torch.empty_like, old))
    (count, tasks, size), tensors = old.momenta.shape, len(layout.shapes)
    found = seen.grad.new_empty(tasks, tensors, 2 * count + 2)
    given, kept = _given(seen, old, layout, torch.tensor(decays, dtype=found.dtype), correct)
    _call("remember", found.dtype, tasks, size, tensors, count, _threads(tasks * size), EPS, given, *new, found)
    del kept  # until here the kernel has read them
    return new, found.movedim(-1, 0)


def direction(
    seen: Observation,
    memory: Memory,
    layout: Layout,
    correct: Tensor,
    theta_scale: Tensor,
    weights: list[Tensor],
    bias: Tensor,
    scale: Tensor,
) -> Tensor:
    """Give g (B, P). See `l2o.optimizers.kernels.hierarchical.Kernel`."""
    (count, tasks, size), out = memory.momenta.shape, seen.grad.new_empty(seen.grad.shape)
    many = any(weight.ndim > axes for weight, axes in zip(weights, (2, 2, 1, 2, 1), strict=True))
    if many:
        pairs = zip(weights, (2, 2, 1, 2, 1), strict=True)
        weights = [weight if weight.ndim > axes else weight.expand(tasks, *weight.shape) for weight, axes in pairs]
    first, *rest = (weight.contiguous() for weight in weights)
    phi = _pointers([first, own := bias.movedim(0, -1).contiguous(), *rest])
    sizes = theta_scale.contiguous(), scale.contiguous()
    given, kept = _given(seen, Memory(*(part.contiguous() for part in memory)), layout, out.new_zeros(1), correct)
    numbers = tasks, size, len(layout.shapes), count, first.shape[-2], int(many), _threads(tasks * size), EPS
    _call("direct", out.dtype, *numbers, given, phi, *sizes, out)
    del kept, own  # until here the kernel has read them
    return out


def _given(
    seen: Observation, memory: Memory, layout: Layout, decays: Tensor, correct: Tensor
) -> tuple[ctypes.Array[ctypes.c_void_p], list[Tensor]]:
    """Give the pointers to what both passes read, and the tensors, which must outlive the call."""
    tensors = [_ends(layout), seen.grad.contiguous(), seen.theta.contiguous(), *memory, decays, correct.contiguous()]
    return _pointers(tensors), tensors


@functools.lru_cache(maxsize=256)
def _ends(layout: Layout) -> Tensor:
    return torch.tensor([0, *(span.stop for span in layout.slices.values())], dtype=torch.int64)


def _pointers(tensors: list[Tensor]) -> ctypes.Array[ctypes.c_void_p]:
    return (ctypes.c_void_p * len(tensors))(*[tensor.data_ptr() for tensor in tensors])


def _threads(coordinates: int) -> int:
    return torch.get_num_threads() if coordinates >= 2 * COORDINATES_PER_THREAD else 1


def _call(name: str, dtype: torch.dtype, *arguments: int | float | Tensor | ctypes.Array[ctypes.c_void_p]) -> None:
    """Run an exported function."""
    function = getattr(_library(), f"l2o_{name}_{'float32' if dtype == torch.float32 else 'float64'}")
    converted = [_converted(argument) for argument in arguments]
    if function(*converted):
        raise MemoryError("the compiled kernel of the hierarchical rule ran out of memory")


def _converted(argument: int | float | Tensor | ctypes.Array[ctypes.c_void_p]) -> object:
    if isinstance(argument, Tensor):
        return ctypes.c_void_p(argument.data_ptr())
    if isinstance(argument, float):
        return ctypes.c_double(argument)
    return ctypes.c_int64(argument) if isinstance(argument, int) else argument


def _library() -> ctypes.CDLL | None:
    return library(SOURCE, "the compiled kernel of the hierarchical rule")

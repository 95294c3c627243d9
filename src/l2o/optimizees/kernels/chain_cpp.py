"""The compiled kernel of chains of linear layers: `chain.cpp`, called.

CPU, float32 and float64; nothing here is recorded by autograd. The bits of a result do not depend on the number of
threads, which is `torch.get_num_threads()`, or one where the work is small.

Shapes: B tasks, P coordinates, N examples of a minibatch, I numbers of an example.
"""

import ctypes
import functools
from pathlib import Path

import torch
from torch import Tensor

from l2o.native.libraries import library
from l2o.optimizees.kernels.chain_links import Chain, Loss

SOURCE = Path(__file__).with_name("chain.cpp")
MULTIPLY_ADDS_PER_THREAD = 2_000_000  # about 50 us, some times what it takes to start or wake a thread
OUT_OF_MEMORY, NO_CLASS = 1, 2

Int, Real, Pointer = ctypes.c_int64, ctypes.c_double, ctypes.c_void_p


class Layer(ctypes.Structure):
    """A linear layer, as `chain.cpp` reads it."""

    _fields_ = [
        *((name, Int) for name in ("inputs", "outputs", "weight", "bias", "activation")),
        *((name, Real) for name in ("slope", "scale")),
    ]


class Call(ctypes.Structure):
    """What one evaluation is given, as `chain.cpp` reads it."""

    _fields_ = [
        *((name, Int) for name in ("tasks", "examples", "num_layers", "loss", "threads")),
        *((name, Int) for name in ("theta_row", "grad_row", "x_task", "x_row", "label_task")),
        ("decay", Real),
        *((name, Pointer) for name in ("layers", "theta", "x", "labels", "losses", "grad")),
    ]


def available() -> bool:
    """Whether the kernel can be used. Compiles it the first time; warns once where that fails; never raises."""
    return _library() is not None


def loss_and_grad(
    chain: Chain, kind: Loss, theta: Tensor, x: Tensor, labels: Tensor | None, decay: float
) -> tuple[Tensor, Tensor] | None:
    """Give the losses (B,) and the gradient (B, P) for θ (B, P), x (B, N, I) and labels (B, N).

    It returns None where there is no compiler and for labels that are no classes. Sizes are not checked: see
    `l2o.optimizees.kernels.chain`, which calls it.
    """
    loaded = _library()
    if loaded is None:
        return None
    theta, x = _rows(theta), _rows(x)
    labels = labels if labels is None or labels.stride(1) == 1 else labels.contiguous()
    grad, losses = theta.new_empty(theta.shape), theta.new_empty(len(theta))
    label_task, label_pointer = (0, None) if labels is None else (labels.stride(0), labels.data_ptr())
    layers, work = _layers(chain), multiply_adds(chain, x)
    call = Call(
        *(len(theta), x.shape[1], len(chain), int(kind), _threads(work)),
        *(theta.stride(0), grad.stride(0), x.stride(0), x.stride(1), label_task),
        *(decay, ctypes.addressof(layers), theta.data_ptr(), x.data_ptr(), label_pointer),
        *(losses.data_ptr(), grad.data_ptr()),
    )
    function = loaded.l2o_chain_float32 if theta.dtype == torch.float32 else loaded.l2o_chain_float64
    status = function(ctypes.byref(call))
    if status == OUT_OF_MEMORY:
        raise MemoryError("the compiled kernel of linear layers ran out of memory")
    return None if status == NO_CLASS else (losses, grad)


def multiply_adds(chain: Chain, x: Tensor) -> int:
    """Count the multiplications of one evaluation of all tasks, for x (B, N, …)."""
    return 3 * x.shape[0] * x.shape[1] * sum(link.inputs * link.outputs for link in chain)


@functools.lru_cache(maxsize=256)
def _layers(chain: Chain) -> ctypes.Array[Layer]:
    """Give the layers as the kernel reads them."""
    return (Layer * len(chain))(*(Layer(*link) for link in chain))


def _rows(tensor: Tensor) -> Tensor:
    """Give a tensor whose last axis is contiguous; the other axes may have any distance."""
    return tensor if tensor.stride(-1) == 1 or tensor.shape[-1] == 1 else tensor.contiguous()


def _threads(multiply_adds: int) -> int:
    return torch.get_num_threads() if multiply_adds >= 2 * MULTIPLY_ADDS_PER_THREAD else 1


def _library() -> ctypes.CDLL | None:
    return library(SOURCE, "the compiled kernel of linear layers")

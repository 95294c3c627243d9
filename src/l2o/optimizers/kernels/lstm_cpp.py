"""The coordinatewise LSTM's step and window gradient in C++, compiled on first use.

Legend: N coordinates (all tasks'), F features of a coordinate, H hidden units, L layers, K steps.

All coordinates share the weights, in `torch.nn.LSTMCell`'s conventions (gate rows i, f, g, o), with a linear head:

    i, f, g, o = split(x W_ih^T + b_ih + h W_hh^T + b_hh)
    c' = sigmoid(f) c + sigmoid(i) tanh(g),   h' = sigmoid(o) tanh(c'),   out = h'_top . w + b

`weights` is always the flat list: per layer weight_ih (4H, F or H), weight_hh (4H, H), bias_ih (4H,), bias_hh (4H,);
then the head's weight (1, H) and bias (1,). A step also takes weights that all have one more axis in front, B tasks:
then the first N/B coordinates are those of the first task and have its weights, and so on.

Features (…, N, F) and states (N, H) may have any strides, but the kernel works on rows of coordinates: where they are
contiguous along N (transposed views of (…, F, N) and (H, N), or of some of their columns), they are used as they are,
else copied. It returns such views. With the constants of log-and-sign, the kernel makes the two features itself
(`preprocessing.LogAndSign`): then F = 2, and `features` are the gradients, (…, N, 1).

CPU, float32 and float64; nothing here is recorded by autograd. The bits of a result do not depend on the number of
threads, which is `torch.get_num_threads()`, or one where the work is small: GNU's OpenMP ends and starts threads
wherever a team is smaller than the last one.

`compilation` builds `lstm.cpp` once per machine. Without a compiler `available()` is False. The environment
variable `L2O_KERNEL=0` disables the kernel.
"""

import ctypes
import functools
import itertools
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from l2o.native.libraries import library
from l2o.optimizers.kernels.lstm_arguments import (
    LogAndSign,
    along_coordinates,
    along_units,
    contiguous,
    of_each_task,
    sizes_of,
)

SOURCE = Path(__file__).with_name("lstm.cpp")
MULTIPLY_ADDS_PER_THREAD = 2_000_000  # about 50 us, some times what it takes to start or wake a thread


def available() -> bool:
    """Whether the kernel can be used. Compiles it the first time; warns once where that fails; never raises."""
    return _library() is not None


def step(
    weights: list[Tensor],
    features: Tensor,
    hidden: list[Tensor],
    cell: list[Tensor],
    in_place: bool = False,
    log_and_sign: LogAndSign | None = None,
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """One step of the LSTM and its head.

    Args:
        weights: as in the module's docstring, for all coordinates or for each task.
        features: (N, F).
        hidden: L tensors (N, H).
        cell: L tensors (N, H).
        in_place: the new state may take the old one's memory; else the inputs are not modified.
        log_and_sign: p, e^−p and e^p, where the features are to be made of gradients.

    Returns:
        out (N,), new hidden and new cell, each L tensors (N, H): the given lists where these were overwritten.

    Raises:
        ValueError: the shapes do not fit, or a tensor is not a CPU tensor of the features' dtype.
        RuntimeError: the kernel is not `available()`.
        MemoryError: the workspaces do not fit into memory.
    """
    call, out, new = prepared_step(weights, features, hidden, cell, in_place, log_and_sign)
    call()
    layers = len(hidden)
    return (out, hidden, cell) if new is None else (out, new[:layers], new[layers:])


def prepared_step(
    weights: list[Tensor],
    features: Tensor,
    hidden: list[Tensor],
    cell: list[Tensor],
    in_place: bool = False,
    log_and_sign: LogAndSign | None = None,
    scale: float = 1.0,
) -> tuple["Call", Tensor, list[Tensor] | None]:
    """Check and lay out what `step` is given. Give the call that is left to do, scale × its output, and the new states.

    The new states, hidden then cell, are None where the given ones will be overwritten. Raises what `step` raises,
    except for MemoryError.
    """
    of_tasks = of_each_task(weights, features.shape[0])
    sizes = sizes_of(of_tasks[0], features, features.shape[:1], hidden, cell, log_and_sign)
    n, given = sizes[0], [*hidden, *cell]
    rows, out = along_coordinates(features), features.new_empty(n)
    old, distance = along_units(given)
    new = old if in_place else [part.new_empty(part.shape[::-1]).mT for part in old]
    tensors = [*contiguous([*itertools.chain(*of_tasks)]), rows, *old, out, *new]
    strides = rows.stride(1), distance, distance if in_place else n
    threads = _threads(of_tasks[0], n)
    call = Call("step", rows.dtype, (*sizes, len(of_tasks), *strides, threads, float(scale)), log_and_sign, tensors)
    return call, out, None if new is given else new


def window_gradient(
    weights: list[Tensor],
    features: Tensor,
    hidden: list[Tensor],
    cell: list[Tensor],
    cotangent: Tensor,
    log_and_sign: LogAndSign | None = None,
    *,
    scale: float = 1.0,
) -> list[Tensor]:
    """Gradient of scale · sum_t <cotangent_t, out_t> with respect to every weight.

    out_1 ... out_K are the outputs of K steps from the given initial state, which is a constant; the gradient goes
    back through all of them. Temporary memory grows with threads and K, not with N.

    Args:
        weights: as in the module's docstring.
        features: (K, N, F).
        hidden: L tensors (N, H), the state before the first step.
        cell: L tensors (N, H), likewise.
        cotangent: (K, N), dLoss/d out_t.
        log_and_sign: p, e^−p and e^p, where the features are to be made of gradients.
        scale: a factor of the gradient, by which the finished sums are multiplied.

    Returns:
        One gradient per weight, in the weights' order and shapes.

    Raises:
        ValueError: the shapes do not fit, or a tensor is not a CPU tensor of the features' dtype.
        RuntimeError: the kernel is not `available()`.
        MemoryError: the workspaces do not fit into memory.
    """
    sizes = sizes_of(weights, features, features.shape[:2], hidden, cell, log_and_sign, cotangent)
    steps, rows = len(features), along_coordinates(features)
    state, distance = along_units([*hidden, *cell])
    gradient = [features.new_empty(weight.shape) for weight in weights]
    tensors = [*contiguous(weights), rows, *state, *contiguous([cotangent]), *gradient]
    counts = rows.stride(2), rows.stride(0), distance, steps, _threads(weights, 3 * steps * sizes[0])
    Call("window_gradient", rows.dtype, (*sizes, *counts, float(scale)), log_and_sign, tensors)()
    return gradient


class Call:
    """An exported function with all its arguments: numbers, the constants of log-and-sign, pointers to the tensors.

    The tensors are kept as long as the call is. Raises RuntimeError where the kernel is not `available()`.
    """

    def __init__(
        self,
        name: str,
        dtype: torch.dtype,
        numbers: tuple[int | float, ...],
        log_and_sign: LogAndSign | None,
        tensors: list[Tensor],
    ):
        loaded = _library()
        if loaded is None:
            raise RuntimeError("the compiled LSTM kernel is not available")
        self.tensors = tensors
        constants = None if log_and_sign is None else (ctypes.c_double * 3)(*log_and_sign)
        self.pointers = (ctypes.c_void_p * len(tensors))(*[tensor.data_ptr() for tensor in tensors])
        function = _function(loaded, name, dtype, tuple(map(type, numbers)))
        self.run = functools.partial(function, *numbers, constants, self.pointers)

    def __call__(self) -> None:
        """Run the function. Raises MemoryError where its workspaces do not fit into memory."""
        if self.run():
            raise MemoryError("the compiled LSTM kernel ran out of memory")


def _threads(weights: list[Tensor], evaluations: int) -> int:
    work = evaluations * sum([weight.numel() for weight in weights])
    return torch.get_num_threads() if work >= 2 * MULTIPLY_ADDS_PER_THREAD else 1


@functools.cache
def _function(loaded: ctypes.CDLL, name: str, dtype: torch.dtype, kinds: tuple[type, ...]) -> Any:
    """An exported function, which takes Python's numbers, of these kinds, and arrays as they are."""
    function = getattr(loaded, f"l2o_{name}_{'float32' if dtype == torch.float32 else 'float64'}")
    numbers = [ctypes.c_double if kind is float else ctypes.c_int64 for kind in kinds]
    function.argtypes = [*numbers, ctypes.c_void_p, ctypes.c_void_p]
    return function


def _library() -> ctypes.CDLL | None:
    return library(SOURCE, "the compiled LSTM kernel")

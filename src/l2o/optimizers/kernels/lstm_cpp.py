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
else copied. It returns such views.

With the constants of log-and-sign, the kernel makes the two features itself (`preprocessing.LogAndSign`): then `features`
are the gradients, (…, N, 1), and F = 2.

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

SOURCE = Path(__file__).with_name("lstm.cpp")
LogAndSign = tuple[float, float, float]
"""p, e^−p and e^p."""

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
    of_tasks = _of_tasks(weights, features.shape[0])
    sizes = _sizes(of_tasks[0], features, features.shape[:1], hidden, cell, log_and_sign)
    n, layers = sizes[0], len(hidden)
    rows, given, out = _features(features), [*hidden, *cell], features.new_empty(n)
    old, distance = _states(given)
    new = old if in_place else [part.new_empty(part.shape[::-1]).mT for part in old]
    tensors = [*_contiguous([*itertools.chain(*of_tasks)]), rows, *old, out, *new]
    strides = rows.stride(1), distance, distance if in_place else n
    threads = _threads(of_tasks[0], n)
    _call("step", rows.dtype, (*sizes, len(of_tasks), *strides, threads), log_and_sign, tensors)
    return (out, hidden, cell) if new is given else (out, new[:layers], new[layers:])


def window_gradient(
    weights: list[Tensor],
    features: Tensor,
    hidden: list[Tensor],
    cell: list[Tensor],
    cotangent: Tensor,
    log_and_sign: LogAndSign | None = None,
) -> list[Tensor]:
    """Gradient of sum_t <cotangent_t, out_t> with respect to every weight.

    out_1 ... out_K are the outputs of K steps from the given initial state, which is a constant; the gradient goes
    back through all of them. Temporary memory grows with threads and K, not with N.

    Args:
        weights: as in the module's docstring.
        features: (K, N, F).
        hidden: L tensors (N, H), the state before the first step.
        cell: L tensors (N, H), likewise.
        cotangent: (K, N), dLoss/d out_t.
        log_and_sign: p, e^−p and e^p, where the features are to be made of gradients.

    Returns:
        One gradient per weight, in the weights' order and shapes.

    Raises:
        ValueError: the shapes do not fit, or a tensor is not a CPU tensor of the features' dtype.
        RuntimeError: the kernel is not `available()`.
        MemoryError: the workspaces do not fit into memory.
    """
    sizes = _sizes(weights, features, features.shape[:2], hidden, cell, log_and_sign, cotangent)
    steps, rows, (state, distance) = features.shape[0], _features(features), _states([*hidden, *cell])
    gradient = [features.new_empty(weight.shape) for weight in weights]
    tensors = [*_contiguous(weights), rows, *state, *_contiguous([cotangent]), *gradient]
    strides = rows.stride(2), rows.stride(0), distance
    threads = _threads(weights, 3 * steps * sizes[0])
    _call("window_gradient", rows.dtype, (*sizes, *strides, steps, threads), log_and_sign, tensors)
    return gradient


def _sizes(
    weights: list[Tensor],
    features: Tensor,
    batch: torch.Size,
    hidden: list[Tensor],
    cell: list[Tensor],
    log_and_sign: LogAndSign | None,
    *cotangent: Tensor,
) -> tuple[int, int, int, int]:
    """(N, F, H, L), after checking every tensor; batch is (N,) or (K, N). ValueError where something does not fit."""
    layers, rest = divmod(len(weights) - 2, 4)
    if layers < 1 or rest:
        raise ValueError(f"weights: expected 4 tensors per layer and 2 of the head, got {len(weights)}")
    columns, h = features.shape[-1], weights[1].shape[-1]
    f = columns if log_and_sign is None else 2
    shapes = _shapes(batch, columns if log_and_sign is None else 1, f, h, layers, len(cotangent))
    tensors = [features, *weights, *hidden, *cell, *cotangent]
    if [tensor.shape for tensor in tensors] != shapes:
        raise ValueError(f"expected shapes {shapes}, got {[tuple(tensor.shape) for tensor in tensors]}")
    kinds = {(tensor.dtype, tensor.is_cpu) for tensor in tensors}
    if kinds != {(torch.float32, True)} and kinds != {(torch.float64, True)}:
        raise ValueError("expected CPU tensors, either all float32 or all float64")
    return batch[-1], f, h, layers


@functools.lru_cache(maxsize=256)
def _shapes(batch: torch.Size, columns: int, f: int, h: int, layers: int, cotangents: int) -> list[tuple[int, ...]]:
    """The shapes of features, weights, states and cotangents. It is asked for at every step."""
    shapes = [(*batch, columns)]
    for layer in range(layers):
        shapes += [(4 * h, h if layer else f), (4 * h, h), (4 * h,), (4 * h,)]
    return [*shapes, (1, h), (1,), *[(batch[-1], h)] * (2 * layers), *[tuple(batch)] * cotangents]


def _of_tasks(weights: list[Tensor], coordinates: int) -> list[list[Tensor]]:
    """The weights of each task, of which there is one where all coordinates share them."""
    if not weights or weights[0].ndim == 2:
        return [weights]
    counts = {len(weight) if weight.ndim else 0 for weight in weights}
    if len(counts) > 1 or 0 in counts or coordinates % max(counts):
        raise ValueError(f"{coordinates} coordinates do not share the weights of {sorted(counts)} tasks out equally")
    return [list(of_task) for of_task in zip(*(weight.detach().unbind() for weight in weights), strict=True)]


def _contiguous(tensors: list[Tensor]) -> list[Tensor]:
    return [tensor if tensor.is_contiguous() else tensor.detach().contiguous() for tensor in tensors]


def _features(features: Tensor) -> Tensor:
    """(…, N, F) that is contiguous along N."""
    return features if features.stride(-2) == 1 else features.detach().mT.contiguous().mT


def _states(states: list[Tensor]) -> tuple[list[Tensor], int]:
    """The states (N, H), contiguous along N, and the distance from one unit to the next, which is the same in all."""
    n, distance = states[0].shape[0], states[0].stride(1)
    if distance >= n and {state.stride() for state in states} == {(1, distance)}:
        return states, distance
    return [state.detach().mT.contiguous().mT for state in states], n


def _threads(weights: list[Tensor], evaluations: int) -> int:
    work = evaluations * sum([weight.numel() for weight in weights])
    return torch.get_num_threads() if work >= 2 * MULTIPLY_ADDS_PER_THREAD else 1


def _call(
    name: str,
    dtype: torch.dtype,
    sizes: tuple[int, ...],
    log_and_sign: LogAndSign | None,
    tensors: list[Tensor],
) -> None:
    """Run an exported function: integers, the constants of log-and-sign, then pointers to the tensors."""
    loaded = _library()
    if loaded is None:
        raise RuntimeError("the compiled LSTM kernel is not available")
    constants = None if log_and_sign is None else (ctypes.c_double * 3)(*log_and_sign)
    pointers = (ctypes.c_void_p * len(tensors))(*[tensor.data_ptr() for tensor in tensors])
    if _function(loaded, name, dtype, len(sizes))(*sizes, constants, pointers):
        raise MemoryError("the compiled LSTM kernel ran out of memory")


@functools.cache
def _function(loaded: ctypes.CDLL, name: str, dtype: torch.dtype, sizes: int) -> Any:
    """An exported function, which takes Python's integers and arrays as they are."""
    function = getattr(loaded, f"l2o_{name}_{'float32' if dtype == torch.float32 else 'float64'}")
    function.argtypes = [ctypes.c_int64] * sizes + [ctypes.c_void_p] * 2
    return function


def _library() -> ctypes.CDLL | None:
    return library(SOURCE, "the compiled LSTM kernel")

"""What the compiled LSTM kernel is given: tensors that are checked, and that lie in memory as the kernel reads them.

Legend: N coordinates (all tasks'), F features of a coordinate, H hidden units, L layers, K steps.
"""

import functools

import torch
from torch import Tensor

LogAndSign = tuple[float, float, float]
"""The constants of log-and-sign: p, e^−p and e^p."""


def sizes_of(
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


def of_each_task(weights: list[Tensor], coordinates: int) -> list[list[Tensor]]:
    """The weights of each task, of which there is one where all coordinates share them."""
    if not weights or weights[0].ndim == 2:
        return [weights]
    counts = {len(weight) if weight.ndim else 0 for weight in weights}
    if len(counts) > 1 or 0 in counts or coordinates % max(counts):
        raise ValueError(f"{coordinates} coordinates do not share the weights of {sorted(counts)} tasks out equally")
    return [list(of_task) for of_task in zip(*(weight.detach().unbind() for weight in weights), strict=True)]


def contiguous(tensors: list[Tensor]) -> list[Tensor]:
    """The tensors, copied where they are not contiguous."""
    return [tensor if tensor.is_contiguous() else tensor.detach().contiguous() for tensor in tensors]


def along_coordinates(features: Tensor) -> Tensor:
    """(…, N, F) that is contiguous along N."""
    return features if features.stride(-2) == 1 else features.detach().mT.contiguous().mT


def along_units(states: list[Tensor]) -> tuple[list[Tensor], int]:
    """The states (N, H), contiguous along N, and the distance from one unit to the next, which is the same in all."""
    n, distance = states[0].shape[0], states[0].stride(1)
    if distance >= n and {state.stride() for state in states} == {(1, distance)}:
        return states, distance
    return [state.detach().mT.contiguous().mT for state in states], n

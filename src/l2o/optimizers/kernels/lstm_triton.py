"""The coordinatewise LSTM's step and window gradient on an NVIDIA GPU, in Triton.

Legend: N coordinates (all tasks'), F features of a coordinate, H hidden units, L layers, K steps; M coordinates of a
block.

The same functions as in `lstm_cpp`, with the same conventions. One program takes a block of coordinates at a time
through all K steps and back. Gates are never written to memory: h_t and c_t are kept, in a workspace of the program's
own whose size does not depend on N, and the way back computes the gates of each step again. Each program adds up its
own weight gradients, the programs' sums are added in order: equal calls on one device give equal bits.

The code serves float32 and float64; `available` offers float32 alone, which is what has been compiled for a GPU. The
kernels are in `lstm_triton_source`; this module can be imported without Triton.
"""

import functools
from typing import Any

import torch
from torch import Tensor

from l2o.native import triton_device
from l2o.native.triton_device import on, padded

MAX_SIZE = 32  # features or hidden units: beyond, a block's tiles do not fit into the registers
BLOCK = 32  # coordinates
OPTIONS = {"num_warps": 8, "num_stages": 1, "enable_fp_fusion": True}
PROGRAMS_PER_PROCESSOR = 1  # 8 warps of 255 registers a thread fill a processor


def available(features: Tensor, hidden_size: int) -> bool:
    """Whether the kernels serve such features (…, F). Tries one the first time; warns once where that fails."""
    fits = features.dtype == torch.float32 and max(hidden_size, features.shape[-1]) <= MAX_SIZE
    return fits and triton_device.offered(features.device) and _works(features.device)


def step(
    weights: list[Tensor], features: Tensor, hidden: list[Tensor], cell: list[Tensor], in_place: bool = False
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """As `lstm_cpp.step`, on the features' device."""
    from l2o.optimizers.kernels.lstm_triton_source import step_kernel

    (n, f), h, layers = features.shape, hidden[0].shape[-1], len(hidden)
    rows, old = _features(features), _states([*hidden, *cell])
    new = old if in_place else tuple(torch.empty_like(part) for part in old)
    out = features.new_empty(n)
    if n:
        arguments = [*_weights(weights), rows, old[:layers], old[layers:], out, new[:layers], new[layers:], n]
        arguments += [rows.stride(1), *sizes(f, h), layers, BLOCK, triton_device.PRECISION]
        with on(features.device):
            launch: Any = step_kernel[(-(-n // BLOCK),)]  # pyright would count the kernel's own arguments
            launch(*arguments, **OPTIONS)
    return out, [part.mT for part in new[:layers]], [part.mT for part in new[layers:]]


def window_gradient(
    weights: list[Tensor],
    features: Tensor,
    hidden: list[Tensor],
    cell: list[Tensor],
    cotangent: Tensor,
    *,
    scale: float = 1.0,
) -> list[Tensor]:
    """As `lstm_cpp.window_gradient`, on the features' device. Temporary memory grows with K, not with N."""
    from l2o.optimizers.kernels.lstm_triton_source import window_kernel

    (steps, n, f), h, layers = features.shape, hidden[0].shape[-1], len(hidden)
    if n == 0 or steps == 0:
        return [torch.zeros_like(weight) for weight in weights]
    programs = min(-(-n // BLOCK), _programs(features.device))
    workspace = features.new_empty(programs, BLOCK * h * (2 * layers * (steps + 1) + 2 * steps))
    counts = [weight.numel() for weight in weights]
    partial = features.new_empty(programs, sum(counts))  # each program's gradient, in the weights' order
    rows = _features(features)
    arguments = [*_weights(weights), rows, _states(hidden), _states(cell), cotangent.contiguous(), workspace, partial]
    arguments += [n, steps, rows.stride(0), rows.stride(2), workspace.shape[1], partial.shape[1]]
    arguments += [*sizes(f, h), layers, BLOCK, triton_device.PRECISION]
    with on(features.device):
        launch: Any = window_kernel[(programs,)]
        launch(*arguments, **OPTIONS)
    flat = scale * partial.sum(0)
    return [part.view_as(weight) for part, weight in zip(flat.split(counts), weights, strict=True)]


def sizes(features: int, hidden: int) -> tuple[int, int, int, int]:
    """F, FP, H, HP: tiles are padded to powers of two, at least 8 as `tl.dot` demands."""
    return features, padded(features), hidden, padded(hidden)


def _weights(weights: list[Tensor]) -> tuple[tuple[tuple[Tensor, ...], ...], tuple[Tensor, ...]]:
    """The weights of each layer, and the head's."""
    flat = tuple(weight.detach().contiguous() for weight in weights)
    return tuple(flat[start : start + 4] for start in range(0, len(flat) - 2, 4)), flat[-2:]


def _states(tensors: list[Tensor]) -> tuple[Tensor, ...]:
    """(N, H) -> (H, N): contiguous along N, as `lstm_cpp` keeps them, too."""
    return tuple(tensor.detach().mT.contiguous() for tensor in tensors)


def _features(features: Tensor) -> Tensor:
    """(…, N, F) that is contiguous along N; the other strides may be any."""
    return features if features.stride(-2) == 1 else features.mT.contiguous().mT


@functools.cache
def _programs(device: torch.device) -> int:
    """How many programs share a window: as many as run at a time, each with a workspace of its own."""
    if device.type != "cuda":
        return 2  # the interpreter's
    return PROGRAMS_PER_PROCESSOR * torch.cuda.get_device_properties(device).multi_processor_count


@functools.cache
def _works(device: torch.device) -> bool:
    """Compile and run a tiny step; False after a warning where that fails (no Triton, no C compiler, an old GPU)."""

    def attempt() -> Tensor:
        one = lambda *shape: torch.ones(shape, device=device)  # noqa: E731
        weights = [one(4, 1), one(4, 1), one(4), one(4), one(1, 1), one(1)]
        return step(weights, one(1, 1), [one(1, 1)], [one(1, 1)])[0]

    return triton_device.works(device, "the Triton LSTM kernel", attempt)

"""How many coordinates go through a rule in one call."""

import functools
from collections.abc import Iterator

import torch

from l2o.optimizees.layout import Axis, Cut, Layout
from l2o.optimizers.base import Scope

CHUNK_SIZE = 2**19
"""Coordinates in one call of a rule, by default; of a rule that sees tensors, as many whole tensors as fit in.

For each coordinate the 2×20 LSTM's C++ kernel needs some 40 bytes of temporary memory, its GPU kernel 360 where there
are several chunks (their states are copied), plain torch 2 KB. On a GPU every call launches a number of kernels,
whatever its size: there a chunk is as large as an eighth of the GPU's memory allows in plain torch."""

BYTES = 2048  # of temporary memory for each coordinate, in plain torch: the LSTM's, which needs most

ALONE = 2**16
"""A tensor of so many coordinates is worth a call of its own on a CPU, in which it need not be copied."""


@functools.cache
def default_size(device: torch.device) -> int:
    """Give how many coordinates go through a rule in one call on a device.

    It is a power of two, and does not depend on what is free: ranks on GPUs of one kind cut alike, and move alike.
    """
    if device.type != "cuda":
        return CHUNK_SIZE
    fitting = torch.cuda.get_device_properties(device).total_memory // (8 * BYTES)
    return max(CHUNK_SIZE, 1 << (fitting.bit_length() - 1))


@functools.lru_cache(maxsize=32)
def cuts(layout: Layout, scope: Scope, chunk_size: int, apart: bool = False) -> list[Cut]:
    """Cut a layout into chunks of about `chunk_size` coordinates, as far as the rule's scope allows it.

    A coordinatewise rule takes any coordinates, a rule that sees tensors at least one whole tensor, any other rule all.
    With `apart`, a rule that sees tensors is given the large ones one by one. The cuts are kept, because an optimizer
    asks for the same ones at every step.
    """
    return list(_cuts(layout, scope, chunk_size, apart))


def _cuts(layout: Layout, scope: Scope, size: int, apart: bool) -> Iterator[Cut]:
    whole = layout.size <= size and not (apart and scope is Scope.TENSOR)
    if scope is Scope.ALL or whole:
        yield layout.parts(0, len(layout.shapes))._replace(layout=layout)
    elif scope is Scope.COORDINATE:
        for start in range(0, layout.size, size):
            yield layout.cut(start, min(start + size, layout.size))
    else:
        first = taken = 0
        for number, shape in enumerate(layout.shapes.values()):
            own = Axis.COORDINATES.size(shape)
            is_apart = apart and max(own, taken) >= ALONE  # this tensor, or the ones before it
            if number > first and (taken + own > size or is_apart):
                yield layout.parts(first, number)
                first, taken = number, 0
            taken += own
        yield layout.parts(first, len(layout.shapes))

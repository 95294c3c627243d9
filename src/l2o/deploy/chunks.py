"""How many coordinates go through a rule in one call."""

import functools
from collections.abc import Iterator

from l2o.optimizees.layout import Axis, Cut, Layout
from l2o.optimizers.base import Scope

CHUNK_SIZE = 2**19
"""Coordinates in one call of a rule, by default; of a rule that sees tensors, as many whole tensors as fit in.

For each coordinate the 2×20 LSTM's C++ kernel needs some 40 bytes of temporary memory, its GPU kernel 360 where there
are several chunks (their states are copied), plain torch 2 KB."""


@functools.lru_cache(maxsize=32)
def cuts(layout: Layout, scope: Scope, chunk_size: int | None) -> list[Cut]:
    """Cut a layout into chunks of about `chunk_size` coordinates, as far as the rule's scope allows it.

    A coordinatewise rule takes any coordinates, a rule that sees tensors at least one whole tensor, any other rule all.
    The cuts are kept, because an optimizer asks for the same ones at every step.
    """
    return list(_cuts(layout, scope, chunk_size))


def _cuts(layout: Layout, scope: Scope, chunk_size: int | None) -> Iterator[Cut]:
    size = chunk_size or CHUNK_SIZE
    if scope is Scope.ALL or layout.size <= size:
        yield layout.parts(0, len(layout.shapes))._replace(layout=layout)
    elif scope is Scope.COORDINATE:
        for start in range(0, layout.size, size):
            yield layout.cut(start, min(start + size, layout.size))
    else:
        first = taken = 0
        for number, shape in enumerate(layout.shapes.values()):
            if number > first and taken + Axis.COORDINATES.size(shape) > size:
                yield layout.parts(first, number)
                first, taken = number, 0
            taken += Axis.COORDINATES.size(shape)
        yield layout.parts(first, len(layout.shapes))

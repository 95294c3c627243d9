"""How a GPU's programs share out a step of a small network for every coordinate: tables that the programs read.

Shapes: T tensors of a layout. Each row of the other tables says what one program does for a task.

The tables depend on shapes alone, and so do the order in which numbers are added and the bits of a result.
"""

import functools
from collections.abc import Iterator
from enum import IntEnum
from typing import NamedTuple

import torch
from torch import Tensor

from l2o.optimizees.layout import Layout
from l2o.optimizers.kernels.coordinate_mlp_structures import Geometry, geometries

BLOCK = 256
"""Coordinates that a program takes at a time, at most."""

UNITS = 4096
"""Into about how many units a layout's coordinates are cut, where there are enough of them to fill a block each."""

TILE_X, TILE_Y = 32, 128
"""The sizes of a tile over a tensor's two largest axes."""

Row = tuple[int, ...]


class Column(IntEnum):
    """Number the columns of the table of tensors. The first ones are those of `Geometry`."""

    SIZE = 0
    FACTORED = 1
    X = 2
    M = 3
    Y = 4
    C = 5
    ROWS_ARE_MAJOR = 6
    SERVED = 7
    NUMBER = 8
    COORDINATE = 9  # where the tensor's share of a row of θ begins; the next ones are likewise offsets
    MAJOR = 10
    MINOR = 11
    OUT = 12
    ROW_SUMS = 13  # of the sums that the tiles of one task leave
    COLUMN_SUMS = 14
    LINES = 15


class Tables(NamedTuple):
    """Hold the tables, each of them (rows, columns) of 64-bit integers on a device."""

    tensors: Tensor  # (T, columns of `Column`)
    tiles: Tensor  # tensor, place on the axes A and M together, first x, first y: of the tensors with factors
    factors: Tensor  # tensor, whether these are rows, first, how many rows or columns there are, what each is a mean of
    lines: Tensor  # tensor, place on A and M together, place on C: means of the larger factor are taken along a line
    units: Tensor  # tensor, start, stop, matrix: units of the tensors that the network serves come first
    matrices: Tensor  # tensor, first unit, number of units, size: what features are normalised over
    num_served: int  # units of the tensors that the network serves
    num_sums: int  # numbers that the tiles of one task leave


@functools.lru_cache(maxsize=64)
def tables(layout: Layout, served: tuple[str, ...], matrices: bool, device: torch.device) -> Tables:
    """Give the tables of a layout whose tensors the network serves some of.

    With `matrices` features are normalised over a tensor's last two axes, else over the whole tensor.
    """
    shapes = [*geometries(layout, served, matrices, 0.0)]
    unit_size = BLOCK * max(1, -(-layout.size // (BLOCK * UNITS)))
    rows, num_sums, num_lines = [], 0, 0
    for own in shapes:
        rows.append(_tensor_row(own, num_sums, num_lines))
        num_sums += sum(count * parts for count, parts in _sums(own))
        num_lines += own.A * own.M * own.C if own.factored else 0
    units, cut, num_served = [], [], 0
    for t in sorted(range(len(shapes)), key=lambda t: not shapes[t].served):
        for start, stop in _matrices(shapes[t]):
            own_units = [(t, at, min(at + unit_size, stop), len(cut)) for at in range(start, stop, unit_size)]
            if shapes[t].served:
                cut.append((t, len(units), len(own_units), stop - start))
                num_served += len(own_units)
            units += own_units
    made = lambda name, found: torch.tensor([*found], dtype=torch.int64, device=device)  # noqa: E731
    factored = [(t, own) for t, own in enumerate(shapes) if own.factored]
    walks = {"tiles": _tiles, "factors": _factor_blocks, "lines": _lines}
    found = {name: [(t, *row) for t, own in factored for row in walk(own)] for name, walk in walks.items()}
    found |= {"tensors": rows, "units": units, "matrices": cut}
    return Tables(**{name: made(name, own) for name, own in found.items()}, num_served=num_served, num_sums=num_sums)


def _tensor_row(own: Geometry, row_sums: int, lines: int) -> Row:
    """Give a tensor's row of the table. A tensor without factors lies along Y, so that its columns are coordinates."""
    axes = (own.X, own.M, own.Y, own.C) if own.factored else (1, 1, max(1, own.size), 1)
    (num_rows, slabs), _ = _sums(own)
    places = (own.coordinate, own.major, own.minor, own.out, row_sums, row_sums + num_rows * slabs, lines)
    return (own.size, own.factored, *axes, own.rows_are_major, own.served, own.number, *places)


def _sums(own: Geometry) -> tuple[tuple[int, int], tuple[int, int]]:
    """Give how many rows a tensor has and in how many parts each is added up, and the same of its columns."""
    if not own.factored:
        return (0, 0), (0, 0)
    others = own.A * own.M * own.C
    return (others * own.X, -(-own.Y // TILE_Y)), (others * own.Y, -(-own.X // TILE_X))


def _matrices(own: Geometry) -> Iterator[tuple[int, int]]:
    """Yield where each part of a tensor that has features' mean squares of its own starts and stops."""
    size = own.size // max(1, own.num_matrices)
    yield from ((start, start + size) for start in range(0, own.size, max(1, size)))


def _tiles(own: Geometry) -> Iterator[Row]:
    if own.C:
        for outer in range(own.A * own.M):
            yield from ((outer, x, y) for x in range(0, own.X, TILE_X) for y in range(0, own.Y, TILE_Y))


def _factor_blocks(own: Geometry) -> Iterator[Row]:
    (rows, _), (columns, _) = _sums(own)
    yield from ((1, start, rows, own.Y) for start in range(0, rows, BLOCK))
    yield from ((0, start, columns, own.X) for start in range(0, columns, BLOCK))


def _lines(own: Geometry) -> Iterator[Row]:
    yield from ((outer, c) for outer in range(own.A * own.M) for c in range(own.C))

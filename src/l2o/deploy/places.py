"""Parameters for a rule, all in a row: as they lie in memory where that is possible, else as copies.

Shapes: P coordinates of all parameters together, G of them in a chunk.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from l2o.deploy.arrangement import Arrangement
from l2o.deploy.chunks import ALONE
from l2o.optimizees.layout import Axis, Cut, Layout
from l2o.optimizers.base import Scope

copy_all = torch._foreach_copy_  # type: ignore[reportPrivateImportUsage]


class Places:
    """Lend parameters to a rule, chunk by chunk, and take them back when they have moved.

    A chunk that is one parameter, whose axes and dtype are as the rule sees them, is lent as it lies in memory; chunks
    of other parameters are copied for the time of their step, small ones into rows that stay. A rule that moves
    coordinates may be given pieces of parameters; for it, all of them lie in one buffer that stays.
    """

    def __init__(
        self,
        params: list[Tensor],
        arrangements: Sequence[Arrangement],
        layout: Layout,
        dtype: torch.dtype,
        scope: Scope,
    ):
        self._arrangements, self._layout, self._dtype = arrangements, layout, dtype
        self._numbers = {name: number for number, name in enumerate(layout.shapes)}
        self._buffer = self._row(params, layout) if scope is Scope.COORDINATE else None
        self._parts = [] if self._buffer is None else self._views(self._buffer, layout)
        self._kept: dict[tuple[int, int, int], tuple[Tensor, list[Tensor]]] = {}  # the rows of small chunks

    def all(self, params: list[Tensor]) -> Tensor:
        """Give a copy of all parameters (1, P)."""
        row = self._row(params, self._layout)
        copy_all(self._views(row, self._layout), params)
        return row

    def begin(self, params: list[Tensor]) -> None:
        """Take up where the parameters are before a step."""
        if self._buffer is not None:
            copy_all(self._parts, params)

    @contextmanager
    def lent(self, cut: Cut, params: list[Tensor]) -> Iterator[Tensor]:
        """Lend a chunk (1, G), to be moved in place."""
        if self._buffer is not None:
            yield self._buffer[:, cut.coordinates]
            return
        numbers = [self._numbers[name] for name in cut.layout.shapes]
        own = [params[number] for number in numbers]
        if len(own) == 1 and self._lies_as_seen(own[0], self._arrangements[numbers[0]]):
            yield own[0].detach().view(1, -1)
            return
        row, parts = self._of(cut, own)
        copy_all(parts, own)
        yield row
        copy_all(own, parts)

    def end(self, params: list[Tensor]) -> None:
        """Put the parameters where they are after a step."""
        if self._buffer is not None:
            copy_all(params, self._parts)

    def _of(self, cut: Cut, params: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Give a row (1, G) for a chunk, and the views of its parameters; the same at every step for a small one."""
        key = cut.coordinates.start, cut.coordinates.stop, len(params)  # an empty parameter makes no span longer
        if key in self._kept:
            return self._kept[key]
        row = self._row(params, cut.layout)
        found = row, self._views(row, cut.layout)
        if cut.layout.size <= 2 * ALONE:
            self._kept[key] = found
        return found

    def _row(self, params: list[Tensor], layout: Layout) -> Tensor:
        return torch.empty(1, layout.size, dtype=self._dtype, device=params[0].device)

    def _views(self, row: Tensor, layout: Layout) -> list[Tensor]:
        """View parts of a row (1, G) in their parameters' own shapes."""
        arrangements = [self._arrangements[self._numbers[name]] for name in layout.shapes]
        spans = layout.slices.values()
        return [own.entry(row[0, span], Axis.COORDINATES) for own, span in zip(arrangements, spans, strict=True)]

    def _lies_as_seen(self, param: Tensor, arrangement: Arrangement) -> bool:
        return not arrangement.is_turned and param.is_contiguous() and param.dtype == self._dtype

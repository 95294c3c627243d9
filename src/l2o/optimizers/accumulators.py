"""What the modern rules remember of a gradient: momenta, second moments, and second moments in factors.

All start at 0, none is corrected for that start, and all take up the current gradient before a rule makes its features
of them (Metz et al. 2022, "Practical tradeoffs between memory, compute, and performance in learned optimizers").

Shapes: B tasks, P coordinates, M decays. A state is (B, P, M), as every state is; within a step the decays come first,
(M, B, P), and that is also the order in memory.
"""

import functools
from collections.abc import Iterable, Sequence
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor

from l2o.optimizees.layout import Axis, Layout, Shape, factored_axes
from l2o.optimizers.base import State

AXES = {"momenta": Axis.COORDINATES, "squares": Axis.COORDINATES, "major": Axis.MAJOR, "minor": Axis.MINOR}
"""What the second axis of each accumulator counts."""

FLOOR = 1e-9
"""What the factors of a second moment are not allowed to fall below."""


class Decays(NamedTuple):
    """β of each accumulator: (M,) for all tasks, or (B, M) for one of each task."""

    momenta: Tensor
    squares: Tensor
    factors: Tensor


class Moments(NamedTuple):
    """Hold the accumulators after an update, with the decays as the first axis."""

    momenta: Tensor  # (M, B, P)  m ← β m + (1 − β) g
    squares: Tensor  # (M, B, P)  v ← β v + (1 − β) g²
    major: Tensor  # (M, B, numbers of Axis.MAJOR)  r ← β r + (1 − β) mean of g² over the largest axis
    minor: Tensor  # (M, B, numbers of Axis.MINOR)  c ← β c + (1 − β) mean of g² over the second largest axis

    @property
    def state(self) -> State:
        """Give the same as a rule's state, with the decays as the last axis."""
        return {key: value.movedim(0, -1) for key, value in self._asdict().items()}

    def of(self, layout: Layout, names: Sequence[str]) -> "Moments":
        """Give the share of some of the layout's tensors, in the layout's order."""
        if len(names) == len(layout.shapes):
            return self
        spans = {axis: layout.spans(axis) for axis in AXES.values()}
        take = lambda key, value: torch.cat([value[..., spans[AXES[key]][name]] for name in names], -1)  # noqa: E731
        return Moments(**{key: take(key, value) for key, value in self._asdict().items()})


def init_moments(theta: Tensor, layout: Layout, momenta: int, squares: int, factors: int) -> State:
    """Give accumulators at 0 for θ (B, P), so many of each kind."""
    zeros = lambda count, axis: theta.new_zeros(count, len(theta), layout.length(axis))  # noqa: E731
    counts = (momenta, squares, factors, factors)
    return Moments(*(zeros(count, axis) for count, axis in zip(counts, AXES.values(), strict=True))).state


def update_moments(grad: Tensor, state: State, layout: Layout, decays: Decays) -> Moments:
    """Take up a gradient (B, P). The decays of second moments are first clipped to [0, 1].

    Accumulators without a decay need not be in the state.
    """
    none = grad.new_zeros(*grad.shape, 0)
    momenta, squares, major, minor = (state.get(key, none).movedim(-1, 0) for key in AXES)
    of_squares, of_factors = decays.squares.clamp(0, 1), decays.factors.clamp(0, 1)
    rows, columns = _factor_means(grad.square() + 1e-30, layout) if of_factors.numel() else (grad, grad)
    return Moments(
        mixed(decays.momenta, momenta, grad),
        mixed(of_squares, squares, grad.square()),
        mixed(of_factors, major, rows),
        mixed(of_factors, minor, columns),
    )


def mixed(decay: Tensor, old: Tensor, new: Tensor) -> Tensor:
    """Give β old + (1 − β) new for every β (M,) or (B, M): (M, B, n), (B, n) -> (M, B, n)."""
    decay = decay.mT[..., None] if decay.ndim == 2 else decay[:, None, None]
    return torch.addcmul(decay * old, 1 - decay, new)


def _factor_means(square: Tensor, layout: Layout) -> tuple[Tensor, Tensor]:
    """Give the means of g² (B, P) over each tensor's largest axis and its second largest; g² itself for vectors."""
    rows, columns = [], []
    for part, shape in zip(_split(square, layout), layout.shapes.values(), strict=True):
        if len(shape) < 2:
            rows.append(part)
            continue
        largest, second = factored_axes(shape)
        part = part.unflatten(-1, shape)
        rows.append(_mean(part, 1 + largest).flatten(1))
        columns.append(_mean(part, 1 + second).flatten(1))
    return _joined(rows, square), _joined(columns, square)


class Factored(NamedTuple):
    """Hold factored second moments, spread over the coordinates: each (M, B, P)."""

    scale: Tensor  # R·C ≈ 1/√v, which multiplies a gradient
    momentum_scale: Tensor  # the same for a momentum: another ε where a tensor has no factors
    rows: Tensor
    columns: Tensor
    rsqrt_rows: Tensor
    rsqrt_columns: Tensor


def factored(moments: Moments, layout: Layout, vector_eps: float) -> Factored:
    """Spread the factors r and c over the coordinates, with R = (r/mean r)^−½ and C = c^−½.

    A tensor with fewer than two axes has one second moment w in place of both, and its momentum is scaled by
    (w + vector_eps)^−½.
    """
    parts = [
        _vector_factors(major, vector_eps) if len(shape) < 2 else _matrix_factors(major, minor, shape)
        for shape, major, minor in zip(
            layout.shapes.values(),
            _split(moments.major, layout, Axis.MAJOR),
            _split(moments.minor, layout, Axis.MINOR),
            strict=True,
        )
    ]
    return Factored(*_joined(parts, moments.momenta.new_zeros(6, *moments.major.shape[:2], 0)))


def _matrix_factors(major: Tensor, minor: Tensor, shape: Shape) -> Tensor:
    """(M, B, n/d0), (M, B, n/d1) -> (6, M, B, n), in the order of `Factored`."""
    largest, second = factored_axes(shape)
    rows = major.unflatten(-1, Axis.MAJOR.shape(shape))
    mean = _mean(rows, 2 + (second - 1 if second > largest else second), keepdim=True)
    row_scale = (rows / (mean + FLOOR)).clamp(min=FLOOR).rsqrt()
    columns = minor.unflatten(-1, Axis.MINOR.shape(shape))
    by_row = torch.stack((row_scale, rows, (rows + 1e-8).rsqrt())).unsqueeze(3 + largest)
    by_column = torch.stack((columns.clamp(min=FLOOR).rsqrt(), columns, (columns + 1e-8).rsqrt())).unsqueeze(3 + second)
    scale = by_row[0] * by_column[0]
    planes = (scale, scale, by_row[1], by_column[1], by_row[2], by_column[2])
    return torch.stack([plane.expand_as(scale) for plane in planes]).flatten(3)


def _vector_factors(square: Tensor, eps: float) -> Tensor:
    """(M, B, n) -> (6, M, B, n), in the order of `Factored`."""
    scale, rsqrt = (square + FLOOR).clamp(min=FLOOR).rsqrt(), (square + 1e-8).rsqrt()
    return torch.stack((scale, (square + eps).rsqrt(), square, square, rsqrt, rsqrt))


def normalised(x: Tensor, layout: Layout, eps: float, matrices: bool = False, kept: int = 0) -> Tensor:
    """N(x) = x · (ε + mean x²)^−½ for (F, B, P) or (B, P).

    The mean is taken over each tensor, or with `matrices` over a tensor's last two axes, for each feature by itself.
    The last `kept` features stay as they are.
    """
    parts = []
    for part, shape in zip(_split(x, layout), layout.shapes.values(), strict=True):
        part = part.unflatten(-1, (prod(shape[:-2]) if matrices else 1, -1)) if part.numel() else part[..., None]
        scale = (eps + _mean(part[: len(part) - kept].square(), -1, keepdim=True)).rsqrt()
        if kept:
            scale = torch.cat((scale, torch.ones_like(scale[:1]).expand(kept, *scale.shape[1:])))
        parts.append((part * scale).flatten(-2))
    return _joined(parts, x)


def mean_square(x: Tensor, layout: Layout) -> Tensor:
    """Give the mean of x² over each tensor: (B, P) -> (B, number of tensors); 0 for a tensor without elements."""
    means = [_mean(part.square(), -1)[..., None] for part in _split(x, layout)]
    return _joined(means, x)


def constant(values: Iterable[float], like: Tensor) -> Tensor:
    """Give numbers as a tensor of the other's dtype and device, which is made once and kept."""
    return _constant(tuple(values), like.dtype, like.device)


@functools.lru_cache(maxsize=256)
def _constant(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    with torch.inference_mode(False):  # a tensor made in that mode could never be used in training again
        return torch.tensor(values, dtype=dtype, device=device)


def _mean(x: Tensor, axis: int, keepdim: bool = False) -> Tensor:
    """Give the mean over one axis; 0, not nan, where that axis is empty."""
    return x.sum(axis, keepdim=keepdim) / max(1, x.shape[axis])


def _split(x: Tensor, layout: Layout, axis: Axis = Axis.COORDINATES) -> Sequence[Tensor]:
    return x.split([axis.size(shape) for shape in layout.shapes.values()], -1)


def _joined(parts: Sequence[Tensor], like: Tensor) -> Tensor:
    """Join the parts one after another. Nothing is copied where there is one part, and there may be none."""
    if len(parts) == 1:
        return parts[0]
    return torch.cat(list(parts), -1) if parts else like[..., :0]

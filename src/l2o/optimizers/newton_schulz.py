"""Newton-Schulz's iteration, which makes a matrix about orthogonal by products of matrices alone."""

import functools
import re
from math import prod

import torch
from torch import Tensor

from l2o.optimizees.layout import Layout
from l2o.optimizers.kernels import newton_schulz_cpp
from l2o.optimizers.kernels.newton_schulz_cpp import Matrix

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Jordan et al. 2024, "Muon": chosen for speed, so that the singular values end between about 0.7 and 1.2, not at 1."""


def newton_schulz(x: Tensor, eps: float = 1e-8, iterations: int = 5) -> Tensor:
    """Orthogonalise matrices (…, rows, columns): U Σ Vᵀ -> about U Vᵀ.

    X = X/(‖X‖_F + ε), then some times X ← a X + (b A + c A²) X with A = X Xᵀ. The fewer the iterations, the further the
    smallest singular values stay behind.
    """
    return _iterated(x / (_norm(x) + eps), iterations)


def _iterated(x: Tensor, iterations: int) -> Tensor:
    """Do the iterations on matrices (…, rows, columns) whose singular values are at most 1."""
    if x.shape[-2] > x.shape[-1]:
        return _iterated(x.mT, iterations).mT
    a, b, c = COEFFICIENTS
    shape, x = x.shape, x.reshape(-1, *x.shape[-2:])
    for _ in range(iterations):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.view(shape)


def orthogonalised(update: Tensor, layout: Layout, exempt: str | None, iterations: int = 5) -> Tensor:
    """Orthogonalise the matrices of an update (B, P), each of which keeps its Frobenius norm.

    A matrix is a parameter of two axes or more, with all but the last one taken together, in whose name the regular
    expression `exempt` is not found.
    """
    served, groups = _matrices(layout, exempt, newton_schulz_cpp.serves(update))
    if served:
        update = update.clone(memory_format=torch.contiguous_format)
        newton_schulz_cpp.orthogonalise_(update, served, COEFFICIENTS, iterations)
    if not groups:
        return update
    parts = dict(layout.unravel(update))
    for (rows, columns), names in groups:
        x = torch.stack([parts[name].reshape(-1, rows, columns) for name in names])
        # The largest entry is taken out, and put back at the end, because squares in a norm would vanish below 1e-23 in
        # float32, and overflow above 1e19. It needs no gradient, because the result does not depend on it.
        peak = x.detach().abs().amax(dim=(-2, -1), keepdim=True)
        peak = torch.where(peak == 0, 1, peak)  # a matrix of zeros stays one
        x = x / peak
        size = _norm(x).clamp(min=1)  # it is at least 1, but for zeros
        direction = _iterated(x / size, iterations)
        direction = direction * (size / _norm(direction).clamp(min=0.5)) * peak  # no norm but that of zeros is so small
        parts |= {name: part.view_as(parts[name]) for name, part in zip(names, direction, strict=True)}
    return layout.ravel(parts)


def _norm(x: Tensor) -> Tensor:
    return torch.linalg.vector_norm(x, dim=(-2, -1), keepdim=True)


@functools.lru_cache(maxsize=64)
def _matrices(
    layout: Layout, exempt: str | None, compiled: bool
) -> tuple[tuple[Matrix, ...], list[tuple[tuple[int, int], list[str]]]]:
    """Give the matrices that the compiled kernel serves, and the names of all others by their numbers of rows and
    columns. With a single row nothing is to be done."""
    served: list[Matrix] = []
    groups: dict[tuple[int, int], list[str]] = {}
    for name, shape in layout.shapes.items():
        if len(shape) > 1 and not (exempt is not None and re.search(exempt, name)):
            rows, columns = prod(shape[:-1]), shape[-1]
            if min(rows, columns) > 1 and compiled and newton_schulz_cpp.is_served(rows, columns):
                served.append((layout.slices[name].start, rows, columns))
            elif min(rows, columns) > 1:
                groups.setdefault((rows, columns), []).append(name)
    return tuple(served), list(groups.items())

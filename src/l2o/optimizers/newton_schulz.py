"""Newton-Schulz's iteration, which makes a matrix about orthogonal by products of matrices alone."""

import torch
from torch import Tensor

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Jordan et al. 2024, "Muon": chosen for speed, so that the singular values end between about 0.7 and 1.2, not at 1."""


def newton_schulz(x: Tensor, eps: float = 1e-8) -> Tensor:
    """Orthogonalise matrices (…, rows, columns): U Σ Vᵀ -> about U Vᵀ.

    X = X/(‖X‖_F + ε), then five times X ← a X + (b A + c A²) X with A = X Xᵀ.
    """
    if x.shape[-2] > x.shape[-1]:
        return newton_schulz(x.mT, eps).mT
    a, b, c = COEFFICIENTS
    x = x / (torch.linalg.vector_norm(x, dim=(-2, -1), keepdim=True) + eps)
    for _ in range(5):
        gram = x @ x.mT
        x = a * x + (b * gram + c * (gram @ gram)) @ x
    return x

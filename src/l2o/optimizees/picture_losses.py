"""What neural art measures of pictures and of their activations.

Shapes: B tasks, H × W pixels, C channels of a layer, H' × W' positions in it.
"""

import torch
from torch import Tensor


def gram(features: Tensor) -> Tensor:
    """Return the Gram matrices F Fᵀ / (H'·W') of activations: (B, C, H', W') -> (B, C, C)."""
    flat = features.flatten(2)
    return flat @ flat.mT / flat.shape[-1]


def relative_error(found: Tensor, target: Tensor) -> Tensor:
    """Return ‖x − y‖² / ‖y‖² of each task: (B, …) -> (B,)."""
    error, size = (part.flatten(1).square().sum(1) for part in (found - target, target))
    return error / size.clamp(min=torch.finfo(size.dtype).tiny)


def roughness(pictures: Tensor) -> Tensor:
    """Return the mean squared difference of neighbouring pixels: (B, 3, H, W) -> (B,)."""
    return sum(pictures.diff(dim=axis).square().mean((1, 2, 3)) for axis in (-1, -2))  # type: ignore[return-value]

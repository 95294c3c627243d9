"""Datasets in other sizes: smaller images, fewer of them, and the bundled ones where a path is not given.

Shapes: N images of H × W pixels, with or without an axis of colours at the end.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from l2o.data.datasets import Dataset, digits, from_npz

AT_ONCE = 4096
"""How many images are averaged at once, as floats."""


def images_or_digits(
    path: str | None = None,
    side: int | None = None,
    train_fraction: float = 1.0,
    labels: Sequence[int] | None = None,
) -> Dataset:
    """Read the images of an .npz file; where `path` is null, scikit-learn's digits, 8×8.

    `side` averages images over squares until their sides have so many pixels; `train_fraction` keeps the first images
    of the train split alone (published tasks have the first 80 %). Raises ValueError as `from_npz` and `averaged` do.
    """
    dataset = digits(labels=labels) if path is None else from_npz(path, labels)
    if not 0 < train_fraction <= 1 or not (kept := round(train_fraction * len(dataset.y_train))):
        raise ValueError(f"train_fraction must keep at least one image and at most all, got {train_fraction}")
    dataset = dataset._replace(x_train=dataset.x_train[:kept], y_train=dataset.y_train[:kept])
    return dataset if side is None else averaged(dataset, side)


def averaged(dataset: Dataset, side: int) -> Dataset:
    """Return the same images with `side` × `side` pixels, each the mean of the square or rectangle that it covers.

    Where `side` does not divide the images' own, neighbouring pixels share a row or column. Bytes stay bytes, rounded.
    Raises ValueError for images without height and width, and for a side above theirs.
    """
    shape = tuple(dataset.x_train.shape[1:])
    if len(shape) not in (2, 3) or not 1 <= side <= min(shape[:2]):
        raise ValueError(
            f"images of shape {shape} cannot be averaged to {side}×{side}: choose a side that is not above"
        )
    return dataset._replace(x_train=_averaged(dataset.x_train, side), x_test=_averaged(dataset.x_test, side))


def _averaged(x: Tensor, side: int) -> Tensor:
    return torch.cat([_piece(piece, side) for piece in x.split(AT_ONCE)])


def _piece(x: Tensor, side: int) -> Tensor:
    colours = x[..., None] if x.ndim == 3 else x
    means = F.adaptive_avg_pool2d(colours.movedim(-1, 1).float(), side).movedim(1, -1)
    means = means if x.dtype != torch.uint8 else means.round()
    return means.reshape(*x.shape[:1], side, side, *x.shape[3:]).to(x.dtype).contiguous()

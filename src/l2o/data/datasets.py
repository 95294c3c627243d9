"""Datasets as tensors: a whole dataset lives on the device, minibatches are gathered there.

Shapes: N images, `shape` of one image. Images stay uint8 in memory where the file has uint8, and become floats in
[0, 1] when a minibatch is gathered. `shape` is what the file or torchvision has: (28, 28) for MNIST, (32, 32, 3) for
CIFAR, colours last. A network that wants colours first moves them itself, as `l2o.optimizees.conv_net` does: a view of
images kept like this has torch's `channels_last` format, in which convolutions on a CPU are fastest.
"""

import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
import torch
import torchvision
from torch import Tensor

from l2o.data import downloads

IMAGE_TYPES = (np.uint8, np.float16, np.float32, np.float64)
ARRAYS = ("x_train", "y_train", "x_test", "y_test")


class Dataset(NamedTuple):
    """A classification problem: x_* (N, *shape) uint8 or float, y_* (N,) int64 labels 0 … num_classes − 1."""

    x_train: Tensor
    y_train: Tensor
    x_test: Tensor
    y_test: Tensor

    @property
    def num_classes(self) -> int:
        return 1 + int(max(self.y_train.max(), self.y_test.max()))

    def to(self, device: torch.device | str) -> Self:
        return self._replace(**{name: getattr(self, name).to(device) for name in ARRAYS})

    def only(self, labels: Sequence[int] | None) -> Self:
        """The images of these labels alone, relabelled 0, 1, … in the order given; None: all of them as they are.

        Raises ValueError for an empty list, a label twice, or one that either split lacks.
        """
        if labels is None:
            return self
        known = sorted({*self.y_train.tolist()} & {*self.y_test.tolist()})
        wanted = list(labels) if isinstance(labels, Sequence) else []
        if not wanted or any(label not in known or wanted.count(label) > 1 for label in wanted):
            raise ValueError(f"dataset.labels must be a list of one or more different ones of {known}, got {labels}")
        train, test = (_relabelled(*split, wanted) for split in (self[:2], self[2:]))
        return type(self)(*train, *test)

    @staticmethod
    def images(x: Tensor) -> Tensor:
        """Floats of the default dtype; uint8 becomes [0, 1]."""
        dtype = torch.get_default_dtype()
        return x.to(dtype) / 255 if x.dtype == torch.uint8 else x.to(dtype)


def _relabelled(x: Tensor, y: Tensor, labels: list[int]) -> tuple[Tensor, Tensor]:
    """A split without the images of other labels; label labels[i] becomes i."""
    matches = y[:, None] == torch.tensor(labels)  # (N, n)
    chosen = matches.any(1)
    return x[chosen], matches[chosen].int().argmax(1)


def digits(test_fraction: float = 0.2, labels: Sequence[int] | None = None) -> Dataset:
    """scikit-learn's 1797 handwritten digits, 8×8, in [0, 1]; comes with the library, nothing is downloaded.

    The split is fixed: the last `test_fraction` of the images, which other people wrote, are the test split.
    """
    from sklearn.datasets import load_digits

    if not 0 < test_fraction < 1:
        raise ValueError(f"test_fraction must lie between 0 and 1, got {test_fraction}")
    x, y = load_digits(return_X_y=True)
    split = round(len(x) * (1 - test_fraction))
    images, targets = (x / 16).astype(np.float32).reshape(-1, 8, 8), y.astype(np.int64)
    return checked("digits", images[:split], targets[:split], images[split:], targets[split:]).only(labels)


def from_torchvision(
    name: str, root: str = "~/.cache/l2o", download: bool = True, labels: Sequence[int] | None = None
) -> Dataset:
    """torchvision's MNIST, FashionMNIST or CIFAR10, downloaded on first use; images as torchvision has them."""
    load = getattr(torchvision.datasets, name)
    folder = Path(root).expanduser()
    read = lambda folder, download: [load(str(folder), train=train, download=download) for train in (True, False)]  # noqa: E731
    try:
        train, test = downloads.whole(read, folder) if download else read(folder, False)
    except downloads.MISSING as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(
            f"{name} could not be loaded into {root} ({reason}). Without a network, "
            "use dataset=npz dataset.path=FILE.npz or the bundled dataset=digits"
        ) from error
    arrays = [np.asarray(part) for split in (train, test) for part in (split.data, split.targets)]
    return checked(name, *arrays).only(labels)


def from_npz(path: str, labels: Sequence[int] | None = None) -> Dataset:
    """Arrays x_train, y_train, x_test, y_test of an .npz file. Raises ValueError for anything else."""
    if not Path(path).is_file():
        raise ValueError(f"no dataset at '{path}': dataset.path must be an .npz file with {', '.join(ARRAYS)}")
    try:
        with open(path, "rb") as stream, np.load(stream, allow_pickle=False) as file:
            arrays = {name: file[name] for name in ARRAYS if name in file.files}
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(f"'{path}' is no intact .npz file ({error}): write it anew with numpy.savez") from error
    missing = [name for name in ARRAYS if name not in arrays]
    if missing:
        raise ValueError(f"'{path}' lacks {', '.join(missing)}: it needs {', '.join(ARRAYS)}")
    return checked(path, *(arrays[name] for name in ARRAYS)).only(labels)


def checked(name: str, *arrays: np.ndarray) -> Dataset:
    """Arrays as a `Dataset`, or a ValueError that says which array is wrong and how."""
    for x, y, split in ((*arrays[:2], "train"), (*arrays[2:], "test")):
        if x.ndim < 2 or x.dtype.newbyteorder("=") not in IMAGE_TYPES:
            raise ValueError(f"{name}: x_{split} must be uint8 or float images (N, …), got {x.dtype} {x.shape}")
        if y.shape != (len(x),) or not np.issubdtype(y.dtype, np.integer):
            raise ValueError(f"{name}: y_{split} must be ({len(x)},) integers, got {y.dtype} {y.shape}")
        if len(x) == 0 or x.shape[1:] != arrays[0].shape[1:]:
            raise ValueError(f"{name}: x_{split} must hold images of x_train's shape, got {x.shape}")
        if x.dtype != np.uint8 and not np.isfinite(x).all():
            raise ValueError(f"{name}: x_{split} has values that are not finite")
        if y.min() < 0 or y.max() > arrays[1].max():
            raise ValueError(f"{name}: labels must be 0 … C − 1; y_{split} has {y.min()} … {y.max()}")
    tensors = [torch.from_numpy(np.ascontiguousarray(array, array.dtype.newbyteorder("="))) for array in arrays]
    return Dataset(tensors[0], tensors[1].long(), tensors[2], tensors[3].long())

"""Datasets as tensors: a whole dataset lies on the device, and minibatches are gathered there.

Shapes: N images, `shape` of one image. Images stay uint8 in memory where the file has uint8, and become floats in
[0, 1] when a minibatch is gathered. `shape` is what the file or torchvision has: (28, 28) for MNIST, (32, 32, 3) for
CIFAR, colours last. A network that wants colours first moves them itself, as `l2o.optimizees.conv_net` does. Images
that are kept with colours last and viewed with colours first have torch's `channels_last` format, in which convolutions
on a CPU are fastest.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from l2o.data import downloads, npz
from l2o.data.checks import check_split
from l2o.data.reasons import reason

OF_TORCHVISION = ("MNIST", "FashionMNIST", "KMNIST", "CIFAR10", "CIFAR100")
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
        """Return the data on a device. Optimizees that share a dataset share its copy there, too."""
        return self._replace(**{name: _moved(getattr(self, name), torch.device(device)) for name in ARRAYS})

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

    @classmethod
    def minibatch(cls, x: Tensor, index: Tensor) -> Tensor:
        """Give the images x[index] as floats: (M, *shape), (B, N) -> (B, N, *shape)."""
        found = x.index_select(0, index.flatten())  # rows as they lie in memory, many times as fast as x[index]
        return cls.images(found).unflatten(0, index.shape)

    @staticmethod
    def images(x: Tensor) -> Tensor:
        """Floats of the default dtype; uint8 becomes [0, 1]."""
        dtype = torch.get_default_dtype()
        return x.to(dtype) / 255 if x.dtype == torch.uint8 else x.to(dtype)


_COPIES: WeakIdKeyDictionary = WeakIdKeyDictionary()
"""The copies that were made of a tensor on other devices, for as long as the tensor itself is in use."""


def _moved(tensor: Tensor, device: torch.device) -> Tensor:
    """Return a tensor on a device: itself where it lies there, else the one copy of it that was made there."""
    if device.type == tensor.device.type and device.index in (None, tensor.device.index):
        return tensor
    copies: dict[torch.device, Tensor] = _COPIES.get(tensor) or {}
    _COPIES[tensor] = copies
    if device not in copies:
        copies[device] = tensor.to(device)
    return copies[device]


def _relabelled(x: Tensor, y: Tensor, labels: list[int]) -> tuple[Tensor, Tensor]:
    """Return a split with the images of these labels alone; the label labels[i] becomes i."""
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
    """torchvision's MNIST, FashionMNIST, KMNIST, CIFAR10 or CIFAR100, with images as torchvision has them.

    The files are kept in `root`. Where they are missing they are downloaded, unless `download` is false. Raises
    ValueError for another name, and where the files are damaged or cannot be had.
    """
    if name not in OF_TORCHVISION:
        raise ValueError(f"dataset.name must be one of {', '.join(OF_TORCHVISION)}, got {name!r}")
    import torchvision

    load = getattr(torchvision.datasets, name)
    folder = Path(str(root)).expanduser()
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"dataset.root must be a folder, and '{root}' is a file: choose another dataset.root")

    def read(folder: Path, download: bool) -> list[Any]:
        return [load(str(folder), train=train, download=download) for train in (True, False)]

    try:
        train, test = downloads.whole(read, folder) if download else read(folder, False)
    except downloads.MISSING as error:
        raise ValueError(
            f"{name} could not be loaded into {root} ({reason(error)}). Without a network, "
            "use dataset=npz dataset.path=FILE.npz or the bundled dataset=digits"
        ) from error
    arrays = [np.asarray(part) for split in (train, test) for part in (split.data, split.targets)]
    return checked(name, *arrays).only(labels)


def from_npz(path: str, labels: Sequence[int] | None = None) -> Dataset:
    """The arrays x_train, y_train, x_test, y_test of an .npz file. Raises ValueError for anything else."""
    place = Path(str(path)).expanduser()
    if not place.is_file():
        what = ", which is a folder" if place.is_dir() else ""
        raise ValueError(f"no dataset at '{path}'{what}: dataset.path must be an .npz file with {', '.join(ARRAYS)}")
    arrays = npz.read(place, ARRAYS)
    return checked(str(path), *(arrays[name] for name in ARRAYS)).only(labels)


def checked(name: str, *arrays: np.ndarray) -> Dataset:
    """Turn the four arrays into a `Dataset`, or raise a ValueError that says which one is wrong and how."""
    x_train, y_train, x_test, y_test = arrays
    check_split(name, "train", x_train, y_train, x_train, y_train)
    check_split(name, "test", x_test, y_test, x_train, y_train)
    tensors = [torch.from_numpy(np.ascontiguousarray(array, array.dtype.newbyteorder("="))) for array in arrays]
    return Dataset(tensors[0], tensors[1].long(), tensors[2], tensors[3].long())

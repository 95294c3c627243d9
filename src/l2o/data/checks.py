"""Checks of a dataset's arrays, each a ValueError that says which array is wrong, how, and what to do.

Shapes: N images, C classes.
"""

import numpy as np

IMAGE_TYPES = (np.uint8, np.float16, np.float32, np.float64)

LARGEST_LABEL = 2**31 - 1


def check_split(name: str, split: str, x: np.ndarray, y: np.ndarray, x_train: np.ndarray, y_train: np.ndarray) -> None:
    """Raise ValueError unless x (N, …) are images and y (N,) their labels, like those of the train split.

    `name` is what the dataset is called in messages, `split` is train or test.
    """
    _check_images(f"{name}: x_{split}", x, x_train)
    _check_labels(f"{name}: y_{split}", y, len(x))
    if y.min() < 0 or y.max() > min(y_train.max(), LARGEST_LABEL):
        raise ValueError(f"{name}: labels must be 0 … C − 1; y_{split} has {y.min()} … {y.max()}")


def _check_images(what: str, x: np.ndarray, x_train: np.ndarray) -> None:
    if x.ndim < 2 or x.dtype.newbyteorder("=") not in IMAGE_TYPES:
        raise ValueError(f"{what} must be uint8 or float images (N, …), got {x.dtype} {x.shape}{_remedy_of_images(x)}")
    if x.size == 0 or x.shape[1:] != x_train.shape[1:]:
        raise ValueError(f"{what} must hold images of x_train's shape, at least one, got {x.shape}")
    if x.dtype != np.uint8 and not np.isfinite(x).all():
        raise ValueError(f"{what} has values that are not finite: replace them, with numpy.nan_to_num perhaps")


def _remedy_of_images(x: np.ndarray) -> str:
    if x.dtype == bool:
        return ": turn it into x.astype(numpy.float32)"
    if np.issubdtype(x.dtype, np.integer):
        eight_bits = x.size and x.min() >= 0 and x.max() <= 255
        return ": turn it into " + ("x.astype(numpy.uint8)" if eight_bits else "floats, best scaled to [0, 1]")
    return ""


def _check_labels(what: str, y: np.ndarray, count: int) -> None:
    if y.shape == (count,) and np.issubdtype(y.dtype, np.integer):
        return
    raise ValueError(f"{what} must be ({count},) integers, got {y.dtype} {y.shape}{_remedy_of_labels(y, count)}")


def _remedy_of_labels(y: np.ndarray, count: int) -> str:
    if y.shape == (count, 1):
        return ": turn it into y[:, 0]"
    if y.ndim == 2 and len(y) == count and y.shape[1] > 1:
        return ": if it is one-hot, turn it into y.argmax(1)"
    if y.shape == (count,) and y.dtype == bool:
        return ": turn it into y.astype(numpy.int64)"
    if y.shape == (count,) and np.issubdtype(y.dtype, np.floating):
        return ": if they are whole numbers, turn it into y.astype(numpy.int64)"
    if y.shape == (count,) and y.dtype.kind in "US":
        return ": turn it into numpy.unique(y, return_inverse=True)[1]"
    return ""

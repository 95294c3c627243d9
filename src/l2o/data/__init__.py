"""Datasets, pictures, texts, and downloads that are whole or not there."""

from l2o.data.datasets import Dataset, digits, from_npz, from_torchvision
from l2o.data.sizes import averaged, images_or_digits
from l2o.data.texts import Text, text

__all__ = ["Dataset", "Text", "averaged", "digits", "from_npz", "from_torchvision", "images_or_digits", "text"]

"""Datasets, pictures, and downloads that are whole or not there."""

from l2o.data.datasets import Dataset, digits, from_npz, from_torchvision

__all__ = ["Dataset", "digits", "from_npz", "from_torchvision"]

"""Read files of published weights: `.npz`, `.safetensors`, and torch's `.bin`, `.pt` and `.pth`."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from l2o.deploy.reasons import is_archive, one_line, refuse_lfs_pointer

WRAPPERS = ("state_dict", "model", "model_state_dict")
"""Names under which a torch file may hold its weights, beside other things."""


def read_weights(path: str | Path) -> dict[str, np.ndarray]:
    """Give the arrays of a file by name. Nothing that a file holds is ever run: pickles are read as weights only.

    Raises ValueError, in one line, for a file that is missing, damaged, of another kind, or holds anything but arrays.
    """
    path = Path(path)
    read = _READERS.get(path.suffix.lower())
    if read is None:
        raise ValueError(f"'{path}' is no file of weights that l2o reads: those are {', '.join(_READERS)}")
    if not path.is_file():
        raise ValueError(f"there is no file '{path}': give a file of published weights")
    try:
        refuse_lfs_pointer(path)
        return read(path)
    except Exception as error:  # zipfile, numpy, torch and safetensors raise many kinds for damaged files
        raise ValueError(
            one_line(f"'{path}' is no intact {path.suffix} file of weights: {_reason(path, error)}")
        ) from error


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    with open(path, "rb") as stream:
        file = np.load(stream, allow_pickle=False)
        if not isinstance(file, np.lib.npyio.NpzFile):
            raise ValueError("it holds one array without a name")
        if file.zip is not None and (damaged := file.zip.testzip()):
            raise ValueError(f"{damaged} has another checksum than when it was written")
        return {name: file[name] for name in file.files}


def _reason(path: Path, error: Exception) -> str:
    if "pickle" in str(error).lower() or isinstance(error, pickle.UnpicklingError):
        if path.suffix == ".npz" and not is_archive(path):
            return "it is no archive of arrays, as numpy.savez writes it"
        return "it holds objects that are no plain numbers, and reading them would run their author's code"
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    return _arrays(load_file(path))


def _read_torch(path: Path) -> dict[str, np.ndarray]:
    content = torch.load(path, map_location="cpu", weights_only=True)
    for name in WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(name), dict):
            content = content[name]
    return _arrays(content)


def _arrays(tensors: Any) -> dict[str, np.ndarray]:
    """The tensors as arrays; floating ones of half size become float32, for which numpy has a type."""
    if not isinstance(tensors, dict) or not all(isinstance(value, torch.Tensor) for value in tensors.values()):
        raise ValueError("it is no dict of tensors")
    widen = lambda value: value.float() if value.dtype in (torch.bfloat16, torch.float16) else value  # noqa: E731
    return {str(name): widen(value.detach()).numpy() for name, value in tensors.items()}


_READERS: dict[str, Callable[[Path], dict[str, np.ndarray]]] = {
    ".npz": _read_npz,
    ".safetensors": _read_safetensors,
    ".bin": _read_torch,
    ".pt": _read_torch,
    ".pth": _read_torch,
}

"""Reading an .npz file: its arrays, or the reason why it has none, in words of ours.

Numpy's own reasons mislead: of a table in text, numpy says that it holds pickled data and could be loaded unsafely.
"""

import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

HOW = "numpy.savez('data.npz', x_train=…, y_train=…, x_test=…, y_test=…)"
"""How the right file is made."""

KINDS = {
    b"\x93NUMPY": f"a single array (.npy): load the arrays with numpy.load and write all of them with {HOW}",
    b"\x80": f"a pickle, which is never loaded: write its arrays with {HOW}",
    b"\x89HDF": f"an HDF5 file: read its arrays with h5py and write them with {HOW}",
    b"MATLAB": f"a MATLAB file: read its arrays with scipy.io.loadmat and write them with {HOW}",
    b"PAR1": f"a Parquet file: read its columns with pandas and write them with {HOW}",
    b"\x1f\x8b": "compressed with gzip: unpack it first",
    b"version https://git-lfs": "a pointer of Git LFS: run `git lfs pull` where it came from",
}
"""What a file is by its first bytes, and the remedy."""

Arrays = dict[str, np.ndarray]


def read(path: Path, names: Sequence[str]) -> Arrays:
    """Return the arrays of these names from an .npz file.

    Raises ValueError, in one line with the remedy, for a file of another kind, one that is damaged, one that lacks an
    array, and one with arrays of Python objects, which are never loaded.
    """
    if not zipfile.is_zipfile(path):
        raise ValueError(f"'{path}' is {_kind(path)}")
    try:
        with (
            open(path, "rb") as stream,
            np.load(stream, allow_pickle=False) as file,
        ):  # numpy leaves its own stream open
            _refuse_other_archives(path, file.files, names)
            return {name: _array(path, file, name) for name in names}
    except _Refused as error:
        raise ValueError(str(error)) from error.__cause__
    except Exception as error:  # a damaged file: numpy, zipfile and zlib raise many kinds
        raise ValueError(f"'{path}' is no intact .npz file: write it anew with {HOW}") from error


class _Refused(Exception):
    """An error whose message is already ours."""


def _kind(path: Path) -> str:
    with open(path, "rb") as file:
        head = file.read(4096)
    for start, kind in KINDS.items():
        if head.startswith(start):
            return f"no .npz file but {kind}"
    if head.startswith(b"PK") or not head:
        return f"no intact .npz file: write it anew with {HOW}"
    if _is_text(head):
        return f"no .npz file but a text (CSV?): read it with numpy.loadtxt and write its arrays with {HOW}"
    return f"no intact .npz file: write it anew with {HOW}"


def _is_text(head: bytes) -> bool:
    try:
        text = head.decode("utf-8", errors="strict" if len(head) < 4096 else "ignore")
    except UnicodeDecodeError:
        return False
    return all(letter.isprintable() or letter.isspace() for letter in text)


def _refuse_other_archives(path: Path, files: Sequence[str], names: Sequence[str]) -> None:
    if any(name.endswith("data.pkl") for name in files):
        raise _Refused(
            f"'{path}' is no .npz file but one of torch.save: load it with torch.load and write its tensors, "
            f"each with .numpy(), with {HOW}"
        )
    missing = [name for name in names if name not in files]
    if missing:
        raise _Refused(f"'{path}' lacks {', '.join(missing)}: it needs {', '.join(names)}, and has {_listed(files)}")


def _array(path: Path, file: "np.lib.npyio.NpzFile", name: str) -> np.ndarray:
    try:
        array = file[name]
    except ValueError as error:
        if "allow_pickle" not in str(error):
            raise
        raise _Refused(
            f"'{path}' holds Python objects in {name}, which are never loaded: make it one array of numbers, all rows "
            f"of one length (numpy.stack), and write it anew with {HOW}"
        ) from error
    if not isinstance(array, np.ndarray):  # numpy gives the bytes of what is no array
        raise _Refused(f"'{path}' holds no array in {name} but another file: write it anew with {HOW}")
    return array


def _listed(files: Sequence[str]) -> str:
    shown = ", ".join(name for name in files[:6] if name.isprintable())
    return (shown or "nothing") + (", …" if len(files) > 6 else "")

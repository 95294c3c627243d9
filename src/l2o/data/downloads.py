"""Downloads that are whole or not there."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from l2o.files import locked

T = TypeVar("T")

MISSING = (RuntimeError, OSError, AssertionError, TypeError, ValueError)
"""What torchvision raises for files that are missing (the first two) or damaged (the other three)."""


def whole(read: Callable[[Path, bool], T], folder: Path) -> T:
    """Return `read(folder, download)` of what is in `folder`. What is missing or damaged there is downloaded first.

    torchvision writes a download in its place, and a download that was cut off leaves a file there that torchvision
    takes for a whole one. Therefore a download goes into a folder beside, is read once, and is moved to its place
    afterwards. Of several processes that find files missing, one downloads them and the others wait.
    """
    try:
        return read(folder, False)
    except MISSING:
        folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / ".lock"):
        try:
            return read(folder, False)
        except MISSING:
            return _download(read, folder)


def _download(read: Callable[[Path, bool], T], folder: Path) -> T:
    part = folder / ".part"
    shutil.rmtree(part, ignore_errors=True)
    try:
        data = read(part, True)
        for entry in part.iterdir():
            shutil.rmtree(folder / entry.name, ignore_errors=True)
            shutil.move(entry, folder / entry.name)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return data

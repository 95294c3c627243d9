"""Downloads that are whole or not there."""

import fcntl
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

MISSING = (RuntimeError, OSError, AssertionError, TypeError, ValueError)
"""What torchvision raises for files that are missing; the last three: damaged."""


def whole(read: Callable[[Path, bool], T], folder: Path) -> T:
    """`read(folder, download)` of what is in `folder`; what is missing or damaged there is downloaded first.

    torchvision writes in place, and takes a file that a cut download has left for a whole one. So a download goes into
    a folder beside, is read once, and then moved. Of several processes one downloads, the others wait.
    """
    try:
        return read(folder, False)
    except MISSING:
        folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
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

"""Files that are either whole or not there: written beside their place, flushed to the disk, then renamed."""

import errno
import math
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL)
"""The answers of a file system that has no locks."""


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Give a temporary path beside `path` to write to; after the block, the file written there takes `path`'s place.

    Whoever reads `path` sees the old file or the new one, never half of one, also after a loss of power. The file gets
    the permissions that a new file has by default. Where the block raises, nothing changes and nothing is left behind.
    """
    path = Path(path)
    temporary = path.with_name(f".{os.getpid()}-{path.name}")
    try:
        yield temporary
        os.umask(umask := os.umask(0))  # the only way to read it is to set it
        temporary.chmod(0o666 & ~umask)
        _flush(temporary)
        temporary.replace(path)
        _flush(path.parent)  # a rename is on the disk only when its folder is
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_text(path: str | Path, text: str) -> None:
    """Write a text file in UTF-8, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def finite(value: Any) -> Any:
    """Return a value for a JSON file, with None in the place of every inf and nan, however deep: JSON knows neither."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def cache_folder() -> Path:
    """Return the folder for what can be made again: $XDG_CACHE_HOME/l2o, by default ~/.cache/l2o."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "l2o"


@contextmanager
def locked(path: str | Path) -> Iterator[None]:
    """Hold the lock of the file `path`, which is made beside what it guards and stays; wait while a process holds it.

    The kernel keeps the lock, so that it goes with its process, however that ends. On a file system without locks, as
    some network file systems are, nobody waits. Raises OSError where `path` cannot be written.
    """
    from filelock import FileLock

    lock = FileLock(path, fallback_to_soft=False)
    try:
        lock.acquire()
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
    try:
        yield
    finally:
        lock.release()


def without_number(text: str) -> str:
    """Return what the system says of an error without the number that its messages begin with: "[Errno 2] "."""
    return re.sub(r"\[Errno \d+\] ", "", text)

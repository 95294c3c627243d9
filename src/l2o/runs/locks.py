"""One process at a time in a folder."""

import functools
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from filelock import FileLock, Timeout
from omegaconf import DictConfig
from pytorch_lightning.utilities import rank_zero_only

from l2o.files import write_text

FILE = ".lock"
"""The file that is locked. The file stays; the lock belongs to the kernel and goes with the process that holds it,
however that process ends."""

HOLDER = ".lock-holder"
"""The file that names the process that holds the lock, or held it last."""

PATIENCE = 5.0
"""How many seconds a process waits for a lock: the children of a process that was killed may need them to end."""

R = TypeVar("R")


def alone(main: Callable[[DictConfig], R]) -> Callable[[DictConfig], R]:
    """Say which folder a run writes to, and hold that folder for as long as the run lasts.

    On several ranks, rank zero does this, because rank zero alone writes there.
    """

    @functools.wraps(main)
    def guarded(cfg: DictConfig) -> R:
        if getattr(rank_zero_only, "rank", 0) != 0:
            return main(cfg)
        with sole(Path(cfg.output_dir), "another run"):
            print(f"this run's folder: {cfg.output_dir}", flush=True)
            return main(cfg)

    return guarded


@contextmanager
def sole(folder: Path, what: str) -> Iterator[None]:
    """Hold a folder, which is made if it is not there.

    Raises BlockingIOError where another process still holds the folder after `PATIENCE` seconds; `what` says in the
    message what that process is. On a file system without locks nobody is refused.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / FILE, timeout=PATIENCE, poll_interval=0.1, fallback_to_soft=False)
    try:
        lock.acquire()
    except Timeout:
        raise BlockingIOError(
            f"{what} is at work in '{folder}' ({_holder(folder)}): wait until it ends, or choose another folder"
        ) from None
    except OSError:  # The file system has no locks, as some network file systems.
        pass
    try:
        write_text(folder / HOLDER, f"process {os.getpid()} on {socket.gethostname()}")
        yield
    finally:
        lock.release()


def _holder(folder: Path) -> str:
    """Return the process and the host that hold a folder, as far as they are known."""
    with suppress(OSError):
        return (folder / HOLDER).read_text(encoding="utf-8")
    return "an unknown process"

"""One process at a time in a folder."""

import fcntl
import functools
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from omegaconf import DictConfig
from pytorch_lightning.utilities import rank_zero_only

FILE = ".lock"
"""What is locked. It stays; the lock is the kernel's and goes with the process, however that ends."""

PATIENCE = 5.0
"""Seconds that a lock is waited for: the children of a process that was killed may need them to end."""

R = TypeVar("R")


def alone(main: Callable[[DictConfig], R]) -> Callable[[DictConfig], R]:
    """Hold a run's own folder while it runs: rank zero does, who writes there."""

    @functools.wraps(main)
    def guarded(cfg: DictConfig) -> R:
        if getattr(rank_zero_only, "rank", 0) != 0:
            return main(cfg)
        with sole(Path(cfg.output_dir), "another run"):
            return main(cfg)

    return guarded


@contextmanager
def sole(folder: Path, what: str) -> Iterator[None]:
    """Hold a folder. Raises BlockingIOError where another process does. A file system without locks refuses nobody."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / FILE, "a+") as file:
        deadline = time.monotonic() + PATIENCE
        while not _locked(file.fileno()):
            if time.monotonic() > deadline:
                file.seek(0)
                holder = file.read().strip()
                raise BlockingIOError(
                    f"{what} is at work in '{folder}' ({holder}): wait until it ends, or choose another folder"
                )
            time.sleep(0.1)
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        yield


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # no locks here, as on some network file systems
        return True
    return True

"""One process at a time in a folder, by processes that are killed."""

import os
import signal
import time
from pathlib import Path
from threading import Timer

import pytest

from l2o.runs import locks


def hold(folder: Path) -> int:
    """A process that holds a folder until it is killed."""
    pid = os.fork()
    if pid == 0:
        with locks.sole(folder, "a test"):
            time.sleep(60)
        os._exit(0)
    while not (folder / locks.FILE).exists() or not (folder / locks.FILE).read_text():
        time.sleep(0.01)
    return pid


def test_the_second_is_refused_until_the_first_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """kill -9 frees the folder; nothing is left to clean up."""
    monkeypatch.setattr(locks, "PATIENCE", 0.2)
    pid = hold(tmp_path)
    with (
        pytest.raises(BlockingIOError, match=f"a test is at work in .* .process {pid} on "),
        locks.sole(tmp_path, "a test"),
    ):
        pass
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    for _ in range(2):
        with locks.sole(tmp_path, "a test"):
            pass


def test_what_is_about_to_end_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "PATIENCE", 20.0)
    pid = hold(tmp_path)
    timer = Timer(0.3, os.kill, (pid, signal.SIGKILL))
    timer.start()
    with locks.sole(tmp_path, "a test"):
        os.waitpid(pid, 0)
    timer.join()


def test_a_file_system_without_locks_refuses_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(descriptor: int, operation: int) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(locks.fcntl, "flock", flock)
    with locks.sole(tmp_path, "a test"), locks.sole(tmp_path, "a test"):
        pass

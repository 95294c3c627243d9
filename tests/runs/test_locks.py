"""One process at a time in a folder, shown by processes that are killed."""

import errno
import os
import signal
import time
from pathlib import Path
from threading import Timer
from types import SimpleNamespace

import pytest

from l2o.runs import locks


def hold(folder: Path) -> int:
    """Start a process that holds a folder until it is killed."""
    pid = os.fork()
    if pid == 0:
        with locks.sole(folder, "a test"):
            (folder / "held").touch()
            time.sleep(60)
        os._exit(0)
    deadline = time.monotonic() + 20
    while not (folder / "held").exists():
        assert time.monotonic() < deadline
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
    start = time.monotonic()
    with locks.sole(tmp_path, "a test"):
        assert time.monotonic() - start < 10
        os.waitpid(pid, 0)
    timer.join()


@pytest.mark.parametrize("error", [errno.EOPNOTSUPP, errno.ENOSYS, errno.ENOLCK])
def test_a_file_system_without_locks_refuses_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    """And leaves nothing that could refuse somebody later: no file whose mere existence is the lock."""
    fcntl = pytest.importorskip("fcntl")

    def flock(descriptor: int, operation: int) -> None:
        raise OSError(error, os.strerror(error))

    with monkeypatch.context() as broken:
        broken.setattr(fcntl, "flock", flock)
        with locks.sole(tmp_path, "a test"), locks.sole(tmp_path, "a test"):
            pass
    with locks.sole(tmp_path, "a test"):
        pass


def test_a_run_says_where_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cfg = SimpleNamespace(output_dir=str(tmp_path / "run"))
    assert locks.alone(lambda cfg: cfg.output_dir)(cfg) == str(tmp_path / "run")  # type: ignore[arg-type]
    assert capsys.readouterr().out == f"this run's folder: {tmp_path / 'run'}\n"

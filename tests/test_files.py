"""Files are whole or not there."""

import errno
import fcntl
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from l2o.files import locked, replacing, write_text


def test_the_new_file_takes_the_old_one_s_place(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    write_text(path, "old")
    with replacing(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
        assert temporary.parent == tmp_path
    assert path.read_text() == "new"
    assert [*tmp_path.iterdir()] == [path]


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    write_text(path, "old")
    with pytest.raises(RuntimeError, match="in the middle"), replacing(path) as temporary:
        temporary.write_text("ne")
        raise RuntimeError("in the middle")
    assert path.read_text() == "old"
    assert [*tmp_path.iterdir()] == [path]


def test_the_file_has_the_permissions_of_a_new_one(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    with replacing(tmp_path / "file") as temporary:
        temporary.touch(mode=0o600)  # as safetensors does
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == stat.S_IMODE((tmp_path / "plain").stat().st_mode)


def test_text_is_written_in_utf_8(tmp_path: Path) -> None:
    write_text(tmp_path / "file", "θ_0 ~ N(0, 0.01²)")
    assert (tmp_path / "file").read_bytes() == "θ_0 ~ N(0, 0.01²)".encode()


HOLD = "import sys; from l2o.files import locked\nwith locked(sys.argv[1]): print('held', flush=True); sys.stdin.read()"


def test_a_lock_is_waited_for_and_goes_with_its_process(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLD, str(tmp_path / ".lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        got_it = threading.Event()

        def wait() -> None:
            with locked(tmp_path / ".lock"):
                got_it.set()

        thread = threading.Thread(target=wait)
        thread.start()
        assert not got_it.wait(0.5), "two at once"
        holder.kill()
        assert got_it.wait(20)
        thread.join()
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_refuses_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def flock(*_: object) -> None:
        raise OSError(number, "no locks here")

    monkeypatch.setattr(fcntl, "flock", flock)
    done = []
    with locked(tmp_path / ".lock"):
        done.append(1)
    assert done == [1]


def test_a_lock_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError), locked(tmp_path / "file" / ".lock"):
        raise AssertionError("nobody holds it")

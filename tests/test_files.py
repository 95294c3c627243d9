"""Files are whole or not there."""

import stat
from pathlib import Path

import pytest

from l2o.files import replacing, write_text


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

"""Checkpoints on disk: what is damaged is noticed, what is whole is kept."""

import os
import random
from pathlib import Path
from typing import Any

import pytest
import torch

from l2o.deploy import export
from l2o.runs import checkpoint_files
from l2o.runs.checkpoint_files import CheckpointFiles


def content(number: int = 0) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(number)
    return {"l2o": {"number": number, "phi": torch.randn(200, generator=generator)}, "name": "x" * 50}


def save(path: Path, number: int = 0) -> Path:
    CheckpointFiles().save_checkpoint(content(number), path)
    return path


def number(path: Path | None) -> int:
    assert path is not None
    return export.read_checkpoint(path)["l2o"]["number"]


def equal(one: Any, other: Any) -> bool:
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    return torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other


def flip(path: Path, bit: int) -> None:
    data = bytearray(path.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)


def test_a_flipped_bit_is_noticed_or_harmless(tmp_path: Path) -> None:
    """300 bits: what is read is exactly what was written, or nothing is."""
    whole = save(tmp_path / "last.ckpt").read_bytes()
    path, rng, noticed = tmp_path / "flipped.ckpt", random.Random(0), 0
    for bit in rng.sample(range(8 * len(whole)), 300):
        path.write_bytes(whole)
        flip(path, bit)
        if checkpoint_files.damage(path):
            noticed += 1
        else:
            assert equal(export.read_checkpoint(path), content())
    assert noticed > 100  # the rest of so small a file is padding and names


def test_a_flipped_bit_of_a_tensor_is_noticed(tmp_path: Path) -> None:
    path = save(tmp_path / "last.ckpt")
    where = path.read_bytes().index(content()["l2o"]["phi"].numpy().tobytes())
    flip(path, 8 * where + 77)
    assert "checksum" in str(checkpoint_files.damage(path))


def test_a_truncated_file_is_noticed(tmp_path: Path) -> None:
    whole = save(tmp_path / "last.ckpt").read_bytes()
    for length in (0, 1, 100, len(whole) // 2, len(whole) - 1):
        (tmp_path / "cut.ckpt").write_bytes(whole[:length])
        assert checkpoint_files.damage(tmp_path / "cut.ckpt")


def test_the_checkpoint_before_is_kept(tmp_path: Path) -> None:
    for count in range(3):
        save(tmp_path / "last.ckpt", count)
    assert [number(tmp_path / name) for name in ("last.ckpt", "previous.ckpt")] == [2, 1]
    assert len(list(tmp_path.iterdir())) == 2


def test_a_damaged_one_never_takes_the_place_of_the_good_one_before(tmp_path: Path) -> None:
    for count in range(2):
        save(tmp_path / "last.ckpt", count)
    (tmp_path / "last.ckpt").write_bytes(b"damaged")
    save(tmp_path / "last.ckpt", 2)
    assert [number(tmp_path / name) for name in ("last.ckpt", "previous.ckpt")] == [2, 0]


def test_a_write_that_fails_costs_one_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save(tmp_path / "last.ckpt", 0)
    (tmp_path / f".{os.getpid()}-last.ckpt").mkdir()  # in the way
    save(tmp_path / "last.ckpt", 1)
    (line,) = [record.getMessage() for record in caplog.records]
    assert "could not be written" in line and "\n" not in line
    assert number(tmp_path / "last.ckpt") == 0


def said(caplog: pytest.LogCaptureFixture) -> str:
    """The one warning since the last call."""
    (line,) = [record.getMessage() for record in caplog.records]
    caplog.clear()
    assert "\n" not in line
    return line


def test_auto_takes_the_last_intact_one_of_the_folder(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    find = lambda: checkpoint_files.find("auto", tmp_path)  # noqa: E731
    assert find() is None
    for count in range(2):
        save(tmp_path / "last.ckpt", count)
    assert number(find()) == 1
    assert not caplog.records

    (tmp_path / "last.ckpt").write_bytes(b"damaged")
    assert number(find()) == 0
    assert "last.ckpt' is damaged" in (line := said(caplog)) and "previous.ckpt', is taken" in line

    (tmp_path / "last.ckpt").unlink()  # killed between two renames
    assert number(find()) == 0
    assert "no checkpoint at" in (line := said(caplog)) and "previous.ckpt', is taken" in line

    (tmp_path / "last.ckpt").write_bytes(b"damaged")
    (tmp_path / "previous.ckpt").write_bytes(b"damaged")
    assert find() is None
    assert "starting afresh" in said(caplog)

    (tmp_path / "last.ckpt").unlink()
    assert find() is None
    assert "starting afresh" in said(caplog)


def test_a_named_one_that_is_damaged_is_replaced_by_the_one_before_or_refused(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    for count in range(2):
        save(path, count)
    path.write_bytes(b"damaged")
    assert number(checkpoint_files.find(str(path), tmp_path / "elsewhere")) == 0
    (tmp_path / "previous.ckpt").unlink()
    with pytest.raises(ValueError, match="is damaged"):
        checkpoint_files.find(str(path), tmp_path / "elsewhere")


@pytest.mark.parametrize("name", ["lst.ckpt", "nowhere/last.ckpt", "", "curves.csv", "best.ckpt", "window8.ckpt"])
def test_what_is_no_checkpoint_is_refused_even_beside_a_good_one(tmp_path: Path, name: str) -> None:
    """A mistyped name is not quietly replaced by `previous.ckpt`, nor is a file of another kind."""
    for count in range(2):
        save(tmp_path / "last.ckpt", count)
    (tmp_path / "curves.csv").write_text("optimizer,step\n")
    (tmp_path / "window8.ckpt").write_bytes(b"damaged")
    with pytest.raises(ValueError, match="no checkpoint"):
        checkpoint_files.find(f"{tmp_path}/{name}", tmp_path)


def test_a_run_that_goes_on_says_from_where(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    CheckpointFiles().save_checkpoint({"l2o": {"windows": 1200}}, tmp_path / "last.ckpt")
    checkpoint_files.find("auto", tmp_path)
    assert capsys.readouterr().out == f"going on from window 1200 of '{tmp_path / 'last.ckpt'}'\n"


def test_there_is_always_a_last_one_while_the_next_is_put_in_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that fails when it is flushed, after everything has been written, costs no checkpoint."""
    for count in range(2):
        save(tmp_path / "last.ckpt", count)

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as disk:
        disk.setattr(os, "fsync", full)
        save(tmp_path / "last.ckpt", 2)
    assert number(tmp_path / "last.ckpt") == 1
    assert {path.name for path in tmp_path.iterdir()} == {"last.ckpt", "previous.ckpt"}


def test_what_killed_runs_left_unfinished_is_removed(tmp_path: Path) -> None:
    save(tmp_path / "last.ckpt")
    for name in (".123-last.ckpt", ".4-previous.ckpt", ".5-notes.txt", "mine-last.ckpt"):
        (tmp_path / name).touch()
    checkpoint_files.remove_leftovers(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"last.ckpt", ".5-notes.txt", "mine-last.ckpt"}


@pytest.mark.parametrize("nothing", [None, ""])
def test_without_a_path_a_run_starts_afresh(tmp_path: Path, nothing: str | None) -> None:
    save(tmp_path / "last.ckpt")
    assert checkpoint_files.find(nothing, tmp_path) is None


def test_beside_the_last_checkpoint_lies_what_was_trained_without_its_episodes(tmp_path: Path) -> None:
    """Also where it is written again: it never becomes previous.ckpt, and a last.ckpt that failed leaves it alone."""
    files = CheckpointFiles(warm_start=True)
    for window in (1, 2):
        checkpoint = {"l2o": {"windows": window, "ranks": [1, 2]}, "state_dict": {"w": torch.ones(2)}}
        files.save_checkpoint(checkpoint, tmp_path / "last.ckpt")
    found = {name: torch.load(tmp_path / f"{name}.ckpt")["l2o"] for name in ("last", "previous", "warm_start")}
    assert found["last"] == {"windows": 2, "ranks": [1, 2]} and found["previous"] == {"windows": 1, "ranks": [1, 2]}
    assert found["warm_start"] == {"windows": 2}
    files.save_checkpoint(checkpoint, tmp_path / "other.ckpt")
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *("last.ckpt", "other.ckpt", "previous.ckpt", "warm_start.ckpt")
    ]

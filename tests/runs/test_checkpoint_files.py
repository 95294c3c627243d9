"""Checkpoints on disk: what is damaged is noticed, what is whole is kept."""

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
    (tmp_path / "last.part").mkdir()  # in the way
    save(tmp_path / "last.ckpt", 1)
    (line,) = [record.getMessage() for record in caplog.records]
    assert "could not be written" in line and "\n" not in line
    assert number(tmp_path / "last.ckpt") == 0


def test_auto_takes_the_last_intact_one_of_the_folder(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    find = lambda: checkpoint_files.find("auto", tmp_path)  # noqa: E731
    assert find() is None
    for count in range(2):
        save(tmp_path / "last.ckpt", count)
    assert number(find()) == 1
    assert not caplog.records

    (tmp_path / "last.ckpt").write_bytes(b"damaged")
    assert number(find()) == 0
    (line,) = [record.getMessage() for record in caplog.records]
    assert "damaged" in line and "going on from" in line and "\n" not in line

    (tmp_path / "last.ckpt").unlink()  # killed between two renames
    assert number(find()) == 0

    (tmp_path / "last.ckpt").write_bytes(b"damaged")
    (tmp_path / "previous.ckpt").write_bytes(b"damaged")
    assert find() is None
    assert "starting afresh" in caplog.records[-1].getMessage()


def test_a_named_one_is_replaced_by_the_one_before_or_refused(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    with pytest.raises(ValueError, match="no checkpoint at"):
        checkpoint_files.find(str(path), tmp_path / "elsewhere")
    for count in range(2):
        save(path, count)
    path.write_bytes(b"damaged")
    assert number(checkpoint_files.find(str(path), tmp_path / "elsewhere")) == 0
    (tmp_path / "previous.ckpt").unlink()
    with pytest.raises(ValueError, match="is damaged"):
        checkpoint_files.find(str(path), tmp_path / "elsewhere")


@pytest.mark.parametrize("nothing", [None, ""])
def test_without_a_path_a_run_starts_afresh(tmp_path: Path, nothing: str | None) -> None:
    save(tmp_path / "last.ckpt")
    assert checkpoint_files.find(nothing, tmp_path) is None

"""Reading, reducing, cropping and splitting pictures."""

from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Generator, Tensor
from torch.testing import assert_close

from l2o.data import images


def painted(path: Path, pixels: Tensor) -> Path:
    """Write uint8 (3, H, W) as a file."""
    Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(path)
    return path


def random_picture(height: int, width: int, seed: int = 0) -> Tensor:
    return torch.randint(0, 256, (3, height, width), generator=Generator().manual_seed(seed), dtype=torch.uint8)


def test_a_picture_is_read_as_it_was_written(tmp_path: Path) -> None:
    pixels = random_picture(5, 7)
    assert_close(images.read(painted(tmp_path / "a.png", pixels)), pixels, rtol=0, atol=0)
    images.save(pixels / 255, tmp_path / "b.png")
    assert_close(images.read(tmp_path / "b.png"), pixels, rtol=0, atol=0)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1", "CMYK"])
def test_every_kind_of_picture_becomes_rgb(tmp_path: Path, mode: str) -> None:
    name = tmp_path / ("a.jpg" if mode == "CMYK" else "a.png")
    Image.new("RGB", (4, 3), "white").convert(mode).save(name)
    assert_close(images.read(name), torch.full((3, 3, 4), 255, dtype=torch.uint8), rtol=0, atol=2)


@pytest.mark.parametrize(("side", "shape"), [(4, (3, 4, 8)), (9, (3, 9, 18)), (10, (3, 10, 20)), (99, (3, 10, 20))])
def test_the_shorter_side_is_reduced_and_never_enlarged(tmp_path: Path, side: int, shape: tuple[int, ...]) -> None:
    path = painted(tmp_path / "a.png", torch.full((3, 10, 20), 77, dtype=torch.uint8))
    assert_close(images.read(path, side), torch.full(shape, 77, dtype=torch.uint8), rtol=0, atol=0)


def test_a_folder_is_read_by_name_and_other_files_are_left_alone(tmp_path: Path) -> None:
    pixels = {f"{name}.png": random_picture(3, 3, seed) for seed, name in enumerate("bca")}
    for name, picture in pixels.items():
        painted(tmp_path / name, picture)
    (tmp_path / "notes.txt").write_text("no picture")
    found = images.read_all(str(tmp_path))
    assert [Path(name).name for name in found] == ["a.png", "b.png", "c.png"]
    assert all(torch.equal(picture, pixels[Path(name).name]) for name, picture in found.items())
    assert list(images.read_all([str(tmp_path / "c.png"), str(tmp_path / "a.png")])) == [
        str(tmp_path / "c.png"),
        str(tmp_path / "a.png"),
    ]


def test_what_is_no_picture_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "nothing").mkdir()
    whole = painted(tmp_path / "whole.png", random_picture(64, 64)).read_bytes()
    (tmp_path / "half.png").write_bytes(whole[: len(whole) // 2])
    for name in ("text.png", "empty.jpg", "half.png"):
        with pytest.raises(ValueError, match=f"{name}' is no intact picture"):
            images.read(tmp_path / name)
    with pytest.raises(ValueError, match="no picture at"):
        images.read(tmp_path / "missing.png")
    with pytest.raises(ValueError, match="no pictures in the folder"):
        images.read_all(str(tmp_path / "nothing"))


def test_a_crop_is_a_part_and_every_part_comes() -> None:
    picture = random_picture(4, 5)
    parts = {tuple(picture[:, i : i + 3, j : j + 3].flatten().tolist()) for i in range(2) for j in range(3)}
    generator = Generator().manual_seed(0)
    crops = {tuple(images.crop(picture, 3, 3, generator).flatten().tolist()) for _ in range(100)}
    assert crops == parts
    assert torch.equal(images.crop(picture, 4, 5, generator), picture)


@pytest.mark.parametrize(("validation", "test", "sizes"), [(20, 100, (880, 20, 100)), (0.02, 0.1, (880, 20, 100))])
def test_splits_are_disjoint_complete_and_the_seeds(
    validation: float, test: float, sizes: tuple[int, int, int]
) -> None:
    parts = images.split(1000, validation, test, seed=3)
    assert tuple(len(parts[name]) for name in ("train", "validation", "test")) == sizes
    assert sorted(number for part in parts.values() for number in part) == list(range(1000))
    assert parts == images.split(1000, validation, test, seed=3) != images.split(1000, validation, test, seed=4)


def test_few_pictures_still_split_and_one_serves_every_split() -> None:
    assert {name: len(part) for name, part in images.split(3, 0.02, 0.1, 0).items()} == {
        "train": 1,
        "validation": 1,
        "test": 1,
    }
    assert images.split(1, 20, 100, 0) == {"train": [0], "validation": [0], "test": [0]}


@pytest.mark.parametrize(("validation", "test"), [(20, 100), (0, 1), (1, 0.99)])
def test_a_split_that_leaves_a_part_empty_is_refused(validation: float, test: float) -> None:
    with pytest.raises(ValueError, match="do not split"):
        images.split(50, validation, test, 0)

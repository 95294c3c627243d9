"""Reading, reducing, cropping and splitting pictures."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Generator, Tensor
from torch.testing import assert_close

from l2o.data import images, memory


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


COLOURS = {
    "L": [76, 76, 76],  # the brightness of red
    "LA": [76, 76, 76],
    "1": [0, 0, 0],
    "P": [255, 0, 0],
    "RGB": [255, 0, 0],
    "RGBA": [255, 0, 0],
    "PA": [255, 0, 0],
    "CMYK": [255, 0, 0],
    "YCbCr": [254, 0, 0],
}


@pytest.mark.parametrize("mode", COLOURS)
def test_every_kind_of_picture_becomes_rgb(tmp_path: Path, mode: str) -> None:
    red = Image.new("RGB", (4, 3), "red")
    picture = red.convert("P", palette=Image.Palette.ADAPTIVE).convert("PA") if mode == "PA" else red
    picture = picture if mode == "PA" else red.convert(mode, dither=Image.Dither.NONE)
    name = tmp_path / ("a.tif" if mode in ("CMYK", "YCbCr", "PA") else "a.png")
    picture.save(name)
    assert images.read(name)[:, 1, 2].tolist() == COLOURS[mode]


RAMP = np.tile(np.arange(256, dtype=np.uint16) * 257, (8, 1))
"""Every shade of grey in sixteen bits, from black to white."""


def png_of_16_bits(values: np.ndarray) -> bytes:
    """A PNG of (H, W, C) numbers of sixteen bits, which Pillow itself cannot write for colours."""
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[values.shape[2]]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    head = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], 16, kind, 0, 0, 0)
    parts = [(b"IHDR", head), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in parts
    )


RAMPS = {
    "a.png": lambda path: Image.fromarray(RAMP).save(path),
    "little endian.tif": lambda path: Image.fromarray(RAMP).save(path),
    "big endian.tif": lambda path: Image.frombytes("I;16B", RAMP.shape[::-1], RAMP.astype(">u2").tobytes()).save(path),
    "int32.tif": lambda path: Image.fromarray(RAMP.astype(np.int32)).save(path),
    "float.tif": lambda path: Image.fromarray((RAMP / 65535).astype(np.float32)).save(path),
    "a.pgm": lambda path: path.write_bytes(b"P5 256 8 65535\n" + RAMP.astype(">u2").tobytes()),
    "rgb.png": lambda path: path.write_bytes(png_of_16_bits(np.dstack([RAMP] * 3))),
    "rgba.png": lambda path: path.write_bytes(png_of_16_bits(np.dstack([RAMP] * 3 + [RAMP * 0 + 65535]))),
    "la.png": lambda path: path.write_bytes(png_of_16_bits(np.dstack([RAMP, RAMP * 0 + 65535]))),
}


@pytest.mark.parametrize("name", RAMPS)
def test_more_than_eight_bits_are_scaled(tmp_path: Path, name: str) -> None:
    """Every shade arrives, where Pillow's own conversion gives white or black."""
    RAMPS[name](tmp_path / name)
    expected = torch.arange(256, dtype=torch.uint8).expand(3, 8, 256)
    assert torch.equal(images.read(tmp_path / name), expected)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        (RAMP.astype(np.float32), "values from 0 to 65535, and colours lie between 0 and 1: scale them"),
        (RAMP.astype(np.float32) / 65535 - 0.5, "values from -0.5 to 0.5, and colours lie between 0 and 1"),
        (np.full((4, 4), np.nan, np.float32), "values from nan to nan, and colours"),
        (RAMP.astype(np.int32) * 2, "values from 0 to 131070, and colours lie between 0 and 65535: scale them"),
        (RAMP.astype(np.int32) - 1, "values from -1 to 65534, and colours"),
    ],
)
def test_numbers_that_are_no_colours_are_refused(tmp_path: Path, values: np.ndarray, says: str) -> None:
    Image.fromarray(values).save(tmp_path / "a.tif")
    with pytest.raises(ValueError, match=rf"a\.tif' has {says}") as caught:
        images.read(tmp_path / "a.tif")
    assert "\n" not in str(caught.value)


def test_transparency_is_composed_over_white(tmp_path: Path) -> None:
    half = Image.new("RGBA", (4, 3), (0, 0, 0, 0))
    half.putpixel((0, 0), (200, 0, 0, 128))
    half.save(tmp_path / "a.png")
    half.convert("LA").save(tmp_path / "la.png")
    assert images.read(tmp_path / "a.png")[:, 0].T.tolist() == [[227, 127, 127], *[[255] * 3] * 3]
    assert images.read(tmp_path / "la.png")[:, 1].unique().tolist() == [255]


@pytest.mark.parametrize(("mode", "colour", "key"), [("RGB", (1, 2, 3), (1, 2, 3)), ("L", 7, 7), ("P", 0, 0)])
def test_a_transparent_colour_is_white(tmp_path: Path, mode: str, colour: int, key: int) -> None:
    picture = Image.new(mode, (4, 3), colour)
    if mode == "P":
        picture.putpalette([9, 9, 9, 200, 0, 0])
    picture.save(tmp_path / "a.png", transparency=key)
    assert images.read(tmp_path / "a.png").unique().tolist() == [255]


@pytest.mark.parametrize("name", ["a.gif", "a.webp", "a.png", "a.tif"])
def test_of_an_animation_the_first_frame_is_taken(tmp_path: Path, name: str) -> None:
    first, second = (Image.new("RGB", (4, 3), colour) for colour in ("red", "blue"))
    first.save(tmp_path / name, save_all=True, append_images=[second], **({"lossless": True} if "webp" in name else {}))
    assert images.read(tmp_path / name)[:, 1, 1].tolist() == [255, 0, 0]


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.tif", "a.webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photograph_is_turned_as_its_tag_says(tmp_path: Path, name: str, orientation: int) -> None:
    """A white corner, whose place shows every turn and reflection; whole and reduced."""
    pixels = np.zeros((48, 64, 3), np.uint8)
    pixels[:24, :32] = 255
    tag = Image.Exif()
    tag[0x0112] = orientation
    Image.fromarray(pixels).save(tmp_path / name, exif=tag)
    turned = images.read(tmp_path / name)
    assert turned.shape == ((3, 64, 48) if orientation > 4 else (3, 48, 64))
    corner = {1: (0, 0), 2: (0, -1), 3: (-1, -1), 4: (-1, 0), 5: (0, 0), 6: (0, -1), 7: (-1, -1), 8: (-1, 0)}
    bright = [(i, j) for i in (0, -1) for j in (0, -1) if turned[0, i, j] > 127]
    assert bright == [corner[orientation]]
    assert images.read(tmp_path / name, 24).shape == ((3, 32, 24) if orientation > 4 else (3, 24, 32))


def test_damaged_tags_do_not_make_a_picture_unreadable(tmp_path: Path) -> None:
    Image.new("RGB", (6, 4), "white").save(tmp_path / "a.jpg", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff")
    assert images.read(tmp_path / "a.jpg").shape == (3, 4, 6)


# ---------------------------------------------------------------------------------------------------------- memory


def with_size(path: Path, width: int, height: int) -> Path:
    """A PNG that says it has this size, and no pixels."""
    parts = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)), (b"IDAT", zlib.compress(b"\0"))]
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + b"".join(struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in parts)
    )
    return path


@pytest.fixture
def little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "free", lambda: 10**8)


@pytest.mark.usefixtures("little_memory")
def test_a_picture_too_large_to_be_decoded_is_refused_before_it_is(tmp_path: Path) -> None:
    path = with_size(tmp_path / "a.png", 9000, 7000)
    says = r"the picture '.*a\.png' of 7000×9000 needs some 0\.9 GB of memory, and 0\.1 GB are free: "
    with pytest.raises(ValueError, match=says + r"set optimizee\.content_side=1000 \(of styles: style_side\)$"):
        images.read(path)
    with pytest.raises(ValueError, match=says + r"reduce it with another program$"):
        images.read(path, 480)


@pytest.mark.usefixtures("little_memory")
def test_more_pictures_than_fit_are_refused_before_any_is_decoded(tmp_path: Path) -> None:
    for number in range(20):
        with_size(tmp_path / f"{number}.png", 2000, 2000)
    with pytest.raises(ValueError, match=r"a collection of 20 pictures needs some 0\.2 GB .*content_side=1000"):
        images.read_all(str(tmp_path))


def test_pictures_beyond_any_photograph_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"a\.png' has more than the 178 million pixels that are decoded: reduce it"):
        images.read(with_size(tmp_path / "a.png", 50000, 50000))


def test_a_large_photograph_is_reduced_while_it_is_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A JPEG of 24 megapixels in the memory of 1.5: at a quarter of its size, before the exact reduction."""
    monkeypatch.setattr(memory, "free", lambda: 30 * 10**6)
    Image.linear_gradient("L").resize((6000, 4000)).convert("RGB").save(tmp_path / "a.jpg")
    picture = images.read(tmp_path / "a.jpg", 480)
    assert picture.shape == (3, 480, 720)
    expected = torch.linspace(0, 255, 480).round()
    assert (picture[0, :, 360] - expected).abs().max() <= 2
    with pytest.raises(ValueError, match=r"of 4000×6000 needs some 0\.3 GB"):
        images.read(tmp_path / "a.jpg")


@pytest.mark.parametrize(("side", "shape"), [(4, (3, 4, 8)), (9, (3, 9, 18)), (10, (3, 10, 20)), (99, (3, 10, 20))])
def test_the_shorter_side_is_reduced_and_never_enlarged(tmp_path: Path, side: int, shape: tuple[int, ...]) -> None:
    path = painted(tmp_path / "a.png", torch.full((3, 10, 20), 77, dtype=torch.uint8))
    assert_close(images.read(path, side), torch.full(shape, 77, dtype=torch.uint8), rtol=0, atol=0)


def test_a_folder_is_read_by_name_and_other_files_are_left_alone(tmp_path: Path) -> None:
    pixels = {f"{name}.png": random_picture(3, 3, seed) for seed, name in enumerate("bca")}
    for name, picture in pixels.items():
        painted(tmp_path / name, picture)
    (tmp_path / "notes.txt").write_text("no picture")
    (tmp_path / "._a.png").write_bytes(b"what macOS leaves beside a file")
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


def test_the_home_folder_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    pixels = random_picture(3, 4)
    painted(tmp_path / "a.png", pixels)
    assert torch.equal(images.read("~/a.png"), pixels)
    assert torch.equal(images.read_all(["~/a.png"])[str(tmp_path / "a.png")], pixels)
    assert [*images.read_all("~")] == [str(tmp_path / "a.png")]


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

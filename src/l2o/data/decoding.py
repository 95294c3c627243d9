"""Picture files of every kind, decoded to eight bits of red, green and blue.

Pillow's own conversion to RGB clips what has more than eight bits: sixteen bits become white, floats black. Here they
are scaled. Transparency is composed over white, of an animation the first frame is taken, and a photograph is turned as
its orientation tag says.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from l2o.data import memory

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageFile import ImageFile

LARGE = 2**24
"""A JPEG of more pixels is decoded at a fraction of its size where it is reduced anyway."""

BAND = 2**20
"""How many pixels are converted at once."""

BYTES_PER_PIXEL = 14
"""What decoding takes: four bytes as Pillow keeps the file, four as RGB, and six in two copies as a tensor."""

SMALLER = "set optimizee.content_side=1000 (of styles: style_side)"

ORIENTATION = 0x0112
"""The tag of a photograph (EXIF) that says how the camera was held."""


def decoded(path: str | Path, shorter_side: int | None = None) -> "Image":
    """Return a picture file as an RGB image, its shorter side reduced to `shorter_side` pixels, never enlarged.

    Raises ValueError for a file that is no picture, is too large for the free memory, or holds numbers that are no
    colours.
    """
    from PIL import Image, ImageOps

    with _opened(path) as file:
        if shorter_side is not None:
            _decode_at_a_fraction(file, shorter_side)
        what = f"the picture '{path}' of {file.height}×{file.width}"
        remedy = "reduce it with another program" if shorter_side else SMALLER
        memory.refuse_if_too_large(BYTES_PER_PIXEL * file.width * file.height, what, remedy)
        with _intact(path):
            file.load()
        picture, orientation = _rgb(file, path), _orientation(file)
    if shorter_side is not None and shorter_side < min(picture.size):
        picture = picture.resize(reduced(picture.size, shorter_side), Image.Resampling.LANCZOS)
    picture.info.clear()  # other tags, damaged ones perhaps, have no use here
    picture.getexif()[ORIENTATION] = orientation
    return ImageOps.exif_transpose(picture)


def size_of(path: str | Path) -> tuple[int, int] | None:
    """Return a picture's width and height from the head of its file; None where that cannot be read."""
    try:
        with _opened(path) as file:
            return file.size
    except ValueError:
        return None


def reduced(size: tuple[int, int], shorter_side: int) -> tuple[int, int]:
    """Return a width and height with the same ratio, the shorter of which is `shorter_side`."""
    return round(size[0] * shorter_side / min(size)), round(size[1] * shorter_side / min(size))


@contextmanager
def _opened(path: str | Path) -> "Iterator[ImageFile]":
    from PIL import Image

    if not Path(path).is_file():
        raise ValueError(f"no picture at '{path}'")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of damaged tags, which do no harm, and of size: here the free memory decides
        with _intact(path):
            file = Image.open(path)
        with file:
            yield file


@contextmanager
def _intact(path: str | Path) -> Iterator[None]:
    """Turn whatever Pillow raises for a file into a ValueError that names the file."""
    from PIL import Image

    try:
        yield
    except Image.DecompressionBombError as error:
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0) // 10**6
        raise ValueError(
            f"'{path}' has more than the {limit} million pixels that are decoded: reduce it with another program first"
        ) from error
    except Exception as error:  # a damaged file: struct.error, SyntaxError, OSError and many more
        raise ValueError(f"'{path}' is no intact picture: remove it, or save it anew as PNG or JPEG") from error


def _decode_at_a_fraction(file: "ImageFile", shorter_side: int) -> None:
    """Let a large JPEG be decoded at 1/2, 1/4 or 1/8 of its size, at least twice as large as wanted."""
    if file.width * file.height > LARGE and 2 * shorter_side < min(file.size):
        file.draft(file.mode, reduced(file.size, 2 * shorter_side))


def _orientation(file: "ImageFile") -> int:
    try:
        return file.getexif().get(ORIENTATION, 1)
    except Exception:  # a damaged tag does not make the picture unreadable
        return 1


def _rgb(picture: "Image", path: str | Path) -> "Image":
    """The picture in RGB, converted band by band, so that copies take little memory."""
    from PIL import Image

    if picture.mode == "RGB" and not picture.has_transparency_data:
        return picture.copy()
    result = Image.new("RGB", picture.size)
    rows = max(1, BAND // picture.width)
    for top in range(0, picture.height, rows):
        band = picture.crop((0, top, picture.width, min(top + rows, picture.height)))
        result.paste(_band_in_rgb(band, path), (0, top))
    return result


def _band_in_rgb(band: "Image", path: str | Path) -> "Image":
    from PIL import Image

    if band.mode in ("I", "F") or band.mode.startswith("I;16"):
        white = 1 if band.mode == "F" else 65535
        values = np.asarray(band.convert("I") if ";" in band.mode else band)
        return Image.fromarray(_eight_bits(values, white, path)).convert("RGB")
    try:
        if not band.has_transparency_data:
            return band.convert("RGB")
        colours = band.convert("RGBA")
    except ValueError as error:
        raise ValueError(
            f"'{path}' is a picture of the kind {band.mode}, which cannot be made RGB: save it anew as PNG or JPEG"
        ) from error
    paper = Image.new("RGBA", band.size, "white")
    return Image.alpha_composite(paper, colours).convert("RGB")


def _eight_bits(values: np.ndarray, white: int, path: str | Path) -> np.ndarray:
    """Numbers from 0, black, to `white` as uint8: sixteen bits divided by 257, floats times 255."""
    low, high = np.min(values), np.max(values)
    if not (low >= 0 and high <= white):  # nan is neither
        raise ValueError(
            f"'{path}' has values from {low:g} to {high:g}, and colours lie between 0 and {white}: "
            "scale them, or save it anew as PNG or JPEG"
        )
    return np.rint(values * np.float64(255 / white)).astype(np.uint8)

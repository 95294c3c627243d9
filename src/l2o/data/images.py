"""Pictures: read, reduced, cropped; a folder of them, split by a seed.

Shapes: a picture is uint8 (3, H, W).
"""

from collections.abc import Sequence
from importlib import resources
from pathlib import Path

import numpy as np
import torch
from torch import Generator, Tensor

from l2o.data import decoding, memory

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")


def read(path: str | Path, shorter_side: int | None = None) -> Tensor:
    """Read a picture file as uint8 (3, H, W), reduced until its shorter side has `shorter_side` pixels.

    A smaller picture stays as it is. How each kind of picture becomes RGB is told in `l2o.data.decoding`. Raises
    ValueError for a file that is no picture or does not fit into the free memory.
    """
    picture = decoding.decoded(Path(path).expanduser(), shorter_side)
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1).contiguous()


def read_all(paths: str | Sequence[str], shorter_side: int | None = None) -> dict[str, Tensor]:
    """Read the pictures of a folder, one file, or a list of either: file name -> picture, in order.

    Raises ValueError as `read` does, and where all the pictures together do not fit into the free memory.
    """
    files = files_of(paths)
    _refuse_too_many(files, shorter_side)
    return {str(file): read(file, shorter_side) for file in files}


def files_of(paths: str | Sequence[str]) -> list[Path]:
    """Return the files that `read_all` reads, in order. Raises ValueError where there are none."""
    files = [file for path in ([paths] if isinstance(paths, str | Path) else paths) for file in _files(path)]
    if not files:
        raise ValueError("no pictures: give a file, a folder, or a list of them")
    return files


def _refuse_too_many(files: Sequence[Path], shorter_side: int | None) -> None:
    total = 0
    for width, height in filter(None, map(decoding.size_of, files)):
        scale = 1.0 if shorter_side is None else min(1.0, shorter_side / min(width, height))
        total += round(3 * width * height * scale**2)
    remedy = "give fewer, or reduce them: optimizee.content_side=1000 (of styles: style_side)"
    memory.refuse_if_too_large(total, f"a collection of {len(files)} pictures", remedy)


def sample_photograph(name: str) -> str:
    """Return the path of one of the two photographs that ship with scikit-learn, 640 × 427 pixels each.

    They are china.jpg, a temple, and flower.jpg.
    """
    return str(resources.files("sklearn.datasets.images") / name)


def save(picture: Tensor, path: str | Path) -> None:
    """Write floats (3, H, W) in [0, 1] as a PNG."""
    from PIL import Image

    pixels = (picture.clamp(0, 1) * 255).round().byte().permute(1, 2, 0)
    Image.fromarray(pixels.cpu().numpy()).save(path)


def crop(picture: Tensor, height: int, width: int, generator: Generator) -> Tensor:
    """Cut out a part at a random place: (3, H, W) -> (3, height, width)."""
    draw = lambda room: int(torch.randint(room + 1, (), generator=generator, device=generator.device))  # noqa: E731
    top, left = draw(picture.shape[1] - height), draw(picture.shape[2] - width)
    return picture[:, top : top + height, left : left + width]


def split(count: int, validation: float, test: float, seed: int) -> dict[str, list[int]]:
    """Divide the numbers 0 … count − 1, shuffled by a seed, into three parts that share none.

    `validation` and `test` are counts, or fractions if they are below 1. A single picture serves all three parts, as
    its crops differ. Raises ValueError where a part would be empty.
    """
    if count == 1:
        return {"train": [0], "validation": [0], "test": [0]}
    sizes = [max(1, round(part * count)) if 0 < part < 1 else int(part) for part in (validation, test)]
    if min(sizes) < 1 or sum(sizes) >= count:
        raise ValueError(
            f"{count} pictures do not split into {sizes[0]} for validation, {sizes[1]} for test and the rest for "
            "training: change optimizee.validation and optimizee.test, or give more pictures"
        )
    order = torch.randperm(count, generator=Generator().manual_seed(seed)).tolist()
    held_out = sum(sizes)
    return {"train": order[held_out:], "validation": order[: sizes[0]], "test": order[sizes[0] : held_out]}


def _files(path: str | Path) -> list[Path]:
    place = Path(path).expanduser()
    if not place.is_dir():
        return [place]
    # Names with a dot in front are no pictures: macOS leaves "._a.jpg" beside "a.jpg".
    found = sorted(f for f in place.iterdir() if f.suffix.lower() in SUFFIXES and not f.name.startswith("."))
    if not found:
        raise ValueError(f"no pictures in the folder '{path}': it needs files named *{', *'.join(SUFFIXES)}")
    return found

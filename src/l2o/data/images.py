"""Pictures: read, reduced, cropped; a folder of them, split by a seed.

Shapes: a picture is uint8 (3, H, W).
"""

from collections.abc import Sequence
from importlib import resources
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Generator, Tensor

SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")


def read(path: str | Path, shorter_side: int | None = None) -> Tensor:
    """A picture file as uint8 (3, H, W), its shorter side reduced to `shorter_side`; a smaller one stays as it is.

    Raises ValueError for a file that is none.
    """
    if not Path(path).is_file():
        raise ValueError(f"no picture at '{path}'")
    try:
        with Image.open(path) as file:
            picture = file.convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"'{path}' is no intact picture: remove it, or save it anew as PNG or JPEG") from error
    shorter = min(picture.size)
    if shorter_side is not None and shorter_side < shorter:
        width, height = (round(side * shorter_side / shorter) for side in picture.size)
        picture = picture.resize((width, height), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1).contiguous()


def read_all(paths: str | Sequence[str], shorter_side: int | None = None) -> dict[str, Tensor]:
    """Pictures by file name, in order: of a folder, of one file, or of a list of either."""
    files = [file for path in ([paths] if isinstance(paths, str) else paths) for file in _files(path)]
    if not files:
        raise ValueError("no pictures: give a file, a folder, or a list of them")
    return {str(file): read(file, shorter_side) for file in files}


def sample_photograph(name: str) -> str:
    """One of the two that ship with scikit-learn, 640 × 427 each: china.jpg, a temple, or flower.jpg."""
    return str(resources.files("sklearn.datasets.images") / name)


def save(picture: Tensor, path: str | Path) -> None:
    """Write floats (3, H, W) in [0, 1] as a PNG."""
    pixels = (picture.clamp(0, 1) * 255).round().byte().permute(1, 2, 0)
    Image.fromarray(pixels.cpu().numpy()).save(path)


def crop(picture: Tensor, height: int, width: int, generator: Generator) -> Tensor:
    """A random part: (3, H, W) -> (3, height, width)."""
    draw = lambda room: int(torch.randint(room + 1, (), generator=generator, device=generator.device))  # noqa: E731
    top, left = draw(picture.shape[1] - height), draw(picture.shape[2] - width)
    return picture[:, top : top + height, left : left + width]


def split(count: int, validation: float, test: float, seed: int) -> dict[str, list[int]]:
    """The numbers 0 … count − 1 in three disjoint parts, shuffled by a seed; sizes are counts, or fractions below 1.

    A single picture serves all three: its crops differ.
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


def _files(path: str) -> list[Path]:
    place = Path(path).expanduser()
    if not place.is_dir():
        return [place]
    found = sorted(file for file in place.iterdir() if file.suffix.lower() in SUFFIXES)
    if not found:
        raise ValueError(f"no pictures in the folder '{path}': it needs files named *{', *'.join(SUFFIXES)}")
    return found

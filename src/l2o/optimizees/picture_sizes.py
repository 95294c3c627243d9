"""The size of the crops of neural art.

Shapes: a picture is (3, H, W).
"""

from collections.abc import Sequence

from torch import Tensor


def crop_size(size: int | Sequence[int] | None, contents: dict[str, Tensor]) -> tuple[int, int]:
    """Return the height and width of the crop: `size`, or that of the contents (3, H, W) where it is None.

    Raises ValueError for a content that is smaller than the crop, and for None where the contents differ in size.
    """
    if size is None:
        sizes = {(picture.shape[1], picture.shape[2]) for picture in contents.values()}
        if len(sizes) > 1:
            raise ValueError(f"the contents are of {len(sizes)} different sizes: set optimizee.size to crop them")
        return sizes.pop()
    height, width = _two_sides(size)
    for name, picture in contents.items():
        if picture.shape[1] < height or picture.shape[2] < width:
            raise ValueError(
                f"the content {sized(name, picture)} is smaller than the crop of {height}×{width}: "
                "lower optimizee.size, raise optimizee.content_side, or remove the picture"
            )
    return height, width


def _two_sides(size: int | Sequence[int]) -> tuple[int, int]:
    sides = [size, size] if isinstance(size, int) else list(size)
    if len(sides) != 2 or not all(isinstance(side, int) and side > 0 for side in sides):
        raise ValueError(f"optimizee.size must be a positive number, [height, width] or null, got {size}")
    return sides[0], sides[1]


def sized(name: str, picture: Tensor) -> str:
    """Return the name and the size of a picture (3, H, W), for messages."""
    return f"'{name}' of {picture.shape[1]}×{picture.shape[2]}"

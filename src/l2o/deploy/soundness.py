"""Whether what a file says of a rule can be true, before memory is taken for it: its sizes and its weights."""

import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

SIZES = re.compile(r"size|layers|units|cells|heads|features|num_")
"""What the arguments are called that say how large a rule is."""

SMALL = 1000
"""A size up to this one is no danger, however few weights a file holds."""


def refuse_sizes(description: Any, weights: Any, build: Callable[[Any], Any]) -> None:
    """Raise ValueError where a description is of a rule that has more weights than the file holds.

    First no size may exceed the number of all weights, because even to count the layers of a foreign file may take
    forever. Then the rule is built without memory, on the meta device. A rule that cannot be built so is left alone.
    """
    if not isinstance(weights, Mapping) or not all(isinstance(value, Tensor) for value in weights.values()):
        return  # whoever takes up the weights says what is wrong with them
    held = sum(value.numel() for value in weights.values())
    for name, size in _sizes(description):
        if size > max(held, SMALL):
            raise ValueError(f"its config says {name}={size}, but the file holds {held} numbers in all")
    try:
        with torch.device("meta"):
            wanted = sum(value.numel() for value in build(description).state_dict().values())
    except ValueError:
        raise
    except Exception:
        return
    if wanted > max(held, SMALL):
        raise ValueError(f"its config describes a rule of {wanted} numbers, but the file holds {held} in all")


def refuse_not_finite(weights: Mapping[str, Any]) -> None:
    """Raise ValueError for weights that are nan or infinite, which would make every update so, too."""
    for name, value in weights.items():
        if isinstance(value, Tensor) and value.is_floating_point() and not value.isfinite().all():
            raise ValueError(f"'{name}' holds numbers that are nan or infinite")


def _sizes(value: Any, name: str = "") -> list[tuple[str, int]]:
    """Return every whole number in a description that is called like a size."""
    if isinstance(value, dict):
        return [found for key, item in value.items() for found in _sizes(item, str(key))]
    if isinstance(value, list):
        return [found for item in value for found in _sizes(item, name)]
    is_size = isinstance(value, int | float) and not isinstance(value, bool) and SIZES.search(name)
    return [(name, int(value))] if is_size and abs(value) < float("inf") else []

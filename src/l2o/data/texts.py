"""A text as numbers, for models that predict the next character.

Shapes: L bytes of a text.
"""

from pathlib import Path
from typing import NamedTuple, Self

import torch
from torch import Tensor

SONNETS = Path(__file__).parent / "sonnets.txt"
"""Sonnets by William Shakespeare (1609, in modern spelling), which are in the public domain."""

LETTERS = 256
"""A text is read as bytes, so that every file and every language has the same 256 letters."""

SHORTEST = 1000


class Text(NamedTuple):
    """Hold a text's bytes: the part to train on (L,) and the rest (L',), int64 from 0 to 255."""

    train: Tensor
    test: Tensor

    def to(self, device: torch.device | str) -> Self:
        return self._replace(train=self.train.to(device), test=self.test.to(device))


def text(path: str | None = None, test_fraction: float = 0.1) -> Text:
    """Read a text file of any encoding, as bytes; by default some of Shakespeare's sonnets, which the package has.

    The last `test_fraction` of the text is its test split. Raises ValueError for a file that is missing or holds fewer
    than a thousand bytes, and for a fraction that is none.
    """
    if not 0 < test_fraction < 1:
        raise ValueError(f"test_fraction must lie between 0 and 1, got {test_fraction}")
    place = SONNETS if path is None else Path(str(path)).expanduser()
    if not place.is_file():
        what = ", which is a folder" if place.is_dir() else ""
        raise ValueError(f"no text at '{path}'{what}: give a text file, or null for the sonnets of the package")
    read = place.read_bytes()
    if len(read) < SHORTEST:
        raise ValueError(f"'{path}' holds {len(read)} bytes: a text to learn from needs at least {SHORTEST}")
    letters = torch.frombuffer(bytearray(read), dtype=torch.uint8).long()
    split = round(len(letters) * (1 - test_fraction))
    return Text(letters[:split], letters[split:])

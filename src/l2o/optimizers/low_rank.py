"""A matrix per task as the identity plus outer products, M = I + Σ a bᵀ, kept as its factors.

Shapes: B tasks, P coordinates, W products written at once, R vectors read at once, C products of a block.

The factors are a `State` of blocks `left_0`, `right_0`, `left_1`, … each (B, P, C). Only the last one is copied as it
grows, and where a graph is recorded only those written in it carry gradients: the others are constants.
"""

import torch
from torch import Tensor

from l2o.optimizers.base import State

BLOCK = 32
"""A block is full when it has so many products."""


def times(matrix: State, vectors: Tensor) -> Tensor:
    """Give M r for every r of `vectors` (B, P, R), without ever forming M."""
    result = vectors
    for left, right in _blocks(matrix):
        result = result + left @ (right.mT @ vectors)
    return result


def plus(matrix: State, left: Tensor, right: Tensor, at_most: int | None = None) -> State:
    """Add Σ a bᵀ over the W columns a, b of left and right (B, P, W); only the latest `at_most` products are kept."""
    blocks = _blocks(matrix)
    if blocks and blocks[-1][0].shape[-1] + left.shape[-1] <= BLOCK:
        last = blocks.pop()
        left, right = torch.cat((last[0], left), -1), torch.cat((last[1], right), -1)
    blocks.append((left, right))
    surplus = sum(left.shape[-1] for left, _ in blocks) - at_most if at_most is not None else 0
    while surplus > 0:
        first = blocks.pop(0)
        size = first[0].shape[-1]
        if size > surplus:
            blocks.insert(0, (first[0][..., surplus:].contiguous(), first[1][..., surplus:].contiguous()))
        surplus -= size
    return {f"{side}_{n}": part for n, block in enumerate(blocks) for side, part in zip(SIDES, block, strict=True)}


SIDES = ("left", "right")


def _blocks(matrix: State) -> list[tuple[Tensor, Tensor]]:
    """Yield the blocks in order, and pass over other entries of a state."""
    count = sum(name.startswith("left_") for name in matrix)
    return [(matrix[f"left_{n}"], matrix[f"right_{n}"]) for n in range(count)]

"""M = I + Σ a bᵀ as factors, against the dense matrix.

Shapes: B tasks, P coordinates, W products written at once, R vectors.
"""

import pytest
import torch
from torch.testing import assert_close

from l2o.optimizers import low_rank

B, P = 2, 6

pytestmark = pytest.mark.usefixtures("float64")


@pytest.mark.parametrize("at_most", [None, 1, 5, 12, 100])
@pytest.mark.parametrize("width", [1, 3, 40])
def test_equals_the_dense_matrix(width, at_most):
    if at_most is not None:
        at_most *= width
    matrix, written = {}, []
    for _ in range(60):
        left, right, vectors = torch.randn(B, P, width), torch.randn(B, P, width), torch.randn(B, P, 2)
        matrix = low_rank.plus(matrix, left, right, at_most)
        written.append(left @ right.mT)
        kept = written if at_most is None else written[-at_most // width :]
        dense = torch.eye(P) + sum(kept)
        assert_close(low_rank.times(matrix, vectors), dense @ vectors, rtol=1e-12, atol=1e-11)


def test_starts_as_the_identity():
    vectors = torch.randn(B, P, 3)
    assert low_rank.times({}, vectors) is vectors


def test_what_was_written_is_not_changed():
    """States are shared between steps: adding to one leaves it as it is."""
    matrix, factors = {}, torch.randn(B, P, 3)
    for _ in range(25):
        before = {name: part.clone() for name, part in matrix.items()}
        after = low_rank.plus(matrix, factors, factors, at_most=60)
        assert all(torch.equal(matrix[name], part) for name, part in before.items())
        matrix = after


def test_full_blocks_are_neither_copied_nor_differentiated():
    matrix = {}
    for _ in range(30):
        matrix = low_rank.plus(matrix, torch.randn(B, P, 3), torch.randn(B, P, 3))
    sizes = [matrix[f"left_{n}"].shape[-1] for n in range(3)]
    assert sizes == [30, 30, 30]
    after = low_rank.plus(matrix, torch.randn(B, P, 3, requires_grad=True), torch.randn(B, P, 3))
    assert all(after[name] is part for name, part in matrix.items())
    assert [name for name, part in after.items() if part.requires_grad] == ["left_3"]

"""Whether a function has left alone the tensors that it was given."""

from collections.abc import Mapping

from torch import Tensor


def cloned(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return copies, which share no memory with what they were made of."""
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


def changed(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> str | None:
    """Return the name of the first tensor that is another one than before or has other values; None where none is."""
    return next((name for name, tensor in before.items() if name not in after or not _same(tensor, after[name])), None)


def _same(a: Tensor, b: Tensor) -> bool:
    """Return whether two tensors hold the same; nan is the same as nan."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    unequal = a != b.detach()
    return not bool((unequal & ((a == a) | (b == b))).any())  # nan alone is not equal to itself

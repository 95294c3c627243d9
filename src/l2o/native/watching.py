"""Whether torch has to see every operation on some tensors: a compiled kernel reads their bare memory."""

from collections.abc import Sequence

import torch
from torch import Tensor

is_transformed = torch._C._functorch.is_functorch_wrapped_tensor  # type: ignore[reportAttributeAccessIssue]
"""Whether a transformation of `torch.func`, as vmap, stands behind a tensor. torch has no public name for it."""


def is_watched(tensors: Sequence[Tensor]) -> bool:
    """Say whether autograd records what is done with some of the tensors, or a transformation stands behind one."""
    recorded = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
    return recorded or any(map(is_transformed, tensors))

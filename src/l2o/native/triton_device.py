"""What the modules with Triton kernels share: whether a GPU can run them, and how they are launched.

This module can be imported without Triton.
"""

import functools
import importlib.util
import logging
import os
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

logger = logging.getLogger(__name__)

# tf32 would be off by 1e-3. "tf32x3", three tensor core products for each, loses little and issues fewer instructions,
# but its accuracy and speed have not been measured on a GPU.
PRECISION = "ieee"
CAPABILITY = (8, 0)  # of CUDA devices that Triton supports
OPTIONS = {"num_warps": 4, "num_stages": 1, "enable_fp_fusion": True}  # of kernels that are shared out by tables


def offered(device: torch.device) -> bool:
    """Whether kernels may be tried on this device: a GPU, unless the environment says `L2O_KERNEL=0`."""
    return device.type == "cuda" and os.environ.get("L2O_KERNEL") != "0"


def padded(size: int) -> int:
    """Give the size of a tile that holds so many numbers: a power of two, at least what `tl.dot` demands."""
    return max(_smallest_tile(), 1 << (size - 1).bit_length())


@functools.cache
def _smallest_tile() -> int:
    """Give how many numbers `tl.dot` must add up at least."""
    if importlib.util.find_spec("triton") is None:
        return 8
    import triton  # whatever the name is under which it was installed

    return 16 if tuple(map(int, triton.__version__.split(".")[:2])) < (3, 8) else 8


def on(device: torch.device) -> torch.cuda.device:
    """Give a context in which Triton launches on this device: it takes the current one, which need not be it."""
    return torch.cuda.device(device if device.type == "cuda" else -1)


def launch(kernel: Any, table: Tensor, tasks: int, *arguments: Any) -> None:
    """Run a kernel with a program for every row of a table and every task."""
    if programs := len(table) * tasks:
        kernel[(programs,)](table, *arguments, **OPTIONS)


def works(device: torch.device, name: str, attempt: Callable[[], Tensor]) -> bool:
    """Compile and run a tiny attempt, whose result must be finite.

    False after a warning that names the kernel where that fails (no Triton, no C compiler, an old GPU).
    """
    try:
        if importlib.util.find_spec("triton") is None or torch.version.cuda is None:
            raise RuntimeError("it needs Triton and CUDA")
        if torch.cuda.get_device_capability(device) < CAPABILITY:
            raise RuntimeError(f"it needs a GPU of compute capability {CAPABILITY[0]}.{CAPABILITY[1]}")
        return bool(attempt().isfinite().all())
    except Exception as error:  # Triton raises many kinds
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        if (name, device, reason) not in _said:  # a kernel is tried for one size after another
            _said.add((name, device, reason))
            logger.warning("%s is not available on %s: %s", name, device, reason)
        return False


_said: set[tuple[str, torch.device, str]] = set()

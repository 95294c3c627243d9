"""What the modules with Triton kernels share: whether a GPU can run them, and how they are launched.

This module can be imported without Triton.
"""

import importlib.util
import logging
import os
from collections.abc import Callable

import torch

logger = logging.getLogger(__name__)

# tf32 would be off by 1e-3. "tf32x3", three tensor core products for each, loses little and issues fewer instructions,
# but its accuracy and speed have not been measured on a GPU.
PRECISION = "ieee"
CAPABILITY = (8, 0)  # of CUDA devices that Triton supports


def offered(device: torch.device) -> bool:
    """Whether kernels may be tried on this device: a GPU, unless the environment says `L2O_KERNEL=0`."""
    return device.type == "cuda" and os.environ.get("L2O_KERNEL") != "0"


def padded(size: int) -> int:
    """Give the size of a tile that holds so many numbers: a power of two, at least 8 as `tl.dot` demands."""
    return max(8, 1 << (size - 1).bit_length())


def on(device: torch.device) -> torch.cuda.device:
    """Give a context in which Triton launches on this device: it takes the current one, which need not be it."""
    return torch.cuda.device(device if device.type == "cuda" else -1)


def works(device: torch.device, name: str, attempt: Callable[[], torch.Tensor]) -> bool:
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
        logger.warning("%s is not available on %s: %s", name, device, reason)
        return False

"""Newton-Schulz's iteration in C++, compiled on first use: `newton_schulz.cpp`.

On small matrices calls of torch take longer than their arithmetic, and on matrices that are twice as long as wide the
kernel needs half of the products. Large square ones are left to torch.

CPU, float32 and float64; nothing here is recorded by autograd. The bits of a result do not depend on the number of
threads. Without a compiler `serves` is False, as it is with the environment variable `L2O_KERNEL=0`.

Shapes: B tasks, P coordinates.
"""

import ctypes
import functools
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from l2o.native.libraries import library
from l2o.native.watching import is_watched

SOURCE = Path(__file__).with_name("newton_schulz.cpp")
LARGEST_WORK = 2**28  # multiply-adds of an iteration, up to which this is as fast as torch, or faster
APART = 2**22  # multiply-adds of a matrix whose rows are worth sharing out among threads
WORK_PER_THREAD = 2**18  # what takes longer than to wake a thread

Matrix = tuple[int, int, int]
"""Where a matrix begins in a row of coordinates, its rows, and its columns."""


def serves(update: Tensor) -> bool:
    """Say whether the kernel takes a tensor of this device and dtype. It never raises."""
    fits = update.device.type == "cpu" and update.dtype in (torch.float32, torch.float64)
    return fits and not is_watched((update,)) and _library() is not None


def is_served(rows: int, columns: int) -> bool:
    """Say whether the kernel is as fast as torch on matrices of this size, or faster."""
    return _work(rows, columns) <= LARGEST_WORK


def orthogonalise_(
    update: Tensor, matrices: tuple[Matrix, ...], coefficients: Sequence[float], iterations: int
) -> None:
    """Overwrite some matrices of an update (B, P), which is contiguous. Raises MemoryError where the memory runs out.

    See `l2o.optimizers.newton_schulz.orthogonalised`.
    """
    tasks, size = update.shape
    work = [_work(rows, columns) * iterations for _, rows, columns in matrices]
    threads = torch.get_num_threads() if sum(work) * tasks >= 2 * WORK_PER_THREAD else 1
    apart = max(work) >= APART and len(matrices) * tasks < 2 * threads
    function = getattr(_library(), f"l2o_orthogonalise_{'float32' if update.dtype == torch.float32 else 'float64'}")
    numbers = (*map(ctypes.c_int64, (tasks, size, len(matrices))), _table(matrices), ctypes.c_int64(iterations))
    team = ctypes.c_int64(threads), ctypes.c_int64(apart)
    if function(*numbers, _constants(tuple(coefficients)), *team, ctypes.c_void_p(update.data_ptr())):
        raise MemoryError("the compiled kernel of Newton-Schulz's iteration ran out of memory")


def _work(rows: int, columns: int) -> int:
    """Return the multiply-adds of an iteration: of X Xᵀ, of its square, and of their sum times X."""
    short, long = sorted((rows, columns))
    return short * short * (2 * long + short)


@functools.lru_cache(maxsize=64)
def _table(matrices: tuple[Matrix, ...]) -> ctypes.Array[ctypes.c_int64]:
    return (ctypes.c_int64 * (3 * len(matrices)))(*[number for matrix in matrices for number in matrix])


@functools.lru_cache(maxsize=64)
def _constants(coefficients: tuple[float, ...]) -> ctypes.Array[ctypes.c_double]:
    return (ctypes.c_double * len(coefficients))(*coefficients)


def _library() -> ctypes.CDLL | None:
    return library(SOURCE, "the compiled kernel of Newton-Schulz's iteration")

"""The libraries of this process, each compiled and loaded when it is first asked for.

The environment variable `L2O_KERNEL=0` turns all of them off. A machine without a C++ compiler goes without them, after
one warning for each.
"""

import ctypes
import functools
import logging
import os
from pathlib import Path

from l2o.native import compilation

logger = logging.getLogger(__name__)

IMPORTED_BY = os.getpid()  # torch's threads, if they run already, are this process's


def library(source: Path, what: str) -> ctypes.CDLL | None:
    """Give the library of a C++ source, or None where there is none or libraries are turned off. It never raises.

    `what` names the library in the warning that is logged, once, where it cannot be compiled or loaded.
    """
    return None if os.environ.get("L2O_KERNEL") == "0" else loaded(source, what)


@functools.cache
def loaded(source: Path, what: str) -> ctypes.CDLL | None:
    """Give the library of a C++ source, or None after a warning."""
    try:
        found = compilation.load(source)
        ctypes.c_int64.in_dll(found, "l2o_pool_owner").value = IMPORTED_BY
        return found
    except (compilation.CompilerError, OSError, ImportError, ValueError) as error:
        logger.warning("%s is not available: %s", what, str(error).partition("\n")[0])
        return None

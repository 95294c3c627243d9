"""What a user sees when something is wrong with what they gave: one line and a non-zero exit."""

import functools
import os
import sys
from collections.abc import Callable, Iterator
from typing import ParamSpec, TypeVar

from hydra.errors import HydraException, InstantiationException
from lightning_fabric.utilities.exceptions import MisconfigurationException
from omegaconf.errors import OmegaConfBaseException

from l2o.training.safeguards import Diverged

EXPECTED = (ValueError, OSError, Diverged, HydraException, OmegaConfBaseException, MisconfigurationException)
"""Errors whose message alone tells a user what to do. Everything else is a bug and keeps its traceback."""


P = ParamSpec("P")
R = TypeVar("R")


def in_one_line(main: Callable[P, R]) -> Callable[P, R]:
    """Turn an expected error of `main` into one line on stderr and exit status 1; L2O_TRACEBACK=1 shows its source."""

    @functools.wraps(main)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
        os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # hydra hands the error over instead of printing it
        try:
            return main(*args, **kwargs)
        except Exception as error:
            cause = next((e for e in _causes(error) if not isinstance(e, InstantiationException)), error)
            if not isinstance(cause, EXPECTED) or os.environ.get("L2O_TRACEBACK") == "1":
                raise
            message = "; ".join(line.strip() for line in str(cause).splitlines() if line.strip())
            sys.exit(f"error: {message}")

    return guarded


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """From an error to what it was raised from, as far as hydra's own wrapping goes."""
    while error is not None:
        yield error
        error = error.__cause__

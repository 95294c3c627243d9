"""The generators that belong to the whole process: torch's, numpy's and Python's."""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def restored() -> Iterator[Callable[[], str]]:
    """Put the global generators back after the block. What is given tells whose generator has moved until now."""
    states = {"torch": torch.get_rng_state(), "numpy": np.random.get_state(), "Python": random.getstate()}  # noqa: NPY002
    on_gpus = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []

    def moved() -> str:
        same = {
            "torch": torch.equal(torch.get_rng_state(), states["torch"])
            and all(map(torch.equal, torch.cuda.get_rng_state_all() if on_gpus else [], on_gpus)),
            "numpy": str(np.random.get_state()) == str(states["numpy"]),  # noqa: NPY002
            "Python": random.getstate() == states["Python"],
        }
        return ", ".join(name for name, equal in same.items() if not equal)

    try:
        yield moved
    finally:
        torch.set_rng_state(states["torch"])
        np.random.set_state(states["numpy"])  # noqa: NPY002
        random.setstate(states["Python"])
        if on_gpus:
            torch.cuda.set_rng_state_all(on_gpus)

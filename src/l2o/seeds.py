"""Random streams as functions of what they are for: the run's seed, the purpose, the rank, a counter."""

from enum import IntEnum

import numpy as np
import torch
from torch import Generator


class Stream(IntEnum):
    """Name what a stream of random numbers is for. No two purposes share problems."""

    TRAINING = 0
    VALIDATION = 1
    TUNING = 2
    EVALUATION = 3
    SCOREBOARD = 4
    FAMILIES = 5


def seed_of(*key: int) -> int:
    """Return a well-mixed seed of 63 bits for a key of non-negative integers below 2³²."""
    # SeedSequence fills a key up with zeros. Without the length in front, (1,) and (1, 0) would give the same seed.
    return int(np.random.SeedSequence([len(key), *key]).generate_state(1, np.uint64)[0] >> 1)


def generator(*key: int, device: torch.device | str = "cpu") -> Generator:
    """Return a new generator on `device` whose stream depends on the key alone."""
    return Generator(device).manual_seed(seed_of(*key))

"""Random streams as functions of what they are for: the run's seed, the purpose, the rank, a counter."""

from enum import IntEnum

import numpy as np
import torch
from torch import Generator


class Stream(IntEnum):
    """What a stream is for: no two purposes share problems."""

    TRAINING = 0
    VALIDATION = 1
    TUNING = 2
    EVALUATION = 3


def seed_of(*key: int) -> int:
    """A well-mixed 63-bit seed for a key of non-negative integers below 2³²."""
    # SeedSequence fills up with zeros: without its length, a key would be equal to itself and a 0.
    return int(np.random.SeedSequence([len(key), *key]).generate_state(1, np.uint64)[0] >> 1)


def generator(*key: int, device: torch.device | str = "cpu") -> Generator:
    """A new generator on `device` whose stream depends on the key alone."""
    return Generator(device).manual_seed(seed_of(*key))

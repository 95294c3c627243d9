"""Checks of what a user gives, each a ValueError that names the key."""

import re
from collections.abc import Sequence


def at_least_one(group: str, **sizes: int) -> None:
    """Every size must be a positive whole number; `group` is the configuration group that holds the keys."""
    for name, value in sizes.items():
        if isinstance(value, bool) or not hasattr(value, "__index__"):
            raise ValueError(f"{group}.{name} must be a whole number, got {value!r}")
        if value < 1:
            raise ValueError(f"{group}.{name} must be at least 1, got {value}")


def below_one(rule: str, **decays: float | Sequence[float]) -> None:
    """Every decay β of a running mean, and of a list each, must lie in [0, 1)."""
    for name, value in decays.items():
        if not all(0 <= decay < 1 for decay in (value if isinstance(value, Sequence) else [value])):
            raise ValueError(f"{rule}: {name} must lie in [0, 1), got {value}")


def expression(rule: str, **patterns: str | None) -> None:
    """Every pattern must be a regular expression, or None."""
    for name, pattern in patterns.items():
        if not (pattern is None or isinstance(pattern, str)):
            raise ValueError(f"{rule}: {name} must be a regular expression, as a string, or None, got {pattern!r}")
        try:
            re.compile(pattern or "")
        except re.error as error:
            raise ValueError(f"{rule}: {name} is no regular expression: {pattern!r}, {error}") from error


def true_or_false(rule: str, **switches: bool) -> None:
    """Every switch must be true or false; a word in quotation marks is neither, and would count as true."""
    for name, switch in switches.items():
        if not isinstance(switch, bool):
            raise ValueError(f"{rule}: {name} must be true or false, got {switch!r}")


def valid_seed(seed: object) -> int:
    """A run's seed: an integer from 0 to 2³² − 1."""
    if not isinstance(seed, int) or not 0 <= seed < 2**32:
        raise ValueError(f"seed must be an integer from 0 to 2³² − 1, got {seed!r}")
    return seed

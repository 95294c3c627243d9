"""Checks of what a user gives, each a ValueError that names the key."""


def at_least_one(group: str, **sizes: int) -> None:
    """Every size must be a positive number; `group` is the configuration group that holds the keys."""
    for name, value in sizes.items():
        if value < 1:
            raise ValueError(f"{group}.{name} must be at least 1, got {value}")


def valid_seed(seed: object) -> int:
    """A run's seed: an integer from 0 to 2³² − 1."""
    if not isinstance(seed, int) or not 0 <= seed < 2**32:
        raise ValueError(f"seed must be an integer from 0 to 2³² − 1, got {seed!r}")
    return seed

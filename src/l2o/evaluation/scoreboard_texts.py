"""Numbers of a scoreboard as text."""

import math


def shown(value: float) -> str:
    """Return a number with three digits, and ∞ for one that is not finite."""
    return f"{value:.3g}" if math.isfinite(value) else "∞"


def briefly(value: float) -> str:
    """Return the same, with one digit from a thousand on: 2e+07, so that a row still fits into 80 columns."""
    return f"{value:.0e}" if 1000 <= value < math.inf else shown(value)


def with_error(value: float, error: float | None) -> str:
    """Return a number with its standard error, where there is one."""
    return shown(value) if error is None else f"{shown(value)} ± {error:.1g}"


def counted(count: int, what: str) -> str:
    """Return a count with its noun: 1 task, 2 tasks."""
    return f"{count} {what}" if count == 1 else f"{count} {what}s"

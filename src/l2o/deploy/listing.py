"""The trained rules in the package, as a table."""

from collections.abc import Sequence
from typing import NamedTuple

from l2o.optimizers.base import UpdateRule
from l2o.optimizers.card import UNKNOWN, horizon_of, initialisation_of, task_of


class Shipped(NamedTuple):
    """Names a rule in the package: its class, what it was trained on, from which start, and for how many steps."""

    name: str
    rule: str
    trained_on: str
    initialisation: str
    horizon: str


HEADINGS = Shipped("name", "rule", "trained on", "θ_0", "horizon (steps)")


def table(rows: Sequence[Shipped]) -> str:
    """Return the rows under their headings, in columns."""
    lines = [HEADINGS, *rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)


def described(name: str, rule: UpdateRule) -> Shipped:
    """Return what a rule's card says of it."""
    horizon = horizon_of(rule.card)
    return Shipped(
        name,
        rule.label,
        task_of(rule.card),
        initialisation_of(rule.card),
        UNKNOWN if horizon is None else str(horizon),
    )

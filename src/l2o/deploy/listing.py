"""The trained rules in the package, as a table."""

from collections.abc import Sequence
from typing import NamedTuple

from l2o.deploy import hub
from l2o.optimizers.card import UNKNOWN, horizon_of, initialisation_of, task_of


class Shipped(NamedTuple):
    """Names a rule in the package: its class, what it was trained on, from which start, and for how many steps."""

    name: str
    rule: str
    trained_on: str
    initialisation: str
    horizon: str


HEADINGS = Shipped("name", "rule", "trained on", "θ_0", "horizon (steps)")


def shipped(names: Sequence[str] | None = None) -> list[Shipped]:
    """Return what is known of the rules of these names, by default of all that the package holds."""
    return [_shipped(name) for name in (hub.list_pretrained() if names is None else names)]


def table(rows: Sequence[Shipped]) -> str:
    """Return the rows under their headings, in columns."""
    lines = [HEADINGS, *rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)


def _shipped(name: str) -> Shipped:
    rule = hub.from_pretrained(hub.PRETRAINED / name)
    horizon = horizon_of(rule.card)
    return Shipped(
        name,
        rule.label,
        task_of(rule.card),
        initialisation_of(rule.card),
        UNKNOWN if horizon is None else str(horizon),
    )

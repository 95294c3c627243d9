"""The trained rules in the package, as a table."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from l2o.deploy import hub


class Shipped(NamedTuple):
    """A rule in the package: its name, its class, what it was trained on, and for how many steps."""

    name: str
    rule: str
    trained_on: str
    horizon: str


def shipped() -> list[Shipped]:
    """Return what the package holds, by name."""
    found = []
    for name in hub.list_pretrained():
        rule = hub.from_pretrained(hub.PRETRAINED / name)
        card = rule.card or {}
        found.append(Shipped(name, rule.label, trained_on(card.get("optimizee")), str(card.get("horizon", "–"))))
    return found


def trained_on(optimizee: Any) -> str:
    """Return a card's optimizee in a few words: its class, with its data and network where it has some."""
    if not isinstance(optimizee, Mapping):
        return "–" if optimizee is None else str(optimizee)
    parts = [_called(optimizee)]
    if isinstance(network := optimizee.get("network"), Mapping):
        parts.append(_called(network) + _sizes(network))
    elif network:
        parts.append(str(network))
    if isinstance(dataset := optimizee.get("dataset"), Mapping):
        labels = dataset.get("labels")
        which = f", classes {', '.join(map(str, labels))}" if isinstance(labels, Sequence) else ""
        parts.append(f"{dataset.get('path') or _called(dataset)}{which}")
    if "dim" in optimizee:
        parts.append(f"{optimizee['dim']} coordinates")
    return ": ".join([parts[0], ", ".join(parts[1:])]) if parts[1:] else parts[0]


def table(rows: Sequence[Shipped]) -> str:
    """Return the rows under their headings, in columns."""
    lines = [Shipped("name", "rule", "trained on", "horizon (steps)"), *rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)


def _called(config: Mapping[str, Any]) -> str:
    return str(config.get("_target_", "?")).rpartition(".")[2]


def _sizes(network: Mapping[str, Any]) -> str:
    """The hidden layers of a network, convolutions first."""
    sizes = [*network.get("channels", []), *network.get("hidden", [])]
    return f" {'–'.join(map(str, sizes))}" if sizes else ""

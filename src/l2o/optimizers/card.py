"""What the card of a trained rule says in a few words: its name, its task, its horizon and its initialisation.

A card is what `MODEL/config.json` keeps beside the rule (`l2o.deploy.model_card`): plain JSON, and everything in it is
optional. `train.py` writes the optimizee's configuration and the horizon into it; an author may write `task` and
`initialisation` as text, which then count.
"""

from collections.abc import Mapping, Sequence
from typing import Any

UNKNOWN = "–"
"""Stands in tables for what a card does not say."""

Card = Mapping[str, Any]


def task_of(card: Card | None) -> str:
    """Return what a rule was trained on, in a few words."""
    card = card or {}
    return str(card["task"]) if card.get("task") else trained_on(card.get("optimizee"))


def horizon_of(card: Card | None) -> int | None:
    """Return the largest number of steps that a rule was trained for; None where the card does not say it."""
    return max(_integers((card or {}).get("horizon")), default=None)


def initialisation_of(card: Card | None) -> str:
    """Return where the training's problems started: the distribution of θ_0, in a few words."""
    card = card or {}
    if card.get("initialisation"):
        return str(card["initialisation"])
    optimizee = card.get("optimizee")
    if not isinstance(optimizee, Mapping) or "init_std" not in optimizee:
        return UNKNOWN
    noise = f"N(0, {optimizee['init_std']}²)"
    return f"the content + {noise}" if optimizee.get("init_content") else noise


def in_words(card: Card | None) -> str:
    """Return all of it in one line, for the `repr` of a rule; empty for a rule without a card."""
    if not card:
        return ""
    parts = [f"name: {card['name']}"] if card.get("name") else []
    known = {"trained on": task_of(card), "horizon": horizon_of(card), "θ_0": initialisation_of(card)}
    parts += [f"{what}: {value}" for what, value in known.items() if value not in (None, UNKNOWN)]
    return "; ".join(parts)


def trained_on(optimizee: Any) -> str:
    """Return a card's optimizee in a few words: its class, with its data and network, or the names of its families."""
    if not isinstance(optimizee, Mapping):
        return UNKNOWN if optimizee is None else str(optimizee)
    if isinstance(families := optimizee.get("families"), Mapping):
        return f"families {', '.join(map(str, families))}"
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


def _called(config: Mapping[str, Any]) -> str:
    return str(config.get("_target_", "?")).rpartition(".")[2]


def _sizes(network: Mapping[str, Any]) -> str:
    """Return the sizes of a network's hidden layers, convolutions first."""
    sizes = [*network.get("channels", []), *network.get("hidden", [])]
    return f" {'–'.join(map(str, sizes))}" if sizes else ""


def _integers(value: Any) -> list[int]:
    """Return the positive whole numbers in a card's entry: a number, or a list or table of several."""
    if isinstance(value, bool):
        return []
    if isinstance(value, int | float):
        return [int(value)] if value >= 1 and value == value // 1 else []
    parts = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
    return [number for part in parts for number in _integers(part)]

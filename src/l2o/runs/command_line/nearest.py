"""The known name that a misspelt one most likely means."""

from collections.abc import Iterable
from difflib import SequenceMatcher

ALIKE = 0.6
"""How similar two names must be, from 0 to 1, before one is proposed for the other."""


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known dotted name that is most like `name`, or None where nothing is like it.

    A key may also be found by its last part alone: `lr` and `learner.lr` mean `learner.meta_optimizer.lr`.
    """
    scores = {candidate: _likeness(name, candidate) for candidate in known if candidate != name}
    best = max(scores, key=lambda candidate: (scores[candidate], -len(candidate)), default=None)
    return best if best is not None and scores[best] >= ALIKE else None


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A question with the nearest known name, to be appended to a message; empty where nothing is like it."""
    found = nearest(name, known)
    return f": did you mean {found}?" if found else ""


def certain(name: str, candidate: str) -> bool:
    """Whether one name can hardly be anything else than a misspelling of the other, in the same place."""
    (place, _, leaf), (other_place, _, other_leaf) = name.rpartition("."), candidate.rpartition(".")
    return place == other_place and _ratio(leaf, other_leaf) >= 0.85


def _likeness(name: str, candidate: str) -> float:
    (place, _, leaf), (other_place, _, other_leaf) = name.rpartition("."), candidate.lstrip("+").rpartition(".")
    leaves = _ratio(leaf, other_leaf)
    if place == other_place or leaves < 0.75:
        return leaves if place == other_place else 0.0
    return 0.7 * leaves + 0.3 * (_ratio(place, other_place) if place else 0.5)


def _ratio(one: str, other: str) -> float:
    return SequenceMatcher(None, one.lower(), other.lower()).ratio()

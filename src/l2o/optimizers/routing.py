"""Which group of a partitioned rule serves a parameter: decided by its name, else by its kind."""

import re
from collections.abc import Iterator, Sequence

Patterns = Sequence[tuple[str, str]]
"""(group, regular expression of the names that belong to it), in the rule's order."""

CONVOLUTION, OTHER = "conv_1.weight", "linear_1.weight"
"""What this project's own networks call a kernel and a matrix: which groups serve these tells the groups' kinds."""


def group_of(part: str, num_axes: int, patterns: Patterns, called_by_kind: bool = False) -> str:
    """Return the one group that serves the part of this name and number of axes.

    The group whose pattern matches the whole name serves it. Where none does, leading components are left out until one
    matches: `module.net.conv_1.weight` is a `conv_1.weight`. Where none does even so, the kind decides: three or more
    axes go to the group that serves convolutions' kernels, all else to the other. Raises ValueError where several
    patterns match, and where the groups are not of these two kinds.
    """
    matching = by_name(part, patterns) or by_kind(num_axes, patterns, called_by_kind)
    if len(matching) != 1:
        raise ValueError(
            f"'{part}' belongs to {' and '.join(matching) or 'none'} of the groups {', '.join(dict(patterns))}: "
            "change the patterns so that every part matches one of them "
            "(optimizer.patterns in a config, patterns={group: regular expression} of LearnedOptimizer)"
        )
    return matching[0]


def by_name(part: str, patterns: Patterns) -> list[str]:
    """Return the groups whose patterns match the longest ending of a dotted name that any pattern matches."""
    return next((found for name in _endings(part) if (found := _matching(name, patterns))), [])


def by_kind(num_axes: int, patterns: Patterns, called_by_kind: bool = False) -> list[str]:
    """Return the group for parameters of a number of axes, in a list, empty where the groups' kinds are unknown.

    With `called_by_kind`, a group that has "conv" in its own name is one for kernels, whatever its pattern says.
    """
    kernels, others = _matching(CONVOLUTION, patterns), _matching(OTHER, patterns)
    kernels = kernels or [name for name, _ in patterns if called_by_kind and "conv" in name.lower()]
    if len(patterns) == 2:  # knowing one of two is knowing both
        kernels = kernels or [name for name, _ in patterns if others and name not in others]
        others = others or [name for name, _ in patterns if kernels and name not in kernels]
    found = kernels if num_axes >= 3 else others
    return found if len(found) == 1 else []


def _matching(name: str, patterns: Patterns) -> list[str]:
    return [group for group, pattern in patterns if re.fullmatch(pattern, name)]


def _endings(name: str) -> Iterator[str]:
    """A dotted name, then the name without its first component, and so on."""
    while name:
        yield name
        name = name.partition(".")[2]

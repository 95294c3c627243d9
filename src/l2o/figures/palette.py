"""The same colour and the same kind of line for an optimizer in every figure.

The colours are those of Okabe and Ito (2008, "Color Universal Design"), and where these do not suffice some of Tol's
(2021, "Colour schemes", SRON/EPS/TN/09-002). Both are made for people who confuse red with green. Because a colour may
still be hard to make out, baselines also differ in their dashes. Learned optimizers have solid lines.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain, cycle
from typing import Any, NamedTuple

from matplotlib import rc_context

BLACK, PURPLE, GREY = "#000000", "#CC79A7", "#777777"
BLUE, SKY, GREEN, ORANGE, VERMILLION = "#0072B2", "#56B4E9", "#009E73", "#E69F00", "#D55E00"


class Style(NamedTuple):
    """Hold the colour of a line and its dashes, as matplotlib takes them."""

    color: str
    linestyle: str | tuple[int, tuple[float, ...]] = "-"


DASHED, DOTTED, DASH_DOT = "--", (0, (1.2, 1.2)), "-."
LONG, WIDE = (0, (7, 2)), (0, (3, 3))
MORE_DASHED = (DASHED, DASH_DOT, DOTTED, LONG, WIDE)
MORE_SOLID = ("-", (0, (9, 1)), (0, (9, 1, 1, 1)), (0, (9, 1, 1, 1, 1, 1)))

BASELINES = {
    "sgd": Style(SKY, DOTTED),
    "momentum": Style("#DDAA33", LONG),
    "nag": Style(ORANGE, DASH_DOT),
    "rmsprop": Style(GREEN, LONG),
    "adam": Style(BLUE, DASHED),
    "adamw": Style("#882255", DASH_DOT),
    "muon": Style(VERMILLION, DOTTED),
    "schedulefree": Style("#44AA99", WIDE),
    "lbfgs": Style("#332288", LONG),
}
"""Hand-designed optimizers by their names in small letters, without anything else than letters and digits."""

LEARNED = {
    "lstm": Style(BLACK),
    "lstmsub": Style(PURPLE),
    "dm": Style(BLACK),
    "lstmgac": Style("#6699CC"),
    "gac": Style("#6699CC"),
    "ntmbfgs": Style("#661100"),
    "ntmlbfgs": Style("#AA4499"),
    "rnnprop": Style("#999933"),
    "celo": Style(PURPLE),
    "celo2": Style("#AA4499"),
    "adafacmlp": Style("#661100"),
    "general": Style("#CC3311"),
}
"""Learned optimizers by the names that the programs and their examples give them. Any other name takes a free style."""

ALIASES = {
    "nesterov": "nag",
    "adamwcosine": "adamw",
    "schedulefreeadamw": "schedulefree",
}

LOOK = {"font.size": 11, "axes.spines.top": False, "axes.spines.right": False, "axes.titlesize": "medium"}
"""Settings of all figures: letters that can still be read where the figure is as wide as a phone."""

readable = rc_context(LOOK)  # type: ignore[arg-type]  # a plain dict will do
"""Decorate a function that draws: what it draws has the look of all figures."""

GRID = {"visible": True, "which": "major", "linestyle": ":", "linewidth": 0.6}


def styles(optimizers: Mapping[str, bool]) -> dict[str, dict[str, Any]]:
    """Return the colour and the kind of line of every optimizer, as `Axes.plot` takes them.

    `optimizers` says of every name whether it is a baseline. A name that the palette knows has the style that it has
    in every figure; other names take the styles that are still free, in their order. Where there are more optimizers
    than styles, these begin anew with other dashes.
    """
    known = {name: table[key] for name, baseline in optimizers.items()
             if (key := _key(name)) in (table := BASELINES if baseline else LEARNED)}  # fmt: skip
    free = {baseline: _free(baseline, set(known.values())) for baseline in (True, False)}
    chosen = {name: known.get(name) or next(free[baseline]) for name, baseline in optimizers.items()}
    return {name: style._asdict() for name, style in chosen.items()}


def series(names: Iterable[str]) -> dict[str, str]:
    """Return a colour for each of several things that are no optimizers, in their order."""
    colours = list(dict.fromkeys(style.color for style in (*LEARNED.values(), *BASELINES.values())))
    order = [BLACK, BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY]
    order += [colour for colour in colours if colour not in order]
    return {name: order[i % len(order)] for i, name in enumerate(dict.fromkeys(names))}


def _key(name: str) -> str:
    plain = re.sub(r"[^a-z0-9]", "", name.lower())
    return ALIASES.get(plain, plain)


def _free(baseline: bool, used: set[Style]) -> Iterator[Style]:
    """Yield styles without end, first those whose colour is not used, then the others that are not used."""
    own, others = (BASELINES, LEARNED) if baseline else (LEARNED, BASELINES)
    colours = dict.fromkeys(style.color for style in (*own.values(), *others.values()))
    every = [Style(colour, dashes) for dashes in (MORE_DASHED if baseline else MORE_SOLID) for colour in colours]
    fresh = [style for style in every if style.color not in {one.color for one in used}]
    unused = [style for style in dict.fromkeys([*fresh[: len(colours)], *every]) if style not in used]
    return chain(unused, cycle(every))

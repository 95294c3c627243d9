"""`GROUP=null` on a command line: to people it leaves a group of configs out, to Hydra it means nothing."""

import sys
from pathlib import Path

from hydra._internal.utils import get_args_parser


def leave_out_null_groups(conf: Path) -> None:
    """Rewrite what Hydra refuses to what it means.

    `GROUP=null` leaves the group out, `learned.NAME=PATH` adds a name, and `runs=[…]` goes into a folder called runs
    instead of that of the default experiment, with which finished runs need not have to do anything. `conf` is the
    folder of the configs. Hydra's word for leaving a group out is `~GROUP`, which it refuses in turn where the group is
    left out by default. Its word for a key that may be new is `++KEY=VALUE`.

    Options such as `-m` and `--config-dir FOLDER` may stand anywhere. They go to the front: Hydra refuses overrides
    that stand after an option if others stand before it.
    """
    words = _options_first(sys.argv[1:])
    left_out = _left_out(conf)
    is_named = any(word.startswith("name=") for word in words)
    rewritten = []
    for word in words:
        group, _, option = word.partition("=")
        if option == "null" and "." not in group and (conf / group.partition("@")[0]).is_dir():
            rewritten += [] if group in left_out else [f"~{group}"]
        else:
            rewritten.append(f"++{word}" if _names_a_learned_rule(word) else word)
        if group == "runs" and not is_named:
            rewritten.append("name=runs")
    sys.argv[1:] = rewritten


class _Word(str):
    """A word of its own, whatever other words are equal to it: the value of an option may be one that is overridden."""


def _options_first(words: list[str]) -> list[str]:
    own = [_Word(word) for word in words]
    overrides: list[str] = get_args_parser().parse_known_intermixed_args(own)[0].overrides
    taken = {*map(id, overrides)}
    return [*map(str, [word for word in own if id(word) not in taken] + overrides)]  # plain ones, for other processes


def _names_a_learned_rule(word: str) -> bool:
    return Path(sys.argv[0]).stem == "evaluate" and word.startswith("learned.") and "=" in word


def _left_out(conf: Path) -> set[str]:
    """Groups that the program's own configs leave out: lines such as `- sweep: null`."""
    program = conf / f"{Path(sys.argv[0]).stem}.yaml"
    lines = program.read_text().splitlines() if program.is_file() else []
    return {line.strip()[2:].partition(":")[0] for line in lines if line.strip().startswith("- ") and ": null" in line}

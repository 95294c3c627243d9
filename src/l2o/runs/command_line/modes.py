"""The things that evaluate.py does: compare optimizers on one problem, score them on a suite or on the points of a map,
or draw finished runs. What serves one of them has no effect on the others, and is refused."""

import re
from collections.abc import Sequence

from omegaconf import DictConfig, OmegaConf

OF_SUITES = {"scoreboard", "workers", "adam_envelopes"}
"""Keys and groups that only suites and maps read."""

OF_ONE_PROBLEM = {
    *("experiment", "figure", "dataset", "optimizee", "evaluation_optimizee", "evaluation", "baselines", "proposals"),
    *("preprocessing", "output_scale", "seed"),
}
"""Keys and groups that only a comparison on one problem reads."""


OF_RUNS = {"runs", "name", "logger", "output_dir", "hydra"}
"""Keys and groups that have an effect where finished runs are drawn."""


def refuse_other_mode(cfg: DictConfig, words: Sequence[str]) -> None:
    """Raise ValueError for a word of the command line that the mode of evaluate.py asked for does not read.

    `words` are the overrides as they were typed. A suite may take a part, as `dataset`, from elsewhere in the
    configuration: then the word has an effect.
    """
    if cfg.get("runs") is not None:
        _refuse_beside_runs(words)
        return
    if cfg.get("suite") and cfg.get("map"):
        raise ValueError("suite and map are two things: choose one of them")
    suite = cfg.get("suite") or cfg.get("map")
    for word in words:
        top = re.split(r"[=.@/\[]", word.lstrip("+~"))[0]
        if cfg.get("map"):
            _refuse_on_a_map(word)
        if suite and top in OF_ONE_PROBLEM and not _reads(suite, top):
            remedy = "these have tasks, baselines and seeds of their own (suite.*, map.*, scoreboard.*)"
            raise ValueError(f"{word} has no effect on a suite or a map: {remedy}")
        if not suite and top in OF_SUITES:
            raise ValueError(
                f"{word} has no effect without a suite or a map: add suite=small, or another of conf/suite"
            )


def _refuse_beside_runs(words: Sequence[str]) -> None:
    """Refuse what only a new comparison reads: finished runs are drawn as they are."""
    for word in words:
        top = re.split(r"[=.@/\[]", word.lstrip("+~"))[0]
        if top not in OF_RUNS:
            raise ValueError(f"{word} has no effect beside runs=…, which draws what finished runs found: leave it out")


def _refuse_on_a_map(word: str) -> None:
    """Refuse what only a suite reads: a map shows rules as they are, beside tuned Adam alone."""
    key = word.lstrip("+~").partition("=")[0]
    if key == "map.point.hidden":
        raise ValueError(f"{word} has no effect: it is made of map.point.width and map.point.depth")
    of_others = re.match(r"scoreboard\.baselines\.(?!Adam\b)", key)
    if of_others or key in ("adam_envelopes", "scoreboard.scales"):
        raise ValueError(f"{word} has no effect on a map, which shows rules at a scale of 1 beside tuned Adam alone")


def _reads(suite: DictConfig, key: str) -> bool:
    """Whether a suite takes a value from a key outside of it, as in `${dataset}`."""
    return re.search(rf"\$\{{{key}[.}}]", OmegaConf.to_yaml(suite, resolve=False)) is not None

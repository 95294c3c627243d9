"""Learning rates of baselines that earlier runs have tuned, kept on disk: the jobs of a grid tune each problem once.

A tuning is found again only where everything that it depends on is the same: the problem with its data, the rule, how
it is tuned, the code, and what decides about rounding. Then it equals, bit for bit, what tuning would give once more.
Deleting the folder is always safe.
"""

import json
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor

from l2o.deploy.description import describe
from l2o.evaluation.evaluation import Evaluation, Remember, Tuning
from l2o.files import cache_folder, write_text
from l2o.optimizees import Optimizee
from l2o.optimizers.hand_designed import HandDesigned
from l2o.runs.contents import KNOWN_CODE, code_contents, hash_of, problem_contents, rounding

log = logging.getLogger(__name__)

CODE_OF_TUNING = ("data", "evaluation", "optimizees", "optimizers", "seeds.py", "unroll.py")
"""The parts of this package that decide what tuning finds."""


def remember_tunings(
    evaluation: Evaluation, cfg: DictConfig, optimizee: Optimizee, device: torch.device | str
) -> Remember | None:
    """Return what keeps an evaluation's tunings in `l2o.files.cache_folder()`/tuning, for `Evaluation.__call__`.

    `cfg` is the configuration that `optimizee` was built from. None with `evaluation.cache=false`, and where it cannot
    be told what the tuning depends on: code of the user's own in the problem. Rules of the user's own are not kept.
    """
    problem = problem_contents(cfg, optimizee) if evaluation.cache else None
    if problem is None:
        return None
    settings = {
        "problem": problem,
        "rates": evaluation.rates.tolist(),
        "tasks": evaluation.tuning_tasks,
        "steps": evaluation.tuning_steps,
        "seed": evaluation.seed,
        "select_by": evaluation.select_by,
        "code": code_contents(CODE_OF_TUNING),
        "rounding": rounding(torch.device(device)),
    }

    def remember(rule: HandDesigned, tuned: Callable[[], Tuning]) -> Tuning:
        if not type(rule).__module__.startswith(KNOWN_CODE):
            return tuned()
        key = {"rule": describe(rule), **settings}
        path = cache_folder() / "tuning" / f"{hash_of(key)}.json"
        found = _read(path, evaluation.rates)
        if found is None:
            found = tuned()
            _write(path, key, found)
        else:
            log.info("tuned before: '%s'", path)
        return found

    return remember


def _read(path: Path, rates: Tensor) -> Tuning | None:
    """Return a tuning that was kept; None where there is none, or a damaged one."""
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        dtype = getattr(torch, kept["dtype"])
        scores = torch.tensor([float.fromhex(score) for score in kept["scores"]], dtype=dtype)
    except (OSError, ValueError, OverflowError, RecursionError, LookupError, AttributeError, TypeError):
        return None
    if scores.shape != rates.shape or scores.isnan().any():
        return None
    return Tuning(rates, scores, rates[scores.argmin()].item())


def _write(path: Path, key: dict[str, Any], tuning: Tuning) -> None:
    scores = [score.hex() for score in tuning.scores.tolist()]  # exact, and inf, which JSON lacks, is text as well
    kept = {"key": key, "dtype": str(tuning.scores.dtype).removeprefix("torch."), "scores": scores}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(kept, indent=2) + os.linesep)
    except OSError as error:
        log.warning("'%s' could not be written (%s): it will be tuned again", path, error.strerror)

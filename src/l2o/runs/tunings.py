"""Learning rates of baselines that earlier runs have tuned, kept on disk: the jobs of a grid tune each problem once.

A tuning is found again only where everything that it depends on is the same: the problem with its data, the rule, how
it is tuned, the code, and what decides about rounding. Then it equals, bit for bit, what tuning would give once more.
Deleting the folder is always safe.
"""

import hashlib
import json
import logging
import os
import pickle
import platform
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from l2o.deploy.description import describe
from l2o.evaluation.evaluation import Evaluation, Remember, Tuning
from l2o.files import cache_folder, write_text
from l2o.optimizees import Classifier, Optimizee
from l2o.optimizers.hand_designed import HandDesigned

log = logging.getLogger(__name__)

KNOWN_CODE = ("l2o.", "torch.nn.")
"""Where the code of a problem must come from: what a user's own code depends on cannot be told."""

CODE_OF_TUNING = ("data", "evaluation", "optimizees", "optimizers", "seeds.py", "unroll.py")
"""The parts of this package that decide what tuning finds."""


def remember_tunings(
    evaluation: Evaluation, cfg: DictConfig, optimizee: Optimizee, device: torch.device | str
) -> Remember | None:
    """Return what keeps an evaluation's tunings in `l2o.files.cache_folder()`/tuning, for `Evaluation.__call__`.

    `cfg` is the configuration that `optimizee` was built from. None with `evaluation.cache=false`, and where it cannot
    be told what the tuning depends on: code of the user's own in the problem. Rules of the user's own are not kept.
    """
    problem = _problem(cfg, optimizee) if evaluation.cache else None
    if problem is None:
        return None
    settings = {
        "problem": problem,
        "rates": evaluation.rates.tolist(),
        "tasks": evaluation.tuning_tasks,
        "steps": evaluation.tuning_steps,
        "seed": evaluation.seed,
        "select_by": evaluation.select_by,
        "code": _code(),
        "rounding": _rounding(torch.device(device)),
    }

    def remember(rule: HandDesigned, tuned: Callable[[], Tuning]) -> Tuning:
        if not type(rule).__module__.startswith(KNOWN_CODE):
            return tuned()
        key = {"rule": describe(rule), **settings}
        digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
        path = cache_folder() / "tuning" / f"{digest}.json"
        found = _read(path, evaluation.rates)
        if found is None:
            found = tuned()
            _write(path, key, found)
        else:
            log.info("tuned before: '%s'", path)
        return found

    return remember


def _problem(cfg: DictConfig, optimizee: Optimizee) -> dict[str, Any] | None:
    """The optimizee's configuration and a hash of the data in it; None where either cannot be told."""
    config = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(config, dict)
    if not all(target.startswith(KNOWN_CODE) for target in _targets(config)):
        return None
    contents = _Contents()
    try:
        contents.dump(optimizee)
    except Exception:  # pickle raises many kinds for what it cannot take
        return None
    return {"config": config, "data": contents.digest.hexdigest()}


def _targets(config: Any) -> Iterator[str]:
    """Every class or function that a configuration names."""
    if isinstance(config, dict):
        if "_target_" in config:
            yield str(config["_target_"])
        config = list(config.values())
    if isinstance(config, list):
        for item in config:
            yield from _targets(item)


class _Nowhere:
    """A file that forgets what is written to it."""

    def write(self, data: Any) -> int:
        return len(data)


class _Contents(pickle.Pickler):
    """Hashes every array of numbers in an object, in the order in which pickle meets them; keeps nothing."""

    def __init__(self) -> None:
        super().__init__(_Nowhere(), protocol=pickle.HIGHEST_PROTOCOL)
        self.digest = hashlib.sha256()

    def persistent_id(self, obj: Any) -> str | None:
        if isinstance(obj, Tensor):
            self._add(str(obj.dtype), obj.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy(), obj.shape)
            return "tensor"
        if isinstance(obj, np.ndarray) and not obj.dtype.hasobject:
            self._add(str(obj.dtype), np.ascontiguousarray(obj).reshape(-1).view(np.uint8), obj.shape)
            return "array"
        return None

    def reducer_override(self, obj: Any) -> Any:
        if not isinstance(obj, Classifier):
            return NotImplemented
        # Of its network only the shapes are used, and what it keeps besides its parameters: these are drawn anew.
        read = {name: value for name, value in vars(obj).items() if name != "network"}
        return object, (), {**read, "buffers": dict(obj.network.named_buffers())}

    def _add(self, dtype: str, values: np.ndarray, shape: tuple[int, ...]) -> None:
        self.digest.update(f"{dtype} {tuple(shape)} ".encode())
        self.digest.update(values.data)  # no copy of the data is made


@cache
def _code() -> str:
    """A hash of the source that tuning runs, and PyTorch's version: a tuning by other code is not found again."""
    package, digest = Path(__file__).parents[1], hashlib.sha256(torch.__version__.encode())
    for part in CODE_OF_TUNING:
        place = package / part
        for path in sorted(place.rglob("*.py")) if place.is_dir() else [place]:
            digest.update(path.relative_to(package).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def _rounding(device: torch.device) -> list[str]:
    """What decides how sums are rounded: dtype, device, instruction set, threads, permitted shortcuts."""
    unit = torch.cuda.get_device_name(device) if device.type == "cuda" else torch.backends.cpu.get_cpu_capability()
    threads, precision = str(torch.get_num_threads()), torch.get_float32_matmul_precision()
    return [str(torch.get_default_dtype()), device.type, unit, platform.machine(), threads, precision]


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

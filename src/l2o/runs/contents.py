"""What a result depends on, as hashes: a problem with its data, a rule with its φ, the code, and what decides about
rounding. What is kept under such a hash on a disk is found again only where all of it is the same.
"""

import hashlib
import json
import pickle
import platform
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from l2o.deploy.description import describe
from l2o.optimizees import Optimizee
from l2o.optimizers.base import UpdateRule

KNOWN_CODE = ("l2o.", "torch.nn.")
"""Where the code of a problem must come from: what a user's own code depends on cannot be told."""


def hash_of(key: Any) -> str:
    """Return a hash of what JSON can hold. Mappings with the same entries in another order are the same."""
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()


def rule_contents(rule: UpdateRule) -> dict[str, Any] | None:
    """Return a rule's description with a hash of its φ; None for a rule of a user's own, whose code cannot be told."""
    kinds = [type(module).__module__ for module in rule.modules() if isinstance(module, UpdateRule)]
    if not all(kind.startswith(KNOWN_CODE) for kind in kinds):
        return None
    contents = _Contents()
    for name, value in rule.state_dict().items():
        contents.digest.update(name.encode() + b"\0")
        contents.persistent_id(value)
    return {"rule": describe(rule), "phi": contents.digest.hexdigest()}


def problem_contents(cfg: DictConfig, optimizee: Optimizee) -> dict[str, Any] | None:
    """Return an optimizee's configuration and a hash of the data in it; None where either cannot be told."""
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
    """Yield every class or function that a configuration names."""
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
        network = vars(obj).get("network") if isinstance(obj, Optimizee) else None
        if not isinstance(network, nn.Module):
            return NotImplemented
        # Of its network only the shapes are used, and what it keeps besides its parameters: these are drawn anew.
        read = {name: value for name, value in vars(obj).items() if name != "network"}
        return object, (), {**read, "buffers": dict(network.named_buffers())}

    def _add(self, dtype: str, values: np.ndarray, shape: tuple[int, ...]) -> None:
        self.digest.update(f"{dtype} {tuple(shape)} ".encode())
        self.digest.update(values.data)  # no copy of the data is made


@cache
def code_contents(parts: Sequence[str]) -> str:
    """Return a hash of the source of some parts of this package, files or folders, and of PyTorch's version.

    A result of other code is thereby not found again.
    """
    package, digest = Path(__file__).parents[1], hashlib.sha256(torch.__version__.encode())
    for part in parts:
        place = package / part
        for path in sorted(place.rglob("*.py")) if place.is_dir() else [place]:
            digest.update(path.relative_to(package).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def rounding(device: torch.device) -> list[str]:
    """Return what decides how sums are rounded: dtype, device, instruction set, threads, permitted shortcuts."""
    unit = torch.cuda.get_device_name(device) if device.type == "cuda" else torch.backends.cpu.get_cpu_capability()
    threads, precision = str(torch.get_num_threads()), torch.get_float32_matmul_precision()
    return [str(torch.get_default_dtype()), device.type, unit, platform.machine(), threads, precision]

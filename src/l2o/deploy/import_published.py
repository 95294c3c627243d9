"""Make published optimizers this project's: `l2o.from_published(FILE)`, or `python -m l2o import FILE FOLDER`."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from l2o.deploy.export import save
from l2o.deploy.import_2016 import early_rule
from l2o.deploy.import_modern import modern_rule
from l2o.deploy.reasons import one_line
from l2o.deploy.soundness import refuse_not_finite
from l2o.deploy.weight_files import read_weights
from l2o.optimizees.layout import Layout
from l2o.optimizers.base import Observation, UpdateRule
from l2o.optimizers.celo2 import Celo2

Weights = Mapping[str, np.ndarray]

KNOWN = (
    "DeepMind's learning-to-learn and RNNProp (lstm_1/w_gates, linear/w, …), Celo and Celo2 (ff_mod_stack/~/w0__0, …), "
    "AdafacMLP (nn/~/w0, momentum_decays, …) and MLPLOpt (mlp/~/linear_0/w, …) of learned_optimization, PyLO's "
    "small_fc_lopt (network.input.weight, …), and the same under theta|… in files of golden trajectories"
)
"""The conventions that are recognised, by what the names of their arrays look like."""

SHOWN = 4
"""A message names so many of a foreign file's arrays."""


def from_published(file: str | Path) -> UpdateRule:
    """Return the update rule that a file of published weights describes.

    The file is an .npz, .safetensors, .bin, .pt or .pth; nothing that it holds is run. Its convention is recognised by
    the names of its arrays (`KNOWN`). Raises ValueError, in one line, for a file that is missing or damaged, and for
    arrays in no convention, saying what was found and what is known; and for weights that are nan or infinite.
    """
    path = Path(file).expanduser()
    weights = read_weights(path)
    try:
        rule = early_rule(weights) or modern_rule(weights, path.stem)
        if rule is not None:
            refuse_not_finite(rule.state_dict())
        if isinstance(rule, Celo2):
            rule = _as_recorded(rule, weights)
    except ValueError as error:
        raise ValueError(one_line(f"'{path}' cannot be imported: {error}")) from error
    if rule is None:
        found = ", ".join([*sorted(weights)[:SHOWN], *(["…"] if len(weights) > SHOWN else [])]) or "no array"
        raise ValueError(one_line(f"'{path}' holds {found}, which is in no known convention. Known are: {KNOWN}"))
    return rule


def import_published(file: str | Path, folder: str | Path) -> tuple[UpdateRule, Path]:
    """Export the rule that a file of published weights describes; return the rule and the folder."""
    rule = from_published(file)
    return rule, save(rule, folder, {"source": f"published weights, {Path(file).name}"})


def _as_recorded(rule: Celo2, weights: Weights) -> Celo2:
    """Celo2 or Celo2-base, whose arrays are alike: the one whose first step a golden file has recorded.

    A file without a trajectory does not tell; then the file's name did.
    """
    names = [key.removeprefix("p0|") for key in weights if key.startswith("p0|")]
    if not names or not all(f"{kind}|{name}" in weights for kind in ("grads", "after") for name in names):
        return rule
    for name in names:
        _refuse_misfit(name, *(weights[f"{kind}|{name}"] for kind in ("p0", "grads", "after")))
    full = Celo2(rule.hidden_size, rule.num_layers, adam_vectors=False, adam_pattern="/b$", bias_correction=False)
    base = Celo2(rule.hidden_size, rule.num_layers, orthogonal=False, adam_vectors=False, adam_pattern=None)
    for candidate in (full, base):
        candidate.load_state_dict(rule.state_dict())
    return min((full, base), key=lambda candidate: _first_error(candidate, weights, names)).eval()


def _refuse_misfit(name: str, start: np.ndarray, *recorded: np.ndarray) -> None:
    """Raise ValueError unless at least one step of a tensor is recorded, in numbers and in the tensor's own shape."""
    is_real = all(array.dtype.kind == "f" for array in (start, *recorded))
    if not is_real or any(array.shape[1:] != start.shape or not array.shape[:1] > (0,) for array in recorded):
        given = ", ".join(f"{array.shape} of {array.dtype}" for array in (start, *recorded))
        raise ValueError(f"the trajectory of '{name}' does not fit together: its p0, grads and after are {given}")


@torch.no_grad()
def _first_error(rule: UpdateRule, weights: Weights, names: list[str]) -> float:
    """How far a rule's first update is from the recorded one, at most."""
    layout = Layout({name: weights[f"p0|{name}"].shape for name in names})
    flat = lambda kind, *at: _flat([weights[f"{kind}|{name}"][at or ...] for name in names])  # noqa: E731
    theta, grad = flat("p0"), flat("grads", 0)
    unknown = torch.full((1,), torch.nan)
    seen = Observation(grad, theta, unknown, torch.zeros(1), torch.full((1,), torch.inf))
    update, _ = rule(seen, rule.init_state(theta, layout), layout)
    return float((theta + update - flat("after", 0)).abs().max())


def _flat(arrays: list[np.ndarray]) -> Tensor:
    return torch.from_numpy(np.concatenate([np.ravel(array) for array in arrays]).astype(np.float32))[None]

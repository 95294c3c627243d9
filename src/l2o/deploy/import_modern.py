"""Read the published weights of the modern rules: learned_optimization's, Celo's and PyLO's.

Haiku's weights are (inputs, outputs), torch's (outputs, inputs). A file of golden trajectories has its meta-parameters
under `theta|…`, with | for / in their names.
"""

import re
from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor

from l2o.optimizers.adafac_mlp import AdafacMLP
from l2o.optimizers.base import UpdateRule
from l2o.optimizers.celo import Celo
from l2o.optimizers.celo2 import Celo2
from l2o.optimizers.mlp_lopt import MLPLOpt

Weights = Mapping[str, np.ndarray]

GROUPS = (1, 1, 1, 3, 1, 3, 1, 3, 1, 3, 3, 3, 3, 3)
"""How many features each of Celo's fourteen groups of first weights has."""

PYLO_OFFSETS = {
    "momentum_offsets": (0.15216392, 0.14245212, 0.06812963),
    "square_offsets": (0.01079706,),
    "factor_offsets": (0.18621896, -0.10864615, -0.06185547),
}
"""δ of the decays, which PyLO keeps as defaults of its constructor, beside the network's file."""


def modern_rule(weights: Weights, name: str = "") -> UpdateRule | None:
    """Give the rule that the arrays of a file describe, or None where they are in none of the known conventions.

    Known are: `ff_mod_stack/~/…` with `rnn_params/…` (Celo after phase 2, as published) and without (Celo2),
    `nn/~/…` with `momentum_decays`, … (AdafacMLP), `mlp/~/linear_…` (MLPLOpt), `network.input|linear_…|output`
    (PyLO's AdafacMLP), and the same under `theta|…` in files of golden trajectories. Celo2 and Celo2-base have the same
    arrays: it is Celo2-base where `name`, the file's, contains "base".

    Raises ValueError, in one line, for arrays that are nearly one of these: some missing, some unknown, of other sizes.
    """
    golden = {key.removeprefix("theta|"): value for key, value in weights.items() if key.startswith("theta|")}
    arrays = {key.replace("|", "/"): value for key, value in (golden or weights).items()}
    for marker, kind, read in _CONVENTIONS:
        if any(re.match(marker, key) for key in arrays):
            try:
                return read(_Arrays(arrays), bool(golden), name).eval()
            except (KeyError, RuntimeError, ValueError, IndexError, TypeError) as error:
                raise ValueError(f"these arrays are nearly {kind}, but {' '.join(str(error).split())}") from error
    return None


class _Arrays:
    """Arrays that are taken out one by one, so that what is missing or left over is noticed."""

    def __init__(self, arrays: Weights):
        self._left = dict(arrays)

    def __contains__(self, name: str) -> bool:
        return name in self._left

    def take(self, name: str, *shape: int | None) -> Tensor:
        """Take the array of this name and shape, in which None stands for any size."""
        if name not in self._left:
            raise ValueError(f"'{name}' is missing")
        array = np.asarray(self._left.pop(name))
        fits = array.ndim == len(shape) and all(b in (None, a) for a, b in zip(array.shape, shape, strict=True))
        if not fits or array.dtype.kind != "f":
            wanted = "×".join("n" if size is None else str(size) for size in shape) or "one number"
            raise ValueError(f"'{name}' has shape {array.shape} and type {array.dtype}, not {wanted} of floats")
        return torch.from_numpy(array.astype(np.float32, copy=False).copy())

    def count(self, pattern: str) -> int:
        return sum(re.fullmatch(pattern, name) is not None for name in self._left)

    def finish(self) -> None:
        """Raise ValueError where something is left over."""
        if self._left:
            raise ValueError(f"{', '.join(map(repr, sorted(self._left)[:3]))} should not be there")


def _celo_family(arrays: _Arrays, golden: bool, name: str) -> UpdateRule:
    has_scheduler = arrays.count("(rnn_params|lstm_init_state).*") > 0
    mlp = _grouped_mlp(arrays, banks=has_scheduler)
    hidden, layers = len(mlp["bias_0"]), len(mlp) // 2 - 1
    if has_scheduler:
        scheduler = _scheduler(arrays)
        rule = Celo(2, hidden, layers, len(scheduler["initial_hidden"]))
        rule.scheduler.load_state_dict(scheduler)
    elif "base" in name.lower():
        rule = Celo2(hidden, layers, orthogonal=False, adam_vectors=False, adam_pattern=None)
    elif golden:  # as in training
        rule = Celo2(hidden, layers, adam_vectors=False, adam_pattern="/b$", bias_correction=False)
    else:
        rule = Celo2(hidden, layers)
    arrays.finish()
    rule.mlp.load_state_dict(mlp)
    return rule


def _grouped_mlp(arrays: _Arrays, banks: bool) -> dict[str, Tensor]:
    """The MLP of Celo and Celo2, whose first weight is stored in groups; Celo's has a leading axis of one bank."""

    def take(key: str, *shape: int | None) -> Tensor:
        array = arrays.take(f"ff_mod_stack/~/{key}", *([1] if banks else []), *shape)
        return array[0] if banks else array

    first = take("b0", None)
    groups = [take(f"w0__{i}", size, len(first)) for i, size in enumerate(GROUPS)]
    layers = [(torch.cat(groups), first)]
    for i in range(1, 1 + arrays.count("ff_mod_stack/~/b[0-9]+")):
        weight = take(f"w{i}", len(layers[-1][1]), None)
        layers.append((weight, take(f"b{i}", weight.shape[1])))
    return _mlp(layers, outputs=3)


def _scheduler(arrays: _Arrays) -> dict[str, Tensor]:
    if "lstm_init_state" in arrays:
        initial = arrays.take("lstm_init_state", 2, 1, None)
    else:
        initial = torch.stack([arrays.take(f"lstm_init_state/{part}", 1, None) for part in ("hidden", "cell")])
    size = initial.shape[-1]
    take = lambda layer, inputs, outputs: {  # noqa: E731
        "weight": arrays.take(f"rnn_params/{layer}/w", inputs, outputs).mT,
        "bias": arrays.take(f"rnn_params/{layer}/b", outputs),
    }
    [take(*unused) for unused in (("linear", 18, size), ("rnn_to_controls", size, 1))]  # without effect in the original
    layers = {
        "pooled": take("linear_1", 18, size),
        "direct": take("linear_2", 18, size),
        "gates": take("rnn/linear", 2 * size, 4 * size),
        "step_size": take("step_size", size, 1),
    }
    found = {f"{layer}_{part}": value for layer, own in layers.items() for part, value in own.items()}
    return found | {"initial_hidden": initial[0, 0], "initial_cell": initial[1, 0]}


def _adafac_mlp(arrays: _Arrays, golden: bool, name: str) -> UpdateRule:
    layers = []
    for i in range(arrays.count("nn/~/w[0-9]+")):
        weight = arrays.take(f"nn/~/w{i}", None if i else 39, None)
        layers.append((weight, arrays.take(f"nn/~/b{i}", weight.shape[1])))
    mlp = _mlp(layers, outputs=2)
    kinds = {"momentum_offsets": ("momentum_decays", 3), "square_offsets": ("rms_decays", 1)}
    kinds |= {"factor_offsets": ("adafactor_decays", 3)}
    offsets = {own: arrays.take(*theirs) for own, theirs in kinds.items()}
    arrays.finish()
    rule = AdafacMLP(len(mlp["bias_0"]), len(layers) - 1)
    rule.load_state_dict({f"mlp.{key}": value for key, value in mlp.items()} | offsets)
    return rule


def _mlp_lopt(arrays: _Arrays, golden: bool, name: str) -> UpdateRule:
    layers = []
    for i in range(arrays.count("mlp/~/linear_[0-9]+/w")):
        weight = arrays.take(f"mlp/~/linear_{i}/w", None if i else 19, None)
        layers.append((weight, arrays.take(f"mlp/~/linear_{i}/b", weight.shape[1])))
    mlp = _mlp(layers, outputs=2)
    arrays.finish()
    rule = MLPLOpt(len(mlp["bias_0"]), len(layers) - 1)
    rule.mlp.load_state_dict(mlp)
    return rule


def _pylo(arrays: _Arrays, golden: bool, name: str) -> UpdateRule:
    """PyLO's AdafacMLP: torch's order of axes, decays as PyLO's constructor has them, and ten times the step."""
    middle = [f"linear_{i}" for i in range(arrays.count(r"network\.linear_[0-9]+\.weight"))]
    layers = []
    for layer in ["input", *middle, "output"]:
        weight = arrays.take(f"network.{layer}.weight", None, None if layers else 39)
        layers.append((weight.mT, arrays.take(f"network.{layer}.bias", len(weight))))
    mlp = _mlp(layers, outputs=2)
    arrays.finish()
    rule = AdafacMLP(len(mlp["bias_0"]), len(layers) - 1, step_mult=1e-2)
    offsets = {key: torch.tensor(value) for key, value in PYLO_OFFSETS.items()}
    rule.load_state_dict({f"mlp.{key}": value for key, value in mlp.items()} | offsets)
    return rule


def _mlp(layers: list[tuple[Tensor, Tensor]], outputs: int) -> dict[str, Tensor]:
    """The state of an `MLP` with these weights (I, O) and biases (O,); raises ValueError where they do not fit."""
    widths = [len(bias) for _, bias in layers]
    if not widths or widths[-1] != outputs or len(set(widths[:-1])) != 1:
        raise ValueError(f"its layers have {widths} units, not the same number in all hidden layers and {outputs} last")
    for (weight, _), width in zip(layers[1:], widths, strict=False):
        if len(weight) != width:
            raise ValueError(f"a layer of {width} units is followed by one of {len(weight)} inputs")
    return {f"weight_{i}": weight.mT for i, (weight, _) in enumerate(layers)} | {
        f"bias_{i}": bias for i, (_, bias) in enumerate(layers)
    }


_CONVENTIONS: list[tuple[str, str, Callable[[_Arrays, bool, str], UpdateRule]]] = [
    (r"ff_mod_stack/", "Celo's or Celo2's", _celo_family),
    (r"nn/~/|(momentum|rms|adafactor)_decays$", "AdafacMLP's in learned_optimization", _adafac_mlp),
    (r"mlp/~/linear_", "MLPLOpt's in learned_optimization", _mlp_lopt),
    (r"network\.(input|output|linear_)", "AdafacMLP's in PyLO", _pylo),
]
"""For each convention what its names begin with, whose it is, and the function that reads it."""

"""Read the weights that were published of the rules of 2016 and 2017.

They are in the conventions of DeepMind's learning-to-learn and of RNNProp, as Chen et al. (2020, "Training
stronger baselines for learning to optimize") have published them:

    gates = [x, h] · w_gates + b_gates, split i, j, f, o;   c' = σ(f + 1) c + σ(i) tanh(j);   h' = tanh(c') σ(o)

DeepMind's: log-and-sign with p = 5, update = 0.01 (h w + b). RNNProp's: an input layer [m̂, ∇]/√v̂ → ELU, update =
0.01 tanh(h w + b). Legend: F features, H hidden units.
"""

import re
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from l2o.deploy.reasons import one_line
from l2o.optimizers import LSTM, LogAndSign, RNNProp, UpdateRule

Weights = Mapping[str, np.ndarray]

SHOWN = 4
"""A message names so many of a foreign file's arrays."""


def early_rule(weights: Weights) -> UpdateRule | None:
    """Give the rule that the arrays describe: an RNNProp where there is an input projection, else an LSTM.

    None where the arrays are in neither convention. Raises ValueError, in one line, for arrays that are nearly so.
    """
    if not _layers(weights) and "linear/w" not in weights and not _projection(weights):
        return None
    try:
        _refuse_foreign(weights)
        rule = _rnnprop(weights) if "input_projection/w" in weights else _lstm(weights)
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        raise ValueError(
            one_line(f"these arrays are nearly in DeepMind's or RNNProp's conventions, but {error}")
        ) from error
    return rule.eval()


def _refuse_foreign(weights: Weights) -> None:
    """Raise ValueError unless the arrays that the conventions name are there, numbers, and no others."""
    layers = len(_layers(weights))
    wanted = {f"lstm_{layer}/{part}_gates" for layer in range(1, layers + 1) for part in ("w", "b")}
    wanted |= {f"{name}/{part}" for name in ("linear", *_projection(weights)) for part in ("w", "b")}
    given = [*sorted(weights)[:SHOWN], *(["…"] if len(weights) > SHOWN else [])]
    if missing := sorted(wanted - weights.keys()):
        raise ValueError(f"it has no array {missing[0]}, and should have {', '.join(sorted(wanted))}; it has {given}")
    if unknown := sorted(weights.keys() - wanted):
        raise ValueError(f"it has an array {unknown[0]}, which these conventions do not know")
    for name, value in weights.items():
        if not np.issubdtype(value.dtype, np.floating):
            raise ValueError(f"its array {name} holds {value.dtype}, not real numbers")
        if not np.isfinite(value).all():
            raise ValueError(f"its array {name} holds numbers that are nan or infinite")


def _lstm(weights: Weights) -> LSTM:
    rule = LSTM(LogAndSign(p=5.0), *_sizes(weights), output_scale=0.01)
    _fill(rule, weights)
    return rule


def _rnnprop(weights: Weights) -> RNNProp:
    rule = RNNProp(*_sizes(weights), output_scale=0.01)
    _fill(rule.lstm, weights)
    rule.lstm.preprocessing.load_state_dict(_linear(weights, "input_projection", "linear."))
    return rule


def _sizes(weights: Weights) -> tuple[int, int]:
    """Hidden units and layers."""
    return len(weights["linear/w"]), len(_layers(weights))


def _layers(weights: Weights) -> set[str]:
    return {name.partition("/")[0] for name in weights if re.match(r"lstm_[0-9]+/", name)}


def _projection(weights: Weights) -> list[str]:
    """What comes before RNNProp's LSTM, where the file has a part of it."""
    return ["input_projection"] if any(name.startswith("input_projection/") for name in weights) else []


def _fill(rule: LSTM, weights: Weights) -> None:
    """In torch's order of gates (i, f, g, o) and with the forget bias written out."""
    size = rule.hidden_size
    for layer, cell in enumerate(rule.cells, 1):
        gates, bias = (_reordered(weights[f"lstm_{layer}/{part}_gates"]) for part in ("w", "b"))
        bias[size : 2 * size] += 1  # f
        inputs, hidden = gates[:, :-size], gates[:, -size:]
        cell.load_state_dict({"weight_ih": inputs, "weight_hh": hidden, "bias_ih": bias, "bias_hh": 0 * bias})
    rule.head.load_state_dict(_linear(weights, "linear"))


def _linear(weights: Weights, name: str, prefix: str = "") -> dict[str, Tensor]:
    weight, bias = (torch.from_numpy(weights[f"{name}/{part}"]) for part in ("w", "b"))
    return {f"{prefix}weight": weight.mT, f"{prefix}bias": bias}


def _reordered(gates: np.ndarray) -> Tensor:
    """(…, 4H) in the order i, j, f, o -> (4H, …) in the order i, f, j, o."""
    i, j, f, o = np.split(gates.T, 4)
    return torch.from_numpy(np.concatenate([i, f, j, o]))

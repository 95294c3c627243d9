"""Make published optimizers l2o's: `python -m l2o.deploy.import_published FILE.npz FOLDER`.

Weights in the conventions of DeepMind's learning-to-learn and of RNNProp, as Chen et al. (2020, "Training stronger
baselines for learning to optimize") have published them:

    gates = [x, h] · w_gates + b_gates, split i, j, f, o;   c' = σ(f + 1) c + σ(i) tanh(j);   h' = tanh(c') σ(o)

DeepMind's: log-and-sign with p = 5, update = 0.01 (h w + b). RNNProp's: an input layer [m̂, ∇]/√v̂ → ELU, update =
0.01 tanh(h w + b). Legend: F features, H hidden units.
"""

import argparse
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from l2o.deploy.export import save
from l2o.optimizers import LSTM, LogAndSign, RNNProp, UpdateRule
from l2o.runs.errors import in_one_line

Weights = Mapping[str, np.ndarray]


def published(path: str | Path) -> UpdateRule:
    """The rule that a file's arrays describe: an RNNProp where there is an input projection, else an LSTM."""
    weights = _read(Path(path))
    try:
        rule = _rnnprop(weights) if "input_projection/w" in weights else _lstm(weights)
    except (KeyError, RuntimeError, ValueError, IndexError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"'{path}' holds no optimizer in DeepMind's or RNNProp's conventions: {reason}") from error
    return rule.eval()


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
    layers = {name.partition("/")[0] for name in weights if name.startswith("lstm_")}
    return len(weights["linear/w"]), len(layers)


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


def _read(path: Path) -> dict[str, np.ndarray]:
    if not path.is_file():
        raise ValueError(f"no file '{path}': give an .npz of published weights")
    try:
        with open(path, "rb") as stream, np.load(stream, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (zipfile.BadZipFile, OSError, ValueError, AttributeError, EOFError) as error:
        raise ValueError(f"'{path}' is no intact .npz file: {error}") from error


@in_one_line
def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        "python -m l2o.deploy.import_published", description="Make published optimizers l2o's."
    )
    parser.add_argument("file", help="an .npz of published weights")
    parser.add_argument("folder", help="where the exported optimizer goes")
    given = parser.parse_args()
    rule = published(given.file)
    folder = save(rule, given.folder, {"source": f"published weights, {Path(given.file).name}"})
    print(f"{type(rule).__name__}: {folder}")


if __name__ == "__main__":
    main()

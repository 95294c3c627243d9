"""Run the published weights of the paper's LSTM in this project's LSTM, on the paper's MNIST problem.

An independent check of LSTM, preprocessing and optimizee. The weights (Chen et al. 2020, MIT licence, .npz) and their
conventions: gates = [x, h] · w_gates + b_gates, split i, j, f, o, forget bias 1 added in use; log-and-sign with p = 5;
update = 0.01 · (h · w + b). θ_0 ~ N(0, 0.01²), the first 55 000 images.

    python benchmarks/published_lstm.py dm.npz mnist.npz
"""

import sys

import numpy as np
import torch

from l2o import data, seeds
from l2o.evaluation import learning_curves
from l2o.optimizees import Classifier, mlp
from l2o.optimizers import LSTM, Adam, LogAndSign, UpdateRule

TRAIN_IMAGES = 55_000
PUBLISHED = {  # optimizer, network: {step: mean training loss}; Adam beside it says how far the problem agrees
    ("LSTM", "20 sigmoid"): {50: 0.378, 100: 0.293, 200: 0.231},
    ("LSTM", "40 sigmoid"): {100: 0.233},
    ("LSTM", "20 relu"): {100: 0.639, 200: 0.631},
    ("LSTM", "20 20 sigmoid"): {200: 2.305},
    ("Adam", "20 sigmoid"): {50: 0.563, 100: 0.373, 200: 0.314},
}


def published_lstm(path: str) -> LSTM:
    """The weights of an .npz, in torch's order of gates (i, f, g, o) and with the forget bias written out."""
    weights = np.load(path)
    rule = LSTM(LogAndSign(p=5.0), hidden_size=20, num_layers=2, output_scale=0.01)
    for layer, cell in enumerate(rule.cells, 1):
        gates, bias = (_reordered(weights[f"lstm_{layer}/{part}_gates"]) for part in ("w", "b"))
        bias[20:40] += 1  # f
        inputs = gates.shape[1] - 20
        cell.load_state_dict(
            {"weight_ih": gates[:, :inputs], "weight_hh": gates[:, inputs:], "bias_ih": bias, "bias_hh": 0 * bias}
        )
    rule.head.load_state_dict(
        {"weight": torch.tensor(weights["linear/w"]).mT, "bias": torch.tensor(weights["linear/b"])}
    )
    return rule


def _reordered(gates: np.ndarray) -> torch.Tensor:
    """(…, 4H) in the order i, j, f, o -> (4H, …) in the order i, f, j, o."""
    i, j, f, o = np.split(gates.T, 4)
    return torch.from_numpy(np.concatenate([i, f, j, o]))


def main(weights: str, mnist: str, num_tasks: int = 64) -> None:
    """Mean over initialisations and six steps up to each step, with its standard error, beside the published mean."""
    images = data.from_npz(mnist)
    images = images._replace(x_train=images.x_train[:TRAIN_IMAGES], y_train=images.y_train[:TRAIN_IMAGES])
    rules: dict[str, UpdateRule] = {"LSTM": published_lstm(weights), "Adam": Adam(0.03)}
    for (name, network), published in PUBLISHED.items():
        *hidden, activation = network.split()
        problem = Classifier(mlp(784, [int(units) for units in hidden], 10, activation), images)
        losses = learning_curves(rules[name], problem, num_tasks, max(published), seeds.generator(0)).losses
        for step, mean in published.items():
            ours = losses[step - 6 : step].mean(0)
            error = ours.std() / num_tasks**0.5
            print(
                f"{name} {network:14} step {step:3}: {ours.mean():.3f} ± {error:.3f}, published {mean:.3f}", flush=True
            )


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])

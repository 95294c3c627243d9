"""Run the published weights of the paper's LSTM in this project's LSTM, on the paper's MNIST problem.

An independent check of LSTM, preprocessing and optimizee. The weights (Chen et al. 2020, MIT licence, as .npz) and their
conventions: gates = [x, h] · w_gates + b_gates, split i, j, f, o, forget bias 1 added when they are used; log-and-sign with
p = 5; update = 0.01 · (h · w + b). Published means for `dm`: .378 at step 50, .293 at 100, .231 at 200.

    python benchmarks/published_lstm.py dm.npz mnist.npz
"""

import sys

import numpy as np
import torch

from l2o import data, seeds
from l2o.evaluation import learning_curves
from l2o.optimizees import Classifier, mlp
from l2o.optimizers import LSTM, LogAndSign

TRAIN_IMAGES = 55_000  # the first ones: the published figures' train split
STEPS = (50, 100, 200)


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
    head = {"weight": torch.tensor(weights["linear/w"]).T, "bias": torch.tensor(weights["linear/b"])}
    rule.head.load_state_dict(head)
    return rule


def _reordered(gates: np.ndarray) -> torch.Tensor:
    """(…, 4H) in the order i, j, f, o -> (4H, …) in the order i, f, j, o."""
    i, j, f, o = torch.tensor(gates).T.chunk(4)
    return torch.cat([i, f, j, o])


def main(weights: str, mnist: str, num_tasks: int = 32) -> None:
    """Mean training loss over the three steps up to each of `STEPS`, with its standard error over initialisations."""
    images = data.from_npz(mnist)
    images = images._replace(x_train=images.x_train[:TRAIN_IMAGES], y_train=images.y_train[:TRAIN_IMAGES])
    problem = Classifier(mlp(784, [20], 10), images, init_std=0.01)
    curves = learning_curves(published_lstm(weights), problem, num_tasks, STEPS[-1], seeds.generator(0))
    for step in STEPS:
        losses = curves.losses[step - 3 : step].mean(0)
        print(f"step {step:4d}: {losses.mean():.3f} ± {losses.std() / num_tasks**0.5:.3f} over {num_tasks} initialisations")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])

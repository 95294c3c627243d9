"""A trained optimizer on the small networks of the 2016 paper on MNIST, at several horizons, with one φ for them all.

Each network has 784 inputs and starts from N(0, 0.01²); minibatches have 128 images; the horizon is the column's. What
is printed is the mean of the last six losses over the initialisations, and its standard error. Baselines are in
`suite=mnist_columns`.

    python benchmarks/general_on_mnist.py mnist.npz [general] [--tasks 32]
"""

import argparse

import torch

import l2o
from l2o.data import from_npz
from l2o.optimizees import Classifier, mlp
from l2o.runs.errors import in_one_line

COLUMNS = [
    ("20 sigmoid units", [20], "sigmoid", (100, 200, 1000, 2000)),
    ("20 ReLU units", [20], "relu", (100,)),
    ("40 sigmoid units", [40], "sigmoid", (100,)),
    ("two layers of 20 sigmoid units", [20, 20], "sigmoid", (200,)),
]


@in_one_line
@torch.no_grad()
def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", help="an .npz file of MNIST")
    parser.add_argument("optimizer", nargs="?", default="general", help="what l2o.from_pretrained takes")
    parser.add_argument("--tasks", type=int, default=32, help="initialisations")
    given = parser.parse_args()
    rule, dataset = l2o.from_pretrained(given.optimizer), from_npz(given.images)
    for name, hidden, activation, horizons in COLUMNS:
        optimizee = Classifier(mlp(784, hidden, 10, activation=activation), dataset, 128, 0.01)
        for steps in horizons:
            generator = torch.Generator().manual_seed(0)
            losses = l2o.learning_curves(rule, optimizee, given.tasks, steps, generator).losses[-6:].mean(0)
            error = losses.std() / len(losses) ** 0.5
            print(f"{name}, {steps} steps: {losses.mean():.3f} ± {error:.1g}", flush=True)


if __name__ == "__main__":
    main()

"""Run published optimizers on the paper's MNIST problem, beside their published losses.

An independent check of rules, importer and optimizee. The weights (Chen et al. 2020, MIT licence, .npz: dm, dm_aug,
dm_cl_il, rnnprop) become rules as by `python -m l2o import`; Adam beside them says how far the problem agrees.
θ_0 ~ N(0, 0.01²), the first 55 000 images. The published numbers come without errors; the last column says how far each
lies from ours in standard errors of a mean over `--published-runs` initialisations at a single step.

    python benchmarks/published_lstm.py mnist.npz dm.npz rnnprop.npz … [--tasks 64]
"""

import argparse
from pathlib import Path

from l2o import data, seeds
from l2o.deploy.import_published import from_published
from l2o.evaluation.curves import learning_curves
from l2o.optimizees import Classifier, mlp
from l2o.optimizers import Adam, UpdateRule
from l2o.runs.errors import in_one_line

TRAIN_IMAGES = 55_000
PUBLISHED = {  # optimizer: {network: {step: mean training loss}}
    "Adam 0.03": {"20 sigmoid": {50: 0.563, 100: 0.373, 200: 0.314}},
    "dm": {
        "20 sigmoid": {50: 0.378, 100: 0.293, 200: 0.231},
        "20 relu": {100: 0.639, 200: 0.631},
        "40 sigmoid": {100: 0.233},
        "20 20 sigmoid": {200: 2.305},
    },
    "dm_aug": {"20 sigmoid": {50: 0.365, 100: 0.268, 200: 0.234}},
    "dm_cl_il": {
        "20 sigmoid": {50: 0.591, 100: 0.396, 200: 0.292},
        "20 relu": {100: 0.513, 200: 0.405},
        "40 sigmoid": {100: 0.334},
        "20 20 sigmoid": {200: 1.725},
    },
    "rnnprop": {
        "20 sigmoid": {50: 1.079, 100: 0.519, 200: 0.318},
        "20 relu": {100: 0.379, 200: 0.299},
        "40 sigmoid": {100: 0.350},
        "20 20 sigmoid": {200: 1.348},
    },
}


def report(name: str, rule: UpdateRule, images: data.Dataset, num_tasks: int, published_runs: int) -> None:
    """Mean over initialisations and the six steps up to each step, with its standard error; and how far the published
    number lies from it, in standard errors of a mean over `published_runs` initialisations at that one step."""
    for network, losses_at in PUBLISHED[name].items():
        *hidden, activation = network.split()
        problem = Classifier(mlp(784, [int(units) for units in hidden], 10, activation), images)
        losses = learning_curves(rule, problem, num_tasks, max(losses_at), seeds.generator(0)).losses
        for step, mean in losses_at.items():
            ours = losses[step - 6 : step].mean(0)
            error, one_run = ours.std() / num_tasks**0.5, losses[step - 1].std()
            away = (mean - ours.mean()) / (one_run / published_runs**0.5)
            line = f"{name:9} {network:14} step {step:3}: {ours.mean():.3f} ± {error:.3f} (one run ± {one_run:.3f})"
            print(f"{line}, published {mean:.3f}: {away:+.1f}", flush=True)


@in_one_line
def main() -> None:
    """Adam first, then the files in the order given."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mnist")
    parser.add_argument(
        "weights", nargs="+", help=f"files named {', '.join(name for name in PUBLISHED if name[0] != 'A')}"
    )
    parser.add_argument("--tasks", type=int, default=64)
    parser.add_argument("--published-runs", type=int, default=8, help="initialisations behind a published number")
    given = parser.parse_args()
    rules = {Path(path).stem: from_published(path) for path in given.weights}
    if unknown := rules.keys() - PUBLISHED.keys():
        raise ValueError(f"no published losses for {', '.join(unknown)}: known are {', '.join(PUBLISHED)}")
    images = data.from_npz(given.mnist)
    images = images._replace(x_train=images.x_train[:TRAIN_IMAGES], y_train=images.y_train[:TRAIN_IMAGES])
    for name, rule in ({"Adam 0.03": Adam(0.03)} | rules).items():
        report(name, rule, images, given.tasks, given.published_runs)


if __name__ == "__main__":
    main()

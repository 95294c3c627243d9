"""Run Adam on a published task, and see whether it reaches the published envelope of tuned Adam: is it the same task?

The task is `ImageMLP_Mnist_128x128x128_Relu` of google/learned_optimization: a ReLU network 784–128–128–128–10 on the
first 80 % of MNIST's training images, minibatches of 128, weights truncated normal with σ = 1/√fan-in, biases 0. As
there, Adam runs at 15 learning rates, half decades from 1e-6 to 10. Every 10 steps the training loss is evaluated on 5
minibatches; a curve is the mean over seeds, smoothed exponentially with .95; the envelope is the lowest of all curves
and steps so far.

    python benchmarks/published_envelope.py --mnist mnist.npz --envelopes adam_envelopes.json [--seeds 5]
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from l2o import data, seeds
from l2o.evaluation.cells import at_rates
from l2o.optimizees import Classifier, Optimizee, Repeated, mlp
from l2o.optimizers import Adam
from l2o.runs.errors import in_one_line
from l2o.unroll import start_episode, unroll

TASK = "ImageMLP_Mnist_128x128x128_Relu"
RATES = [10 ** (k / 2) for k in range(-12, 3)]
EVERY, BATCHES, SMOOTHING = 10, 5, 0.95
SHOWN = (196, 391, 978, 1957)
"""Steps at which the two envelopes are compared: knots of the published one, rounded."""


def training_losses(problem: Optimizee, num_steps: int, seed: int) -> Tensor:
    """Return the training losses of all rates at the steps 0, 10, 20, …, num_steps: (steps, rates)."""
    generator, copies = seeds.generator(seed), Repeated(problem, len(RATES))
    rule = at_rates(Adam(), RATES)
    episode = start_episode(rule, copies, len(RATES), generator)
    found = [_evaluated(copies, episode.theta, generator)]
    for _ in range(num_steps // EVERY):
        _, episode = unroll(rule, copies, episode, EVERY, generator)
        found.append(_evaluated(copies, episode.theta, generator))
    return torch.stack(found)


@torch.no_grad()
def _evaluated(problem: Optimizee, theta: Tensor, generator: torch.Generator) -> Tensor:
    """Return the mean loss of every row of θ over a few minibatches: (rates,)."""
    batches = (problem.sample_batch({}, len(theta), generator) for _ in range(BATCHES))
    return torch.stack([problem.losses(theta, batch) for batch in batches]).mean(0)


def envelope(curves: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the envelope (steps,) of curves (seeds, steps, rates); a rate that breaks down leaves it as it is."""
    means = np.where(np.isfinite(curves), curves, np.inf).mean(0)
    smooth = means.copy()
    for t in range(1, len(means)):
        smooth[t] = SMOOTHING * smooth[t - 1] + (1 - SMOOTHING) * means[t]
    return np.minimum.accumulate(smooth.min(1))


@in_one_line
def main() -> None:
    """Print both envelopes at some steps, and by how much they differ."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mnist", required=True, help="an .npz with x_train, y_train, x_test and y_test")
    parser.add_argument("--envelopes", required=True, help="a JSON file of published envelopes, task: [steps, losses]")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--seeds", type=int, default=5)
    given = parser.parse_args()
    knots, published = json.loads(Path(given.envelopes).read_text())[TASK]
    images = data.images_or_digits(given.mnist, train_fraction=0.8)
    problem = Classifier(mlp(784, [128, 128, 128], 10, "relu"), images, 128, init="truncated_normal")
    curves = []
    for seed in range(given.seeds):
        curves.append(training_losses(problem, given.steps, seed).double().numpy())
        print(f"seed {seed} done", flush=True)
    ours, steps = envelope(np.stack(curves)), np.arange(0, given.steps + 1, EVERY)
    for step in (step for step in SHOWN if step <= given.steps):
        knot = int(np.abs(np.array(knots) - step).argmin())
        mine, theirs = float(np.interp(knots[knot], steps, ours)), published[knot]
        print(f"step {step:4}: {mine:.4f}, published {theirs:.4f}: {mine / theirs - 1:+.1%}")


if __name__ == "__main__":
    main()

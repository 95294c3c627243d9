"""Train an MLP that no learned optimizer has seen, on MNIST, with RULEs and with tuned Adam, and draw all in a figure.

    python examples/unseen_mlp.py mnist.npz unseen.png RULE [RULE ...] [--steps 200] [--hidden 64] [--seeds 4]

The network starts as torch starts it. Adam's learning rate is the one of nine (0.0003 … 0.1) with the lowest final
loss, on seeds of its own. All optimizers see the same minibatches.
"""

import argparse
from collections.abc import Callable, Iterable
from functools import partial
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import l2o
from l2o.data import Dataset, from_npz
from l2o.figures.curves import plot_lines
from l2o.figures.lines import Line
from l2o.optimizers.card import horizon_of
from l2o.runs.errors import in_one_line

MakeOptimizer = Callable[[Iterable[tuple[str, nn.Parameter]]], torch.optim.Optimizer]


def curve(make: MakeOptimizer, data: Dataset, hidden: list[int], steps: int, seed: int) -> Tensor:
    """Train the network once, and return the losses (steps,), each before its step."""
    torch.manual_seed(seed)
    sizes = [data.x_train[0].numel(), *hidden]
    layers = [layer for pair in pairwise(sizes) for layer in (nn.Linear(*pair), nn.Sigmoid())]
    model = nn.Sequential(nn.Flatten(), *layers, nn.Linear(sizes[-1], data.num_classes))
    optimizer, losses = make(model.named_parameters()), torch.empty(steps)
    for step in range(steps):
        batch = torch.randint(len(data.x_train), (128,))
        loss = F.cross_entropy(model(data.images(data.x_train[batch])), data.y_train[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses[step] = loss.detach()
    return losses


def line(label: str, losses: Tensor, name: str, horizon: int | None = None) -> Line:
    """Average losses (seeds, steps) over the seeds, with the range between them as a band.

    An optimizer has the colour of its `name`. Adam, which is trained for no horizon, is the baseline.
    """
    mean, low, high = (values.double().numpy() for values in (losses.mean(0), losses.amin(0), losses.amax(0)))
    return Line(label, mean, name == "Adam", (low, high), horizon, name)


@in_one_line
def main() -> None:
    """Write the figure and print the final losses."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("data", "figure"):
        parser.add_argument(name)
    parser.add_argument("rules", nargs="+", metavar="RULE", help="a name of `python -m l2o list`, or a folder")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--hidden", type=int, nargs="+", default=[64])
    parser.add_argument("--seeds", type=int, default=4)
    given = parser.parse_args()

    data = from_npz(given.data)
    rules = {Path(name).name: l2o.from_pretrained(name) for name in given.rules}
    last = max(1, given.steps // 20)
    run = lambda make, seeds: torch.stack([curve(make, data, given.hidden, given.steps, seed) for seed in seeds])  # noqa: E731
    adam = lambda rate: lambda parameters: torch.optim.Adam(parameters, rate)  # noqa: E731
    rates = torch.logspace(-3.5, -1, 9).tolist()
    best = min(rates, key=lambda rate: run(adam(rate), [1000, 1001])[:, -last:].mean().item())
    seeds = range(given.seeds)
    lines = []
    for name, rule in rules.items():
        learned = partial(l2o.LearnedOptimizer, rule=rule, horizon=given.steps)
        lines.append(line(name, run(learned, seeds), name, horizon_of(rule.card)))
    lowest = min(lines, key=lambda one: one.losses[-last:].mean())
    lines = [
        one if one is lowest else one._replace(band=None) for one in lines
    ]  # more bands than two cannot be told apart
    lines.append(line(f"Adam, tuned (lr {best:.2g})", run(adam(best), seeds), "Adam"))
    sizes = "–".join(map(str, [data.x_train[0].numel(), *given.hidden, data.num_classes]))
    figure = plot_lines(lines, given.figure, f"MLP {sizes} (sigmoid), started by torch", "the range between the seeds")
    for one in lines:
        print(f"{one.label}: {one.losses[-last:].mean():.3f} over the last {last} of {given.steps} steps")
    print(f"figure: {figure}")


if __name__ == "__main__":
    main()

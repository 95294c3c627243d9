"""An MLP that no learned optimizer has seen, on MNIST: RULE beside Adam with a tuned learning rate, as a figure.

    python examples/unseen_mlp.py RULE mnist.npz unseen.png [--steps 200] [--hidden 64] [--seeds 4]

The network starts as torch starts it. Adam's learning rate is the one of nine (0.0003 … 0.1) with the lowest final
loss, on seeds of its own. All see the same minibatches.
"""

import argparse
from collections.abc import Callable, Iterable
from itertools import pairwise

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn import functional as F

import l2o
from l2o.data import Dataset, from_npz
from l2o.runs.errors import in_one_line

MakeOptimizer = Callable[[Iterable[tuple[str, nn.Parameter]]], torch.optim.Optimizer]


def curve(make: MakeOptimizer, data: Dataset, hidden: list[int], steps: int, seed: int) -> Tensor:
    """Training losses (steps,), each before its step."""
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


def draw(path: str, curves: dict[str, Tensor], title: str) -> None:
    """Mean over seeds of losses (seeds, steps), with the range between the seeds."""
    axes = (figure := Figure(figsize=(5.6, 4.2), layout="constrained")).add_subplot()
    for (name, losses), colour in zip(curves.items(), ("black", "#0072B2"), strict=False):
        steps = range(losses.shape[1])
        axes.plot(steps, losses.mean(0), label=name, color=colour)
        axes.fill_between(steps, losses.amin(0), losses.amax(0), color=colour, alpha=0.15, linewidth=0)
    axes.set(xlabel="Step", ylabel="Training loss", yscale="log", title=title)
    axes.legend()
    figure.savefig(path, dpi=160)


@in_one_line
def main() -> None:
    """Writes the figure and prints the final losses."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("rule", "data", "figure"):
        parser.add_argument(name)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--hidden", type=int, nargs="+", default=[64])
    parser.add_argument("--seeds", type=int, default=4)
    given = parser.parse_args()

    data, rule = from_npz(given.data), l2o.from_pretrained(given.rule)
    last = max(1, given.steps // 20)
    run = lambda make, seeds: torch.stack([curve(make, data, given.hidden, given.steps, seed) for seed in seeds])  # noqa: E731
    adam = lambda rate: lambda parameters: torch.optim.Adam(parameters, rate)  # noqa: E731
    rates = torch.logspace(-3.5, -1, 9).tolist()
    best = min(rates, key=lambda rate: run(adam(rate), [1000, 1001])[:, -last:].mean().item())
    seeds = range(given.seeds)
    curves = {
        f"learned ({type(rule).__name__})": run(lambda parameters: l2o.LearnedOptimizer(parameters, rule), seeds),
        f"Adam, tuned (lr {best:.2g})": run(adam(best), seeds),
    }
    sizes = "–".join(map(str, [data.x_train[0].numel(), *given.hidden, data.num_classes]))
    draw(given.figure, curves, f"{sizes}, sigmoid")
    for name, losses in curves.items():
        print(f"{name}: {losses[:, -last:].mean():.3f} over the last {last} of {given.steps} steps")
    print(f"figure: {given.figure}")


if __name__ == "__main__":
    main()

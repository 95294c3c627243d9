"""How much a step of the shipped optimizer `general` costs beside one of `torch.optim.Adam`, on small ordinary models.

    python benchmarks/general_step.py [--rounds N] [--threads N]

Two copies of a model are trained in turns, on one machine, in one run. Of each the median time of the optimizer's step
alone, of the whole step with the gradient, and the median of the rounds' ratios to Adam: what disturbs a machine for
some seconds disturbs both. `L2O_KERNEL=0` in the environment shows what the compiled kernels are worth.
"""

import argparse
import copy
import statistics
import time
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn

import l2o

BATCH = 64
LENGTH, WORDS = 32, 64
"""Of the transformer's texts: tokens, and how many kinds of them there are."""


class Transformer(nn.Module):
    """Predict the kind of a text from its tokens, by two layers of a transformer."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(WORDS, 64)
        layer = nn.TransformerEncoderLayer(64, 4, 128, dropout=0.0, batch_first=True)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(64, 10)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, LENGTH) -> (B, 10)."""
        return self.head(self.layers(self.embed(tokens)).mean(1))


def perceptron(*sizes: int) -> nn.Module:
    """A network of linear layers with ReLU between them."""
    layers = [nn.Linear(inputs, outputs) for inputs, outputs in pairwise(sizes)]
    return nn.Sequential(*[part for layer in layers for part in (layer, nn.ReLU())][:-1])


def convolutional() -> nn.Module:
    """A network of three convolutions for images 3×16×16."""
    parts: list[nn.Module] = []
    for inputs, outputs in ((3, 16), (16, 32), (32, 32)):
        parts += [nn.Conv2d(inputs, outputs, 3, stride=2, padding=1), nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(*parts, nn.Flatten(), nn.Linear(128, 10))


MODELS: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor]]] = {
    "MLP 20–40–30–10": (lambda: perceptron(20, 40, 30, 10), lambda: torch.randn(BATCH, 20)),
    "MLP 64–128–10": (lambda: perceptron(64, 128, 10), lambda: torch.randn(BATCH, 64)),
    "MLP 784–128–128–10": (lambda: perceptron(784, 128, 128, 10), lambda: torch.randn(BATCH, 784)),
    "three convolutions": (convolutional, lambda: torch.randn(BATCH, 3, 16, 16)),
    "transformer, two layers of 64": (Transformer, lambda: torch.randint(WORDS, (BATCH, LENGTH))),
}


class Training:
    """A model with an optimizer, on one batch."""

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer, inputs: Tensor, labels: Tensor):
        self.model, self.optimizer, self.inputs, self.labels = model, optimizer, inputs, labels

    def step(self) -> tuple[float, float]:
        """Train for one step; give the seconds of the optimizer's step, and of all of it."""
        began = time.perf_counter()
        loss = nn.functional.cross_entropy(self.model(self.inputs), self.labels)
        self.optimizer.zero_grad()
        loss.backward()
        ready = time.perf_counter()
        self.optimizer.step()
        done = time.perf_counter()
        return done - ready, done - began


def main() -> None:
    """Time all models and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=300)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(f"{arguments.threads} threads, torch {torch.__version__}")
    print("| model | parameters | Adam's step, ms | general's, ms | ratio | with the gradient, ms | ratio |")
    print("|---" * 7 + "|")
    for name, (build, draw) in MODELS.items():
        torch.manual_seed(0)
        model, inputs, labels = build(), draw(), torch.randint(10, (BATCH,))
        other = copy.deepcopy(model)
        trainings = (
            Training(model, torch.optim.Adam(model.parameters()), inputs, labels),
            Training(
                other,
                l2o.LearnedOptimizer(other.named_parameters(), l2o.from_pretrained("general"), horizon=10**6),
                inputs,
                labels,
            ),
        )
        for training in trainings:
            for _ in range(20):
                training.step()
        rounds = [[training.step() for training in trainings] for _ in range(arguments.rounds)]
        adam, general = (
            [1e3 * statistics.median(times) for times in zip(*own, strict=True)] for own in zip(*rounds, strict=True)
        )
        ratios = [statistics.median(own[what] / base[what] for base, own in rounds) for what in (0, 1)]
        count = sum(parameter.numel() for parameter in model.parameters())
        print(
            f"| {name} | {count} | {adam[0]:.2f} | {general[0]:.2f} | {ratios[0]:.1f} | "
            f"{adam[1]:.2f}, {general[1]:.2f} | {ratios[1]:.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()

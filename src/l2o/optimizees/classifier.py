"""Training a classifier: any network, any dataset, a fresh random minibatch for every evaluation.

Shapes: B tasks, P parameters of the network, N images of a minibatch, C classes.
"""

import math
from typing import Self

import torch
from torch import Generator, Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.dropout import _DropoutNd

from l2o.data.datasets import Dataset
from l2o.data.reasons import reason
from l2o.optimizees.base import Batch, Optimizee
from l2o.optimizees.layout import Layout
from l2o.optimizees.networks import ColoursFirst

TEST_IMAGES = 1000


class Classifier(Optimizee):
    """f(θ) = cross-entropy of network(x; θ) on a random minibatch of the train split, θ_0 ~ N(0, init_std²).

    The network is any `nn.Module` from images (N, *shape) to logits (N, C); only its shapes are used, never its own
    initial parameters. Raises ValueError where it does not fit the dataset or keeps state between calls.
    """

    def __init__(self, network: nn.Module, dataset: Dataset, batch_size: int = 128, init_std: float = 0.01):
        if batch_size < 1 or init_std < 0:
            raise ValueError(f"batch_size must be >= 1 and init_std >= 0, got {batch_size} and {init_std}")
        _refuse_hidden_state(network)
        self.network, self.dataset, self.batch_size, self.init_std = network, dataset, batch_size, init_std
        self.convolves = any(isinstance(module, _ConvNd) for module in network.modules())
        self.layout = Layout.of_module(network)
        self._check_fit()

    def sample(self, num_tasks: int, generator: Generator) -> tuple[Tensor, Batch]:
        theta = torch.randn(num_tasks, self.layout.size, generator=generator, device=generator.device)
        return self.init_std * theta, {}

    def sample_batch(self, task: Batch, num_tasks: int, generator: Generator) -> Batch:
        return self._batch(self.dataset.x_train, self.dataset.y_train, num_tasks, generator)

    def sample_test_batch(self, task: Batch, num_tasks: int, generator: Generator) -> Batch:
        """Draw a minibatch of the test split for each of B tasks."""
        return self._batch(self.dataset.x_test, self.dataset.y_test, num_tasks, generator)

    def _batch(self, images: Tensor, labels: Tensor, num_tasks: int, generator: Generator) -> Batch:
        shape = num_tasks, self.batch_size
        index = torch.randint(len(labels), shape, generator=generator, device=generator.device)
        return {"x": self.dataset.images(images[index]), "y": labels[index]}

    def loss(self, theta: Tensor, batch: Batch) -> Tensor:
        return F.cross_entropy(self._logits(theta, batch["x"]), batch["y"])

    def tasks_at_once(self, theta: Tensor) -> int:
        """Take tasks one by one where a network convolves on a CPU: there vmap's convolutions take thrice as long."""
        return 1 if self.convolves and theta.device.type == "cpu" else len(theta)

    @torch.no_grad()
    def metrics(self, theta: Tensor, task: Batch) -> dict[str, Tensor]:
        """Give loss and accuracy on the test split, each (B,). The split goes through the network in equal pieces of at
        most a thousand images, so that it fits into memory; batch norm's statistics are those of a piece."""
        x_test, y_test = self.dataset.x_test, self.dataset.y_test
        pieces = math.ceil(len(y_test) / TEST_IMAGES)
        loss, correct = theta.new_zeros(2, len(theta))
        for x, labels in zip(x_test.tensor_split(pieces), y_test.tensor_split(pieces), strict=True):
            images = self.dataset.images(x)
            for b, one in enumerate(theta):
                logits = self._logits(one, images)
                loss[b] += F.cross_entropy(logits, labels, reduction="sum")
                correct[b] += (logits.argmax(-1) == labels).sum()
        return {"test_loss": loss / len(y_test), "test_accuracy": correct / len(y_test)}

    def to(self, device: torch.device | str) -> Self:
        self.network.to(device)
        self.dataset = self.dataset.to(device)
        return self

    def _logits(self, theta: Tensor, x: Tensor) -> Tensor:
        return functional_call(self.network, self.layout.unravel(theta), (x,))

    def _check_fit(self) -> None:
        images, classes = self.dataset.images(self.dataset.x_train[:2]), self.dataset.num_classes
        before = torch.get_rng_state()
        try:
            with torch.no_grad():
                logits = self._logits(torch.zeros(self.layout.size), images)
        except (RuntimeError, ValueError, IndexError) as error:
            shape = tuple(images.shape[1:])
            raise ValueError(
                f"the network does not take this dataset's images of shape {shape}: {reason(error)}. "
                f"{_remedy(self.network, shape)}"
            ) from error
        if not torch.equal(torch.get_rng_state(), before):
            raise ValueError(
                "the network draws from torch's global generator (dropout?), outside the episode's: "
                "call .eval() on it or leave its random layers out"
            )
        if logits.ndim != 2 or logits.shape[1] < classes:
            raise ValueError(
                f"the network gives {tuple(logits.shape[1:])} outputs but labels go up to {classes - 1}: "
                f"set its out_features to {classes}"
            )


def _remedy(network: nn.Module, shape: tuple[int, ...]) -> str:
    """Say what to change where a network does not take images of this shape."""
    if any(isinstance(module, ColoursFirst) for module in network.modules()):
        return "Choose dataset=… or the network's image_size and in_channels to match"
    if len(shape) == 3 and any(isinstance(module, _ConvNd) for module in network.modules()):
        return "Colours come last in a dataset: begin the network with l2o.optimizees.networks.ColoursFirst(channels)"
    return f"Choose dataset=… or the network's in_features to match: {math.prod(shape)}"


def _refuse_hidden_state(network: nn.Module) -> None:
    for name, module in network.named_modules():
        if isinstance(module, _NormBase) and module.track_running_stats:
            raise ValueError(
                f"'{name}' keeps running statistics, which are no function of θ: "
                "build it with track_running_stats=False"
            )
        if isinstance(module, _DropoutNd) and module.p > 0 and module.training:
            raise ValueError(
                f"'{name}' is active dropout, which draws outside the episode's generator: "
                "set p=0 or call .eval() on it"
            )

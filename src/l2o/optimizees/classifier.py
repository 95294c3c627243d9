"""Training a classifier: any network, any dataset, a fresh random minibatch for every evaluation.

Shapes: B tasks, P parameters of the network, N images of a minibatch, C classes.
"""

import math
from typing import Self

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.conv import _ConvNd

from l2o.data.datasets import Dataset
from l2o.optimizees.base import Batch
from l2o.optimizees.initial import Std
from l2o.optimizees.kernels import chain
from l2o.optimizees.network_loss import NetworkLoss, refuse_other_data
from l2o.optimizees.networks import ColoursFirst

TEST_IMAGES = 1000


class Classifier(NetworkLoss):
    """f(θ) = cross-entropy of network(x; θ) on a random minibatch of the train split.

    The network is any `nn.Module` from images (N, *shape) to logits (N, C); only its shapes are used. θ_0 ~
    N(0, init_std²) unless `init` chooses another start: see `NetworkLoss`. With `noise`, every number of every drawn
    image is moved by N(0, noise²), so that few images cannot be learned by heart; the metrics are without noise. Raises
    ValueError where the network does not fit the dataset or keeps state between calls.
    """

    def __init__(
        self,
        network: nn.Module,
        dataset: Dataset,
        batch_size: int = 128,
        init_std: Std = 0.01,
        init: str = "normal",
        noise: float = 0.0,
    ):
        super().__init__(network, batch_size, init_std, init)
        refuse_other_data(dataset)
        if not 0 <= noise < math.inf:
            raise ValueError(f"noise must be a standard deviation >= 0, got {noise}")
        self.dataset, self.noise = dataset, noise
        self._check_fit()

    def sample_batch(self, task: Batch, num_tasks: int, generator: Generator) -> Batch:
        return self._batch(self.dataset.x_train, self.dataset.y_train, num_tasks, generator)

    def sample_test_batch(self, task: Batch, num_tasks: int, generator: Generator) -> Batch:
        """Draw a minibatch of the test split for each of B tasks."""
        return self._batch(self.dataset.x_test, self.dataset.y_test, num_tasks, generator)

    def _batch(self, images: Tensor, labels: Tensor, num_tasks: int, generator: Generator) -> Batch:
        shape = num_tasks, self.batch_size
        index = torch.randint(len(labels), shape, generator=generator, device=generator.device)
        x = self.dataset.minibatch(images, index)
        if self.noise > 0:
            x = x + self.noise * torch.randn(x.shape, generator=generator, device=generator.device)
        return {"x": x, "y": labels[index]}

    def loss(self, theta: Tensor, batch: Batch) -> Tensor:
        return F.cross_entropy(self._output(theta, batch["x"]), batch["y"])

    def _compiled(self, theta: Tensor, batch: Batch) -> tuple[Tensor, Tensor] | None:
        kind = chain.Loss.CROSS_ENTROPY
        return chain.loss_and_grad(self._chain(Classifier), kind, theta, batch["x"], batch["y"])

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
                logits = self._output(one, images)
                loss[b] += F.cross_entropy(logits, labels, reduction="sum")
                correct[b] += (logits.argmax(-1) == labels).sum()
        return {"test_loss": loss / len(y_test), "test_accuracy": correct / len(y_test)}

    def to(self, device: torch.device | str) -> Self:
        self.dataset = self.dataset.to(device)
        return super().to(device)

    def _num_pixels(self) -> int:
        return self.batch_size * math.prod(self.dataset.x_train.shape[1:3])

    def _check_fit(self) -> None:
        images, classes = self.dataset.images(self.dataset.x_train[:2]), self.dataset.num_classes
        shape = tuple(images.shape[1:])
        wrong = f"the network does not take this dataset's images of shape {shape}"
        logits = self._try(images, wrong, _remedy(self.network, shape))
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

"""Training an autoencoder on the images of any dataset.

Shapes: B tasks, P parameters of the network, N images of a minibatch, F numbers of an image.
"""

from typing import Self

import torch
from torch import Generator, Tensor, nn

from l2o.data.datasets import Dataset
from l2o.optimizees.base import Batch
from l2o.optimizees.initial import Std
from l2o.optimizees.kernels import chain
from l2o.optimizees.network_loss import NetworkLoss, refuse_other_data

TEST_IMAGES = 1000


class Autoencoder(NetworkLoss):
    """f(θ) = mean of (x − sigmoid(network(x; θ)))² over the numbers of the images of a random minibatch.

    The network is any `nn.Module` from images (N, *shape) to logits (N, F), one for each number of an image; images lie
    in [0, 1]. This is the loss of the tasks `ImageMLPAE_…` of google/learned_optimization. For `init` and `init_std`
    see `NetworkLoss`. Raises ValueError where the network does not fit the dataset.
    """

    def __init__(
        self, network: nn.Module, dataset: Dataset, batch_size: int = 128, init_std: Std = 0.01, init: str = "torch"
    ):
        super().__init__(network, batch_size, init_std, init)
        refuse_other_data(dataset)
        self.dataset = dataset
        self._check_fit()

    def sample_batch(self, task: Batch, num_tasks: int, generator: Generator) -> Batch:
        return self._batch(self.dataset.x_train, num_tasks, generator)

    def sample_test_batch(self, task: Batch, num_tasks: int, generator: Generator) -> Batch:
        """Draw a minibatch of the test split for each of B tasks."""
        return self._batch(self.dataset.x_test, num_tasks, generator)

    def loss(self, theta: Tensor, batch: Batch) -> Tensor:
        return (batch["x"].flatten(1) - self._output(theta, batch["x"]).sigmoid()).square().mean()

    def _compiled(self, theta: Tensor, batch: Batch) -> tuple[Tensor, Tensor] | None:
        return chain.loss_and_grad(self._chain(Autoencoder), chain.Loss.SIGMOID_SQUARES, theta, batch["x"])

    @torch.no_grad()
    def metrics(self, theta: Tensor, task: Batch) -> dict[str, Tensor]:
        """Give the loss on the test split (B,)."""
        x_test = self.dataset.x_test
        total = theta.new_zeros(len(theta))
        for piece in x_test.split(TEST_IMAGES):
            images = self.dataset.images(piece)
            total += torch.stack([self.loss(one, {"x": images}) for one in theta]) * len(piece)
        return {"test_loss": total / len(x_test)}

    def to(self, device: torch.device | str) -> Self:
        self.dataset = self.dataset.to(device)
        return super().to(device)

    def _batch(self, images: Tensor, num_tasks: int, generator: Generator) -> Batch:
        shape = num_tasks, self.batch_size
        index = torch.randint(len(images), shape, generator=generator, device=generator.device)
        return {"x": self.dataset.minibatch(images, index)}

    def _num_pixels(self) -> int:
        return self.batch_size * self.dataset.x_train.shape[1:3].numel()

    def _check_fit(self) -> None:
        images = self.dataset.images(self.dataset.x_train[:2])
        shape, size = tuple(images.shape[1:]), images[0].numel()
        remedy = f"Choose the network's in_features and out_features to match: {size}"
        logits = self._try(images, f"the network does not take this dataset's images of shape {shape}", remedy)
        if logits.shape[1:] != (size,):
            raise ValueError(
                f"the network gives {tuple(logits.shape[1:])} outputs for images of {size} numbers: "
                f"set its out_features to {size}"
            )
        if images.min() < 0 or images.max() > 1:
            raise ValueError("an autoencoder's images must lie in [0, 1], because it gives numbers there: scale them")

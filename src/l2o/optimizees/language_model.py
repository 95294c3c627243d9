"""Training a model of characters on a text.

Shapes: B tasks, P parameters of the network, N pieces of a minibatch, T letters of a piece.
"""

from typing import Self

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from l2o.data.texts import Text
from l2o.optimizees.base import Batch
from l2o.optimizees.initial import Std
from l2o.optimizees.network_loss import NetworkLoss

TEST_PIECES = 64


class LanguageModel(NetworkLoss):
    """f(θ) = mean cross-entropy, in nats, of every next byte in N random pieces of a text, T bytes each.

    The network is any `nn.Module` from bytes (N, T) to logits (N, T, letters) that does not look ahead. For `init` and
    `init_std` see `NetworkLoss`. Raises ValueError where the network does not fit the text, or the text is too short.
    """

    def __init__(
        self,
        network: nn.Module,
        text: Text,
        batch_size: int = 16,
        length: int = 32,
        init_std: Std = 0.01,
        init: str = "torch",
    ):
        super().__init__(network, batch_size, init_std, init)
        if not isinstance(text, Text):
            raise ValueError(f"a model of characters learns a text, got {type(text).__name__}: choose dataset=text")
        if not 1 <= length < min(len(text.train), len(text.test)):
            shorter = min(len(text.train), len(text.test))
            raise ValueError(f"length must be at least 1 and below the {shorter} letters of a split, got {length}")
        self.text, self.length = text, length
        self._check_fit()

    def sample_batch(self, task: Batch, num_tasks: int, generator: Generator) -> Batch:
        return self._batch(self.text.train, num_tasks, generator)

    def sample_test_batch(self, task: Batch, num_tasks: int, generator: Generator) -> Batch:
        """Draw pieces of the test split for each of B tasks."""
        return self._batch(self.text.test, num_tasks, generator)

    def loss(self, theta: Tensor, batch: Batch) -> Tensor:
        return F.cross_entropy(self._output(theta, batch["x"]).flatten(0, -2), batch["y"].flatten())

    @torch.no_grad()
    def metrics(self, theta: Tensor, task: Batch) -> dict[str, Tensor]:
        """Give the loss (B,) on at most 64 pieces that lie evenly in the test split."""
        last = len(self.text.test) - self.length - 1
        starts = torch.linspace(0, last, min(TEST_PIECES, last + 1), device=self.text.test.device).long()
        batch = _pieces(self.text.test, starts, self.length)
        return {"test_loss": torch.stack([self.loss(one, batch) for one in theta])}

    def to(self, device: torch.device | str) -> Self:
        self.text = self.text.to(device)
        return super().to(device)

    def _batch(self, letters: Tensor, num_tasks: int, generator: Generator) -> Batch:
        shape, count = (num_tasks, self.batch_size), len(letters) - self.length
        return _pieces(letters, torch.randint(count, shape, generator=generator, device=generator.device), self.length)

    def _check_fit(self) -> None:
        letters = 1 + int(max(self.text.train.max(), self.text.test.max()))
        x = self.text.train[: self.length].expand(2, -1)
        remedy = f"Choose its number of positions to match, and {letters} letters or more"
        logits = self._try(x, f"the network does not take pieces of {self.length} letters", remedy)
        if logits.shape[:-1] != x.shape or logits.shape[-1] < letters:
            raise ValueError(
                f"the network gives {tuple(logits.shape[1:])} for a piece, and {self.length} letters need "
                f"({self.length}, {letters}) or more: a row of logits for every next letter"
            )


def _pieces(letters: Tensor, starts: Tensor, length: int) -> Batch:
    """Return the pieces (…, T) that begin at `starts` (…), and for each letter the one that follows it."""
    index = starts[..., None] + torch.arange(length, device=starts.device)
    return {"x": letters[index], "y": letters[index + 1]}

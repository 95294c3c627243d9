"""Training a network: what a classifier, an autoencoder and a language model have in common.

Shapes: B tasks, P parameters of the network, N examples of a minibatch.
"""

from typing import Self

import torch
from torch import Generator, Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.dropout import _DropoutNd

from l2o.data.datasets import Dataset
from l2o.data.reasons import reason
from l2o.optimizees import initial
from l2o.optimizees.base import Batch, Optimizee
from l2o.optimizees.kernels import chain
from l2o.optimizees.layout import Layout

FEW_PIXELS = 4096
"""Convolutions over minibatches of at most so many pixels are fastest on a CPU for all tasks at once. Measured on one
core with a small residual network: at 8×8×64 pixels vmap takes two thirds of the loop's time, at 14×14×128 twice it."""


class NetworkLoss(Optimizee):
    """f(θ) = a loss of network(x; θ) on a random minibatch.

    The network is any `nn.Module`; only its shapes are used, never its own initial parameters. `init` says how θ_0 is
    drawn (`l2o.optimizees.initial`): "normal" is N(0, init_std²) for all parameters, where `init_std` may be a range
    from which every task draws its own; "torch" is what torch draws when it builds the modules; "truncated_normal" and
    "orthogonal" follow the width of each layer. Raises ValueError for a network that keeps state between calls or
    draws random numbers, and for an init that does not exist or does not fit the network.

    A subclass calls `_try` at the end of its constructor.
    """

    def __init__(self, network: nn.Module, batch_size: int, init_std: initial.Std, init: str):
        if batch_size < 1:
            raise ValueError(f"batch_size must be >= 1, got {batch_size}")
        _refuse_hidden_state(network)
        self.network, self.batch_size, self.init_std, self.init = network, batch_size, init_std, init
        self.convolves = any(isinstance(module, _ConvNd) for module in network.modules())
        self.layout = Layout.of_module(network)
        initial.check(network, self.layout, init, init_std)

    def sample(self, num_tasks: int, generator: Generator) -> tuple[Tensor, Batch]:
        draw = initial.initial_theta
        return draw(self.network, self.layout, num_tasks, generator, self.init, self.init_std), {}

    def tasks_at_once(self, theta: Tensor) -> int:
        """Take tasks one by one where a network convolves many pixels on a CPU: there vmap's convolutions take two to
        three times as long."""
        one_by_one = self.convolves and theta.device.type == "cpu" and self._num_pixels() > FEW_PIXELS
        return 1 if one_by_one else len(theta)

    def to(self, device: torch.device | str) -> Self:
        self.network.to(device)
        return self

    def _loss_and_grad(self, theta: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        return self._compiled(theta, batch) or super()._loss_and_grad(theta, batch)

    def _compiled(self, theta: Tensor, batch: Batch) -> tuple[Tensor, Tensor] | None:
        """Give f(θ) (B,) and ∇f(θ) (B, P) by a compiled kernel, or None where there is none for this network and loss.

        A subclass that has one asks `_chain` whether the kernel knows the network.
        """
        return None

    def _chain(self, owner: type["NetworkLoss"]) -> chain.Chain | None:
        """Return the network as the compiled kernel knows it, or None.

        It is None as well where a subclass of `owner` has another loss than that of `owner`, which the kernel computes.
        """
        own = type(self)
        same = own.loss is owner.loss and own.losses is Optimizee.losses and own._output is NetworkLoss._output
        return chain.chain_of(self.network, self.layout) if same else None

    def _num_pixels(self) -> int:
        """Return how many pixels a minibatch of one task has."""
        return self.batch_size

    def _output(self, theta: Tensor, x: Tensor) -> Tensor:
        return functional_call(self.network, self.layout.parameters(theta), (x,))

    def _try(self, x: Tensor, does_not_fit: str, remedy: str) -> Tensor:
        """Return what the network gives for a small minibatch x.

        Raises a ValueError where the network does not take x, `does_not_fit` and torch's reason and `remedy`; and where
        the network draws random numbers.
        """
        before = torch.get_rng_state()
        try:
            with torch.no_grad():
                output = self._output(torch.zeros(self.layout.size), x)
        except (RuntimeError, ValueError, IndexError) as error:
            raise ValueError(f"{does_not_fit}: {reason(error)}. {remedy}") from error
        if not torch.equal(torch.get_rng_state(), before):
            raise ValueError(
                "the network draws from torch's global generator (dropout?), outside the episode's: "
                "call .eval() on it or leave its random layers out"
            )
        return output


def refuse_other_data(dataset: object) -> None:
    """Raise ValueError for data that are no images with labels, such as a text."""
    if not isinstance(dataset, Dataset):
        raise ValueError(
            f"a network of images learns a Dataset, got {type(dataset).__name__}: choose dataset=digits or another of "
            "images; models of characters (optimizee=char_gru) learn dataset=text"
        )


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

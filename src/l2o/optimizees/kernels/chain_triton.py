"""Losses and gradients of chains of linear layers on an NVIDIA GPU, in Triton. Not measured on a GPU.

The function is that of `chain_cpp`: one launch for the losses and the gradients of all tasks, where plain torch takes
some forty. One program takes a task with its whole minibatch; what lies between two layers stays in registers, so that
only small layers and minibatches are served. The code serves float32 and float64; `serves` offers float32 alone. The
kernel is in `chain_triton_source`; this module can be imported without Triton.

Shapes: B tasks, P coordinates, N examples of a minibatch, I numbers of an example.
"""

import functools
from typing import Any, NamedTuple

import torch
from torch import Tensor

from l2o.native import triton_device
from l2o.native.triton_device import padded
from l2o.optimizees.kernels.chain_links import Chain, Loss

MAX_EXAMPLES, MAX_OUTPUTS, MAX_LAYERS = 128, 64, 6
TILE_NUMBERS = 8192  # of the tiles of examples and outputs of all layers: beyond, registers spill
BLOCK = 32  # numbers of an example that the first layer takes at a time
OPTIONS = {"num_warps": 8, "num_stages": 1, "enable_fp_fusion": True}


class Layer(NamedTuple):
    """Hold what the kernel is compiled for, of one layer: a `Link`, and the sizes of its tiles."""

    inputs: int
    outputs: int
    weight: int
    bias: int
    activation: int
    slope: float
    scale: float
    padded_inputs: int
    padded_outputs: int


class Layers(NamedTuple):
    """Hold what the kernel is compiled for."""

    layers: tuple[Layer, ...]
    depth: int
    loss: int
    padded_examples: int
    precision: str


def serves(chain: Chain, kind: Loss, theta: Tensor, x: Tensor) -> bool:
    """Say whether the kernel takes such a chain, θ (B, P) and x (B, N, …).

    It is compiled and tried the first time; one line warns where that fails.
    """
    outputs, examples = max(link.outputs for link in chain), x.shape[1]
    return (
        theta.dtype == torch.float32
        and triton_device.offered(theta.device)
        and len(chain) <= MAX_LAYERS
        and outputs <= MAX_OUTPUTS
        and examples <= MAX_EXAMPLES
        and padded(examples) * padded(outputs) * len(chain) <= TILE_NUMBERS
        and _works(theta.device, _layers(chain, kind, examples), examples)
    )


def loss_and_grad(
    chain: Chain, kind: Loss, theta: Tensor, x: Tensor, labels: Tensor | None, decay: float
) -> tuple[Tensor, Tensor]:
    """Give the losses (B,) and the gradient (B, P) for θ (B, P), x (B, N, I) and labels (B, N).

    As in torch, an example with the label −100 does not count. The loss and the gradient of a minibatch with any other
    label that is no class are nan. Sizes are not checked: see `l2o.optimizees.kernels.chain`, which calls it.
    """
    layers = _layers(chain, kind, x.shape[1])
    return _evaluate(layers, theta, x, labels, decay)


def _evaluate(layers: Layers, theta: Tensor, x: Tensor, labels: Tensor | None, decay: float) -> tuple[Tensor, Tensor]:
    from l2o.optimizees.kernels.chain_triton_source import evaluate

    theta, x = _rows(theta), _rows(x)
    if labels is None:
        labels = x  # which nobody reads as labels
    elif labels.stride(1) != 1:
        labels = labels.contiguous()
    grad, losses = theta.new_empty(theta.shape), theta.new_empty(len(theta))
    kernel: Any = evaluate
    if len(theta):
        with triton_device.on(theta.device):
            kernel[(len(theta),)](
                *(theta, theta.stride(0), x, x.stride(0), x.stride(1), labels, labels.stride(0), x.shape[1]),
                *(decay, losses, grad, grad.stride(0), layers, decay != 0, BLOCK),
                **OPTIONS,
            )
    return losses, grad


@functools.cache
def _layers(chain: Chain, kind: Loss, examples: int) -> Layers:
    """Give what the kernel is compiled for."""
    tiles = [(padded(link.inputs), padded(link.outputs)) for link in chain]
    found = [Layer(*link[:4], int(link.activation), *link[5:], *tile) for link, tile in zip(chain, tiles, strict=True)]
    return Layers(tuple(found), len(found), int(kind), max(16, padded(examples)), triton_device.PRECISION)


def _rows(tensor: Tensor) -> Tensor:
    """Give a tensor whose last axis is contiguous; the other axes may have any distance."""
    return tensor if tensor.stride(-1) == 1 or tensor.shape[-1] == 1 else tensor.contiguous()


@functools.cache
def _works(device: torch.device, layers: Layers, examples: int) -> bool:
    """Compile the kernel for minibatches of this size and run it on two tasks; False after a warning if that fails."""

    def attempt() -> Tensor:
        size = sum(layer.outputs * (layer.inputs + (layer.bias >= 0)) for layer in layers.layers)
        theta, x = torch.zeros(2, size, device=device), torch.ones(2, examples, layers.layers[0].inputs, device=device)
        labels = torch.zeros(2, examples, dtype=torch.int64, device=device) if layers.loss == 0 else None
        return _evaluate(layers, theta, x, labels, 0.0)[1]

    return triton_device.works(device, "the Triton kernel of linear layers", attempt)

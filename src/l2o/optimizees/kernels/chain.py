"""Networks that are chains of linear layers and elementwise activations, as the compiled kernel knows them.

Such a network needs no autograd, and for small networks autograd takes most of the time. `loss_and_grad` computes the
loss and the gradient of every task at once, straight into the flat gradient, or says that it cannot: then plain torch
does it, which is the reference.

Shapes: B tasks, P coordinates, N examples of a minibatch, I numbers of an example, C classes.
"""

from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor, nn

from l2o.native.watching import is_transformed
from l2o.optimizees.kernels import chain_cpp, chain_triton
from l2o.optimizees.kernels.chain_links import Activation, Chain, Link, Loss
from l2o.optimizees.layout import Layout

LARGE = 20_000_000
"""Multiply-adds of an evaluation that are worth several threads: about half a millisecond of one."""

SELU_SLOPE, SELU_SCALE = 1.6732632423543772848170429916717, 1.0507009873554804934193349852946


def chain_of(network: nn.Module, layout: Layout) -> Chain | None:
    """Return a network as a chain, or None where it is anything else.

    Only torch's own modules count, and only without hooks: what a subclass or a hook does is not known here. A weight
    that two layers share is not known either.
    """
    found: list[Link] = []
    for index, (name, module) in enumerate(_pieces(network, "")):
        if type(module) is nn.Linear:
            if (link := _link(name, module, layout)) is None:
                return None
            found.append(link)
        elif type(module) is nn.Flatten:
            if index or (module.start_dim, module.end_dim) != (1, -1):
                return None
        else:
            activation = _activation(module)
            if activation is None or not found or found[-1].activation:
                return None
            found[-1] = found[-1]._replace(**activation)
    return tuple(found) if found and len(layout.shapes) == sum(1 + (link.bias >= 0) for link in found) else None


def _pieces(module: nn.Module, name: str) -> Iterator[tuple[str, nn.Module]]:
    """Yield the modules of nested sequences in order, with their names, without those that do nothing.

    A module with hooks is yielded as a bare `nn.Module`, which nobody knows.
    """
    hooks = module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks
    if any(hooks) or "forward" in vars(module):
        yield name, nn.Module()
    elif type(module) is nn.Sequential:
        for key, part in module._modules.items():
            if part is not None:
                yield from _pieces(part, f"{name}{key}.")
    elif type(module) is not nn.Identity:
        yield name, module


def _link(name: str, module: nn.Linear, layout: Layout) -> Link | None:
    weight, bias = f"{name}weight", f"{name}bias"
    shape = module.out_features, module.in_features
    if layout.shapes.get(weight) != shape:
        return None
    if module.bias is None:
        return Link(shape[1], shape[0], layout.slices[weight].start, -1)
    if layout.shapes.get(bias) != shape[:1]:
        return None
    return Link(shape[1], shape[0], layout.slices[weight].start, layout.slices[bias].start)


_PLAIN = {
    nn.ReLU: Activation.RELU,
    nn.Sigmoid: Activation.SIGMOID,
    nn.Tanh: Activation.TANH,
    nn.SiLU: Activation.SILU,
}


def _activation(module: nn.Module) -> dict[str, int | float] | None:
    """Return an activation as fields of a `Link`, or None for a module that is none of those that are known."""
    if activation := _PLAIN.get(type(module)):  # type: ignore[arg-type]
        return {"activation": activation}
    if type(module) is nn.GELU and module.approximate == "none":
        return {"activation": Activation.GELU}
    if type(module) is nn.LeakyReLU:
        return {"activation": Activation.LEAKY_RELU, "slope": float(module.negative_slope)}
    if type(module) is nn.ELU:
        return {"activation": Activation.ELU, "slope": float(module.alpha)}
    if type(module) is nn.SELU:
        return {"activation": Activation.ELU, "slope": SELU_SLOPE, "scale": SELU_SCALE}
    return None


def loss_and_grad(
    chain: Chain | None, kind: Loss, theta: Tensor, x: Tensor, labels: Tensor | None = None, decay: float = 0.0
) -> tuple[Tensor, Tensor] | None:
    """Give f(θ) (B,) and ∇f(θ) (B, P) of every task, or None where plain torch must do it.

    θ is (B, P), x (B, N, …) with I numbers of every example, and the labels (B, N) are there for the cross-entropy
    alone. Half of `decay` times the sum of the weights' squares, biases left out, is added to the loss.

    None stands for: no chain, no compiler, another device or dtype, autograd or `torch.func` that watches, autocast,
    shapes that do not fit each other, labels that are no classes, of which torch says what is wrong, and a few tasks of
    a large network with many more threads than tasks. On an NVIDIA GPU only small layers and minibatches are served
    (`chain_triton`), and a label that is no class gives nan, because to look at labels is to wait for the GPU.
    """
    given = [theta, x] if labels is None else [theta, x, labels]
    if chain is None or not _is_plain(given) or not _fits(chain, kind, theta, x, labels):
        return None
    if theta.device.type == "cuda":
        served = chain_triton.serves(chain, kind, theta, x)
        return chain_triton.loss_and_grad(chain, kind, theta, x.flatten(2), labels, decay) if served else None
    return None if _leaves_idle(chain, x) else chain_cpp.loss_and_grad(chain, kind, theta, x.flatten(2), labels, decay)


def _leaves_idle(chain: Chain, x: Tensor) -> bool:
    """Say whether threads would have nothing to do that torch's products of matrices would use: the kernel shares out
    tasks, and never a task."""
    return torch.get_num_threads() > 2 * len(x) and chain_cpp.multiply_adds(chain, x) > LARGE


def _is_plain(tensors: list[Tensor]) -> bool:
    """Say whether the tensors lie on one device that has a kernel, in numbers that it knows, and nobody watches."""
    device = tensors[0].device
    if device.type not in ("cpu", "cuda") or torch.is_autocast_enabled(device.type):
        return False
    together = all(type(tensor) in (Tensor, nn.Parameter) and tensor.device == device for tensor in tensors)
    known = tensors[0].dtype in (torch.float32, torch.float64) and tensors[1].dtype == tensors[0].dtype
    return known and together and not tensors[0].requires_grad and not any(map(is_transformed, tensors))


def _fits(chain: Chain, kind: Loss, theta: Tensor, x: Tensor, labels: Tensor | None) -> bool:
    """Say whether every size is the one that the kernel, which reads memory by them, relies on."""
    if theta.ndim != 2 or x.ndim < 3 or len(x) != len(theta) or not x.numel():
        return False
    size = x.numel() // (x.shape[0] * x.shape[1])
    follow = all(before.outputs == after.inputs for before, after in pairwise(chain))
    covered = sum(link.outputs * (link.inputs + (link.bias >= 0)) for link in chain)
    if size != chain[0].inputs or not follow or covered != theta.shape[1]:
        return False
    if kind is Loss.SIGMOID_SQUARES:
        return labels is None and chain[-1].outputs == size
    return labels is not None and labels.shape == x.shape[:2] and labels.dtype == torch.int64

"""Where a network's training starts: draws of θ_0 for any `nn.Module`.

Shapes: B tasks, P parameters of a network, a matrix of a network (out, …), whose rows have `fan_in` numbers.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from math import log, prod

import torch
from torch import Generator, Tensor, nn

from l2o.optimizees.layout import Layout

Std = float | Sequence[float]
"""A standard deviation, or the two ends of a range from which every task draws its own, uniformly in the logarithm."""

RESETS = ("reset_parameters", "_reset_parameters")
"""What torch's modules call the method that draws their initial parameters. MultiheadAttention has the second."""

EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag)

CUT = 2.0
"""A truncated normal ends at this many standard deviations, as in Haiku and TensorFlow. Its own standard deviation is
therefore .88 of the nominal one."""


def initial_theta(
    network: nn.Module, layout: Layout, num_tasks: int, generator: Generator, kind: str = "torch", std: Std = 0.01
) -> Tensor:
    """Draw θ_0 (B, P) of B tasks, each an independent draw that the generator alone decides, on its device.

    `kind` is one of
    - "normal": all parameters ~ N(0, std²), weights, biases and the scales of norms alike;
    - "torch": what torch itself draws when it builds the modules, by their own `reset_parameters`;
    - "truncated_normal": matrices ~ N(0, 1 / fan_in) cut at ± 2 standard deviations, biases 0, as in Haiku;
    - "orthogonal": matrices with orthonormal rows or columns, biases 0.
    In the last two the embeddings and the scales of norms are torch's. `std` is read by "normal" alone.

    Raises ValueError for another kind, and where a module has parameters whose start nobody defines.
    """
    if kind not in KINDS:
        raise ValueError(f"init must be one of {', '.join(KINDS)}, got {kind!r}")
    if kind == "normal":
        return layout.of_module_order(_normal(layout.size, num_tasks, generator, std))
    theta = _torch(network, layout, num_tasks, generator)
    return theta if kind == "torch" else _with_matrices(theta, network, layout, generator, MATRICES[kind])


def check(network: nn.Module, layout: Layout, kind: str, std: Std) -> None:
    """Raise a ValueError where `initial_theta` would, so that a mistake is found when an optimizee is built."""
    ends = [std] if isinstance(std, (int, float)) else [*std]
    if (len(ends) != 2 and ends != [std]) or not all(isinstance(end, (int, float)) for end in ends):
        raise ValueError(f"init_std must be a number or a range [low, high], got {std}")
    if min(ends) < 0 or (len(ends) == 2 and not 0 < ends[0] <= ends[1]):
        raise ValueError(f"init_std must be >= 0, and a range [low, high] needs 0 < low <= high, got {std}")
    initial_theta(network, layout, 1, Generator().manual_seed(0), kind, std)


def _normal(size: int, num_tasks: int, generator: Generator, std: Std) -> Tensor:
    draws = torch.randn(num_tasks, size, generator=generator, device=generator.device)
    if isinstance(std, (int, float)):
        return std * draws
    low, high = (log(end) for end in std)
    uniform = torch.rand(num_tasks, 1, generator=generator, device=generator.device)
    return (low + (high - low) * uniform).exp() * draws


# ------------------------------------------------------------------------------------------------------ torch's own


def _torch(network: nn.Module, layout: Layout, num_tasks: int, generator: Generator) -> Tensor:
    """Let a copy of the network reset itself B times. Torch's resets draw from the global generator, which is seeded
    from ours for that time and put back afterwards."""
    device = generator.device
    seed = int(torch.randint(2**62, (), generator=generator, device=device))
    fresh = copy.deepcopy(network).cpu()
    resets = [*_resets(fresh)]
    draws = []
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.default_generator.manual_seed(seed)
        for _ in range(num_tasks):
            for reset in resets:
                reset()
            draws.append(layout.of_parameters(dict(fresh.named_parameters())).to(torch.get_default_dtype()))
    return torch.stack(draws).to(device)


def _resets(network: nn.Module) -> Iterator[Callable[[], None]]:
    """Give the resets of all modules, those of inner modules first, as construction has it.

    Parameters of a module without a reset keep the value that they were built with, which must be a constant: a random
    one would be the same in all tasks, and no generator would decide it. Raises ValueError for a random one.
    """
    for module in reversed([*network.modules()]):
        found = next((getattr(module, name) for name in RESETS if hasattr(module, name)), None)
        if found is not None:
            yield found
            continue
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.numel() and bool((parameter != parameter.flatten()[0]).any()):
                raise ValueError(
                    f"{type(module).__name__} draws its parameter '{name}' at random and has no method "
                    "reset_parameters that draws it anew for every task: give it one, or choose init=normal"
                )


# -------------------------------------------------------------------------------------------------- other matrices


def _with_matrices(theta: Tensor, network: nn.Module, layout: Layout, generator: Generator, draw: "Matrices") -> Tensor:
    """Return θ (B, P) with all matrices drawn anew, except embeddings, and all biases 0."""
    parts = layout.parameters(theta)
    for owner, name, full in _named_parameters(network):
        part = parts.get(full)
        if part is None or isinstance(owner, EMBEDDINGS):
            continue
        if part.ndim > 2:  # with the axis of tasks
            parts[full] = draw(part.shape, generator).to(part.dtype)
        elif name.startswith("bias"):
            parts[full] = torch.zeros_like(part)
    return layout.of_parameters(parts)


def _named_parameters(network: nn.Module) -> Iterator[tuple[nn.Module, str, str]]:
    """Give every parameter's module, its name there, and its full name."""
    for prefix, module in network.named_modules():
        for name, _ in module.named_parameters(recurse=False):
            yield module, name, f"{prefix}.{name}" if prefix else name


def _truncated_normal(shape: Sequence[int], generator: Generator) -> Tensor:
    empty = torch.empty(*shape, device=generator.device)
    std = prod(shape[2:]) ** -0.5  # of (B, out, *rest)
    return nn.init.trunc_normal_(empty, 0.0, std, -CUT * std, CUT * std, generator=generator)


def _orthogonal(shape: Sequence[int], generator: Generator) -> Tensor:
    """Draw (B, out, *rest) uniformly from the matrices (out, fan_in) whose shorter side is orthonormal."""
    rows, columns = shape[1], prod(shape[2:])
    tall = torch.randn(shape[0], max(rows, columns), min(rows, columns), generator=generator, device=generator.device)
    q, r = torch.linalg.qr(tall)
    q = q * r.diagonal(dim1=-2, dim2=-1).sign()[:, None, :]  # without the signs the draw would not be uniform
    return (q if rows >= columns else q.mT).reshape(tuple(shape))


Matrices = Callable[[Sequence[int], Generator], Tensor]

MATRICES: dict[str, Matrices] = {"truncated_normal": _truncated_normal, "orthogonal": _orthogonal}

KINDS = ("normal", "torch", *MATRICES)

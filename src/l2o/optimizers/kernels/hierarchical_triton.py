"""A step of the hierarchical rule on an NVIDIA GPU, in Triton. Not measured on a GPU.

The function and its contract are those of `hierarchical_cpp`. There are four launches, whatever the number of tensors:
what is remembered and its statistics, the network of every tensor, the direction, and the direction's size. Sums of
several programs are written beside each other and added in order, without atomics: equal calls on one device give equal
bits.

The code serves float32 and float64; `serves` offers float32 alone. The kernels are in `hierarchical_triton_source` and
`hierarchical_tensors_triton_source`; this module can be imported without Triton.

Shapes: B tasks, P coordinates, K tensors, M momenta, H hidden units.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from l2o.native import triton_device
from l2o.native.triton_device import launch, padded
from l2o.optimizees.layout import Layout
from l2o.optimizers.accumulators import constant
from l2o.optimizers.base import Observation, State
from l2o.optimizers.kernels.coordinate_mlp_arguments import layers_of, seen_of
from l2o.optimizers.kernels.coordinate_mlp_memory import before_and_after
from l2o.optimizers.kernels.coordinate_mlp_units import BLOCK, UNITS
from l2o.optimizers.kernels.dispatch import is_donated
from l2o.optimizers.kernels.hierarchical_memory import Settings, checked_sizes, shapes_of_phi, shapes_of_state
from l2o.optimizers.tensor_features import of_shapes

MAX_MOMENTA, MAX_UNITS, FEW_MOMENTA = 8, 64, 3  # with more than a few momenta, registers spill beyond half the units
TILE_NUMBERS = 4096  # of a tile of a block's coordinates and a layer's units
SUMMED = 64  # units whose sums are added at a time


class Rule(NamedTuple):
    """Hold what the kernels are compiled for: the numbers that are not trained, and all sizes."""

    settings: Settings
    momenta: int
    num_sums: int  # of each tensor's statistics, 2M + 2
    hidden: int
    units: int  # of a tensor's network
    outputs: int  # of a tensor's network: the exponent, and what it tells
    padded_hidden: int
    padded_units: int
    padded_outputs: int
    padded_sums: int
    precision: str


class Told(NamedTuple):
    """Hold what every task is told beside its gradient and the time: (B,) each."""

    loss: Tensor
    horizon: Tensor


class Kept(NamedTuple):
    """Say where the momenta (M, B, P) and the square (1, B, P) lie, before the step or after it."""

    momenta: Tensor
    plane: int
    row: int
    square: Tensor
    square_row: int


class OfTensors(NamedTuple):
    """Hold what is remembered of every tensor before the step and after it, and the features of its shape (4, K)."""

    statistics: Tensor  # (2M + 1, B, K)
    step: Tensor  # (B, K)
    losses: Tensor  # (B, 4)
    new_statistics: Tensor
    new_step: Tensor
    new_losses: Tensor
    shapes: Tensor


class Tables(NamedTuple):
    """Say what a program does: 64-bit integers on a device."""

    units: Tensor  # tensor, first coordinate, number of coordinates
    tensors: Tensor  # first unit, number of units, number of coordinates


def serves(
    settings: Settings, momenta: int, sizes: tuple[int, int, int], tensors: Sequence[Tensor], layout: Layout
) -> bool:
    """Say whether the kernels take tensors of this device and dtype, and networks of these sizes.

    `sizes` are the hidden units of the coordinates' network and of a tensor's, and the outputs of the latter. The
    kernels are compiled and tried the first time; one line warns where that fails.
    """
    device = tensors[0].device
    return (
        triton_device.offered(device)
        and all(tensor.dtype == torch.float32 and tensor.device == device for tensor in tensors)
        and len(layout.shapes) > 0
        and momenta <= MAX_MOMENTA
        and max(sizes) <= (MAX_UNITS if momenta <= FEW_MOMENTA else MAX_UNITS // 2)
        and _works(device, settings, momenta, sizes)
    )


def step(
    settings: Settings, decays: tuple[float, ...], phi: list[Tensor], seen: Observation, state: State, layout: Layout
) -> tuple[Tensor, State]:
    """Do one step, as `hierarchical_cpp.step` does, on the gradient's device."""
    from l2o.optimizers.kernels.hierarchical_tensors_triton_source import of_tensors
    from l2o.optimizers.kernels.hierarchical_triton_source import direct, remember, rescale

    sizes = checked_sizes(layout, len(decays) - 1, seen, state, phi)
    rule = _rule(settings, len(decays) - 1, sizes, triton_device.PRECISION)
    grad, lengths = seen.grad, tuple(span.stop - span.start for span in layout.slices.values())
    tensors, table = len(lengths), _tables(lengths, grad.device)
    (tasks, size), units = grad.shape, len(table.units)
    momenta, new_momenta = before_and_after(state["momenta"], is_donated())
    square, new_square = before_and_after(state["square"][..., None], is_donated())
    before, after = _kept(momenta, square), _kept(new_momenta, new_square)
    old = state["statistics"].movedim(-1, 0).contiguous(), state["step"].contiguous(), state["losses"].contiguous()
    statistics, steps, losses = new = torch.empty_like(old[0]), torch.empty_like(old[1]), torch.empty_like(old[2])
    of_all, observed = OfTensors(*old, *new, of_shapes(layout, grad)), seen_of(seen)
    told = Told(seen.loss.contiguous(), seen.horizon.contiguous())
    layers, rate = layers_of(phi), constant(decays, grad)
    sums, squares = grad.new_empty(tasks, units, rule.num_sums), grad.new_empty(tasks, units)
    found = grad.new_empty(tasks, tensors, rule.hidden + 2)
    update = grad.new_empty(tasks, size)
    with triton_device.on(grad.device):
        given = units, tensors, observed, before, after, rate, of_all.step, sums, rule, BLOCK
        launch(remember, table.units, tasks, *given)
        given = tensors, units, observed, told, of_all, layers, sums, found, rule, SUMMED
        launch(of_tensors, table.tensors, tasks, *given)
        given = units, tensors, observed, after, rate, of_all.step, layers, found, update, size, squares
        launch(direct, table.units, tasks, *given, rule, min(BLOCK, TILE_NUMBERS // rule.padded_hidden))
        given = units, tensors, table.tensors, found, squares, update, size, rule, SUMMED, BLOCK
        launch(rescale, table.units, tasks, *given)
    memory = {"momenta": new_momenta.movedim(0, -1), "square": new_square[0]}
    return update, memory | {"statistics": statistics.movedim(0, -1), "step": steps, "losses": losses}


@functools.lru_cache(maxsize=64)
def _rule(settings: Settings, momenta: int, sizes: tuple[int, int, int], precision: str) -> Rule:
    """Give what the kernels are compiled for, with these hidden units and outputs of `checked_sizes`."""
    (hidden, units, outputs), num_sums = sizes, 2 * momenta + 2
    tiles = padded(hidden), padded(units), padded(outputs), padded(num_sums)
    return Rule(settings, momenta, num_sums, hidden, units, outputs, *tiles, precision)


def _kept(momenta: Tensor, square: Tensor) -> Kept:
    return Kept(momenta, momenta.stride(0), momenta.stride(1), square, square.stride(1))


@functools.lru_cache(maxsize=256)
def _tables(sizes: tuple[int, ...], device: torch.device) -> Tables:
    """Share the coordinates of tensors of these sizes out.

    How a tensor is cut depends on its own size alone, and so do the order in which its numbers are added and its bits,
    whichever other tensors there are.
    """
    units, tensors, start = [], [], 0
    for number, size in enumerate(sizes):
        length = BLOCK * max(1, -(-size // (BLOCK * UNITS)))
        own = [(number, start + at, min(length, size - at)) for at in range(0, size, length)]
        tensors.append((len(units), len(own), size))
        units += own
        start += size
    made = lambda rows: torch.tensor(rows, dtype=torch.int64, device=device).view(len(rows), 3)  # noqa: E731
    return Tables(made(units), made(tensors))


@functools.lru_cache(maxsize=64)
def _works(device: torch.device, settings: Settings, momenta: int, sizes: tuple[int, int, int]) -> bool:
    """Compile the kernels for a rule and run a tiny step; False after a warning where that fails."""

    def attempt() -> Tensor:
        one = lambda *shape: torch.ones(shape, device=device)  # noqa: E731
        layout = Layout({"weight": (2, 2), "bias": (2,)})
        numbers = [one(*shape) / shape[-1] for shape in shapes_of_phi(momenta, sizes)]
        seen = Observation(*one(2, 1, layout.size), *one(3, 1))
        state = {key: torch.zeros(shape, device=device) for key, shape in shapes_of_state(1, layout, momenta).items()}
        return step(settings, (0.5,) * (momenta + 1), numbers, seen, state, layout)[0]

    return triton_device.works(device, "the Triton kernel of the hierarchical rule", attempt)

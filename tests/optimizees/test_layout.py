"""θ as one flat vector and as named parts."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from l2o.optimizees import Layout

SHAPES = {"first.weight": (4, 3), "first.bias": (4,), "scale": (), "second.weight": (2, 4, 1, 1)}
SIZE = 12 + 4 + 1 + 8


def network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2, track_running_stats=False), nn.Flatten(), nn.Linear(8, 3)
    )


def test_size_and_slices_tile_the_vector():
    layout = Layout(SHAPES)
    covered = [index for part in layout.slices.values() for index in range(part.start, part.stop)]
    assert layout.size == SIZE
    assert covered == list(range(SIZE))
    assert list(layout.slices) == list(SHAPES)


@pytest.mark.parametrize("leading", [(), (1,), (3,), (2, 3)])
def test_ravel_undoes_unravel(leading):
    layout, theta = Layout(SHAPES), torch.randn((*leading, SIZE))
    parts = layout.unravel(theta)
    assert {name: tuple(part.shape) for name, part in parts.items()} == {n: (*leading, *s) for n, s in SHAPES.items()}
    assert torch.equal(layout.ravel(parts), theta)


@pytest.mark.parametrize("leading", [(), (1,), (3,), (2, 3)])
def test_unravel_undoes_ravel(leading):
    layout = Layout(SHAPES)
    parts = {name: torch.randn((*leading, *shape)) for name, shape in SHAPES.items()}
    flat = layout.ravel(parts)
    again = layout.unravel(flat)
    assert flat.shape == (*leading, SIZE)
    assert all(torch.equal(again[name], parts[name]) for name in SHAPES)


def test_ravel_goes_by_name_and_not_by_the_mapping_s_order():
    layout, theta = Layout(SHAPES), torch.randn(SIZE)
    shuffled = dict(reversed(layout.unravel(theta).items()))
    assert torch.equal(layout.ravel(shuffled), theta)


def test_parts_are_row_major():
    parts = Layout(SHAPES).unravel(torch.arange(SIZE))
    assert_close(parts["first.weight"], torch.arange(12).view(4, 3), rtol=0, atol=0)
    assert parts["scale"].shape == () and parts["scale"].item() == 16


@pytest.mark.parametrize(
    "theta",
    [torch.zeros(SIZE), torch.zeros(3, SIZE), torch.zeros(SIZE, 3).mT],
    ids=["one task", "tasks", "tasks innermost"],
)
def test_parts_are_views(theta):
    for number, part in enumerate(Layout(SHAPES).unravel(theta).values(), 1):
        part.fill_(number)
    expected = torch.cat([torch.full((size,), number) for number, size in enumerate((12, 4, 1, 8), 1)]).float()
    assert torch.equal(theta, expected.expand_as(theta))


def test_gradients_flow_through_both_ways():
    layout, theta = Layout(SHAPES), torch.randn(2, SIZE, requires_grad=True)
    weights = torch.randn(2, SIZE)
    (grad,) = torch.autograd.grad((layout.ravel(layout.unravel(theta)) * weights).sum(), theta)
    assert torch.equal(grad, weights)


def test_module_s_order_is_that_of_named_parameters():
    """Kernels (out, in, height, width) are (height, width, in, out) for rules; the module gets its own back."""
    module = nn.Sequential(network(), nn.Conv1d(2, 3, 5), nn.ConvTranspose3d(2, 3, (1, 2, 4), bias=False))
    layout = Layout.of_module(module)
    own = {name: tuple(p.shape) for name, p in module.named_parameters()}
    kernels = {"0.0.weight": (3, 3, 1, 2), "1.weight": (5, 2, 3), "2.weight": (1, 2, 4, 3, 2)}
    assert list(layout.shapes.items()) == [*(own | kernels).items()] and layout.turned == kernels.keys()
    flat = layout.of_parameters(dict(module.named_parameters()))
    assert torch.equal(layout.of_module_order(nn.utils.parameters_to_vector(module.parameters())), flat)
    assert torch.equal(layout.unravel(flat)["0.0.weight"], module.get_parameter("0.0.weight").permute(2, 3, 1, 0))
    for leading in ((), (2,), (2, 3)):
        parts = layout.parameters(flat.expand(*leading, -1))
        assert all(torch.equal(part, module.get_parameter(name).expand_as(part)) for name, part in parts.items())
        assert torch.equal(layout.of_parameters(parts), flat.expand(*leading, -1))
    assert layout.of(["1.weight", "1.bias"]).turned == {"1.weight"} == layout.parts(6, 8).layout.turned

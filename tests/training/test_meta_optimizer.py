"""The meta-optimizer: all parameters in one call, where torch has such a call and nobody asked for another one.

Shapes: φ in two tensors, (3, 2) and (4,).
"""

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from l2o.training.meta_optimizer import made


def phi() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in ((3, 2), (4,))]


def moved(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """Do five steps on random gradients, and return the parameters."""
    generator, parameters = torch.Generator().manual_seed(1), optimizer.param_groups[0]["params"]
    for _ in range(5):
        for parameter in parameters:
            parameter.grad = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
        optimizer.step()
    return parameters


@pytest.mark.parametrize(
    "make",
    [partial(torch.optim.Adam, lr=0.1), partial(torch.optim.AdamW, lr=0.1, weight_decay=0.2), torch.optim.SGD],
    ids=["Adam", "AdamW", "SGD"],
)
def test_one_call_moves_phi_as_many_do(make):
    optimizer = made(make, phi())
    assert optimizer.param_groups[0]["fused"] is True
    expected = moved(make(phi(), fused=False))
    for parameter, value in zip(moved(optimizer), expected, strict=True):
        torch.testing.assert_close(parameter, value, rtol=1e-12, atol=0)


@pytest.mark.parametrize("given", [{"fused": False}, {"foreach": True}, {"foreach": False}, {"differentiable": True}])
def test_what_is_asked_for_stays(given: dict[str, Any]):
    group = made(partial(torch.optim.Adam, **given), phi()).param_groups[0]
    assert not group["fused"] and {name: group[name] for name in given} == given


class Mine(torch.optim.Adam):
    """An Adam whose constructor takes no `fused`."""

    def __init__(self, params: Any):
        super().__init__(params, lr=0.5)


class Strict(torch.optim.Adam):
    """An Adam that refuses what it does not know with a ValueError."""

    def __init__(self, params: Any, **others: Any):
        if others:
            raise ValueError(f"unknown: {others}")
        super().__init__(params, lr=0.5)


@pytest.mark.parametrize("make", [torch.optim.RMSprop, Mine, Strict])
def test_an_optimizer_without_such_a_call_is_made_as_it_is(make):
    optimizer = made(make, phi())
    assert type(optimizer) is make and not optimizer.param_groups[0].get("fused")


def test_parameters_that_one_call_cannot_move_are_moved_one_by_one():
    parameters = [torch.zeros(2, device="meta")]
    assert not made(torch.optim.Adam, parameters).param_groups[0]["fused"]

"""Parameters that are moved where they lie in memory, beside those that must be copied, all move as the rule says."""

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from l2o import LearnedOptimizer
from l2o.deploy.chunks import ALONE, CHUNK_SIZE, cuts, default_size
from l2o.deploy.flat import Flat
from l2o.optimizees import Layout
from l2o.optimizers import AdafacMLP, Celo, Celo2, MLPLOpt, Observation, Scope, UpdateRule

SHAPES = {"bias": (7,), "large": (300, 250), "conv": (8, 4, 3, 3), "other": (5, 6), "long": (70_000,), "scalar": ()}


def parameters(kind: str) -> dict[str, nn.Parameter]:
    """Parameters of those shapes; `kind` says how the matrices lie in memory, or of which dtype one of them is."""
    torch.manual_seed(0)
    made = {name: torch.randn(shape) for name, shape in SHAPES.items()}
    if kind == "transposed":
        made |= {name: value.t().contiguous().t() for name, value in made.items() if value.ndim == 2}
    if kind == "channels last":
        made["conv"] = made["conv"].to(memory_format=torch.channels_last)
    if kind == "half":
        made["large"] = made["large"].half()
    return {name: nn.Parameter(value) for name, value in made.items()}


def seen_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (*shape[2:], shape[1], shape[0]) if len(shape) > 2 else shape


def by_hand(rule: UpdateRule, params: dict[str, nn.Parameter], grads: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Where each parameter goes by itself, by calls of the rule."""
    after = {}
    for name, param in params.items():
        turned = lambda x: x.permute(2, 3, 1, 0) if x.ndim == 4 else x  # noqa: E731
        layout = Layout({name: seen_shape(SHAPES[name])})
        theta = turned(param.detach().float()).reshape(1, -1)
        state, full = rule.init_state(theta, layout), torch.ones(1)
        for t, grad in enumerate(grads):
            seen = Observation(turned(grad[name]).reshape(1, -1), theta, full, t * full, 10 * full)
            with torch.no_grad():
                update, state = rule(seen, state, layout)
            theta = (theta + update).to(param.dtype).float()
        shape = seen_shape(SHAPES[name])
        after[name] = theta.view(shape).permute(3, 2, 0, 1) if len(shape) == 4 else theta.view(shape)
    return after


@pytest.mark.parametrize("kind", ["contiguous", "transposed", "channels last", "half"])
@pytest.mark.parametrize("make", [AdafacMLP, MLPLOpt, lambda: Celo(1), Celo2])
@pytest.mark.parametrize("chunk_size", [None, 100])
def test_every_parameter_moves_as_by_itself(make: Callable[[], UpdateRule], kind: str, chunk_size: int | None) -> None:
    torch.manual_seed(1)
    rule, params = make(), parameters(kind)
    grads = [{name: torch.randn_like(param).float() for name, param in params.items()} for _ in range(3)]
    wanted = by_hand(rule, params, grads)
    places = {name: param.data_ptr() for name, param in params.items()}
    optimizer = LearnedOptimizer(params.items(), rule, horizon=10, chunk_size=chunk_size)
    for grad in grads:
        for name, param in params.items():
            param.grad = grad[name].to(param.dtype)
        optimizer.step()
    for name, param in params.items():
        assert param.data_ptr() == places[name]
        tolerance = 2e-3 if param.dtype == torch.half else 1e-6
        assert_close(param.detach().float(), wanted[name], rtol=tolerance, atol=tolerance)


def test_large_tensors_are_apart_and_small_ones_together() -> None:
    layout = Layout({"a": (3,), "b": (ALONE,), "c": (4,), "d": (5,), "e": (2, ALONE), "f": (6,)})
    names = lambda *given: [[*cut.layout.shapes] for cut in cuts(layout, *given)]  # noqa: E731
    assert names(Scope.TENSOR, CHUNK_SIZE, True) == [["a"], ["b"], ["c", "d"], ["e"], ["f"]]
    assert names(Scope.TENSOR, CHUNK_SIZE) == [["a", "b", "c", "d", "e", "f"]]
    assert names(Scope.ALL, CHUNK_SIZE, True) == [["a", "b", "c", "d", "e", "f"]]
    assert [(cut.coordinates.start, cut.coordinates.stop) for cut in cuts(layout, Scope.TENSOR, CHUNK_SIZE, True)] == [
        (0, 3),
        (3, 3 + ALONE),
        (3 + ALONE, 12 + ALONE),
        (12 + ALONE, 12 + 3 * ALONE),
        (12 + 3 * ALONE, 18 + 3 * ALONE),
    ]


@pytest.mark.parametrize(("gigabytes", "chunks"), [(4, 1), (23.6, 2), (79.2, 8), (140, 16)])
def test_chunks_are_larger_on_a_gpu_with_more_memory(monkeypatch, gigabytes: float, chunks: int) -> None:
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda device: SimpleNamespace(total_memory=int(gigabytes * 2**30))
    )
    default_size.cache_clear()
    assert default_size(torch.device("cuda", 0)) == chunks * CHUNK_SIZE
    assert default_size(torch.device("cpu")) == CHUNK_SIZE
    default_size.cache_clear()


def test_a_large_parameter_needs_no_copy() -> None:
    """What is remembered beside the rule's own state: a gradient and a mark, 5 bytes for each parameter."""
    param = nn.Parameter(torch.randn(400, 300))
    param.grad = torch.randn_like(param)
    optimizer = LearnedOptimizer([param], AdafacMLP())
    optimizer.step()
    ((_, (flat,)),) = optimizer._flats._flats.values()
    assert isinstance(flat, Flat) and flat.resting is not None
    with flat.places.lent(cuts(flat.layout, Scope.TENSOR, CHUNK_SIZE, True)[0], [param]) as theta:
        assert theta.data_ptr() == param.data_ptr() and theta.shape == (1, param.numel())
    held = [value for value in vars(flat.places).values() if isinstance(value, Tensor)]
    assert not held and flat.grad.numel() == flat.resting.awake.numel() == param.numel()

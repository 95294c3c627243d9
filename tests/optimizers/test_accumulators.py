"""The accumulators and normalisations, against plain numpy, tensor by tensor.

Shapes: B tasks, P coordinates, M decays, K steps.
"""

import numpy as np
import pytest
import torch
from modern_rules import LAYOUT, SHAPES
from torch.testing import assert_close

from l2o.optimizees.layout import Axis, factored_axes
from l2o.optimizers.accumulators import (
    AXES,
    Decays,
    constant,
    factored,
    init_moments,
    mean_square,
    normalised,
    update_moments,
)
from l2o.optimizers.mlp import linear
from l2o.optimizers.newton_schulz import newton_schulz

pytestmark = pytest.mark.usefixtures("float64")

B, K = 2, 3
DECAYS = ((0.9, 0.99, 0.999), (0.95,), (0.5, 0.9, 1.2))  # the last is clipped to 1


def history() -> torch.Tensor:
    return torch.randn(K, B, LAYOUT.size)


def updated(grads: torch.Tensor, decays=DECAYS):
    state = init_moments(grads[0], LAYOUT, *map(len, decays))
    for grad in grads:
        moments = update_moments(grad, state, LAYOUT, Decays(*map(torch.tensor, decays)))
        state = moments.state
    return moments


def numpy_moments(grads: np.ndarray, shape: tuple[int, ...]):
    """m, v, r, c of one tensor of one task, (K, *shape) -> decays first."""
    shape = shape or (1,)
    momenta, squares, (row, column) = np.zeros((3, *shape)), np.zeros((1, *shape)), (0.0, 0.0)
    beta = [np.array(part) for part in DECAYS]
    for grad in grads.reshape(-1, *shape):
        square = grad**2 + 1e-30
        whole = len(shape) < 2
        means = (square, square) if whole else [square.mean(axis) for axis in factored_axes(shape)]
        mixed = lambda b, old, new: np.stack([x * o + (1 - x) * new for x, o in zip(b, old, strict=True)])  # noqa: E731
        momenta, squares = mixed(beta[0], momenta, grad), mixed(beta[1], squares, grad**2)
        clipped = beta[2].clip(0, 1)
        start = np.zeros(3)
        row = mixed(clipped, start if np.isscalar(row) else row, means[0])
        column = mixed(clipped, start if np.isscalar(column) else column, means[1])
    return momenta, squares, row, column


TENSORS = [name for name, shape in SHAPES.items() if 0 not in shape]


@pytest.mark.parametrize("name", TENSORS)
def test_moments_and_factors_equal_numpy_s(name: str) -> None:
    grads = history()
    moments, shape = updated(grads), SHAPES[name]
    spans = {axis: LAYOUT.spans(axis)[name] for axis in AXES.values()}
    spread = factored(moments, LAYOUT, vector_eps=1e-6)
    for b in range(B):
        own = grads[:, b, LAYOUT.slices[name]].numpy()
        m, v, r, c = numpy_moments(own, shape)
        expected = dict(zip(AXES, (m, v, r, c), strict=True))
        if len(shape) < 2:
            expected["minor"] = np.zeros((3, 0))
        for key, value in moments._asdict().items():
            assert_close(
                value[:, b, spans[AXES[key]]].numpy(), expected[key].reshape(len(value), -1), rtol=1e-12, atol=0
            )
        safe = lambda x: 1 / np.sqrt(np.maximum(x, 1e-9))  # noqa: E731
        if len(shape) < 2:
            planes = [safe(r + 1e-9), (r + 1e-6) ** -0.5, r, r, (r + 1e-8) ** -0.5, (r + 1e-8) ** -0.5]
        else:
            d0, d1 = factored_axes(shape)
            mean = r.mean(1 + (d1 - 1 if d1 > d0 else d1), keepdims=True)
            full = lambda x, axis: np.broadcast_to(np.expand_dims(x, 1 + axis), (3, *shape))  # noqa: E731
            scale = full(safe(r / (mean + 1e-9)), d0) * full(safe(c), d1)
            rows, columns = full(r, d0), full(c, d1)
            planes = [scale, scale, rows, columns, (rows + 1e-8) ** -0.5, (columns + 1e-8) ** -0.5]
        for mine, plane in zip(spread, planes, strict=True):
            assert_close(mine[:, b, LAYOUT.slices[name]].numpy(), np.array(plane).reshape(3, -1), rtol=1e-10, atol=0)


def test_equal_axes_factor_as_argsort_has_it() -> None:
    for shape in [(3, 3), (2, 5), (5, 2), (3, 3, 2, 4), (4, 2, 3, 3), (2, 2, 2)]:
        order = np.argsort(shape, kind="stable")
        assert factored_axes(shape) == (order[-1], order[-2])


def test_vectors_are_kept_whole_and_scalars_as_vectors_of_one() -> None:
    moments = updated(history())
    for name in ("scalar", "bias", "none"):
        size = Axis.COORDINATES.size(SHAPES[name])
        assert Axis.MAJOR.size(SHAPES[name]) == size and Axis.MINOR.size(SHAPES[name]) == 0
    assert moments.major.shape == (3, B, LAYOUT.length(Axis.MAJOR))


def test_decays_of_each_task() -> None:
    grads = history()
    state = init_moments(grads[0], LAYOUT, *map(len, DECAYS))
    factors = torch.tensor([1.0, 0.5])[:, None]
    tasks = Decays(*(factors * torch.tensor(part) for part in DECAYS))  # (B, M)
    together = update_moments(grads[0], state, LAYOUT, tasks)
    for b in range(B):
        alone = update_moments(grads[0], state, LAYOUT, Decays(*(part[b] for part in tasks)))
        for mine, other in zip(together, alone, strict=True):
            assert_close(mine[:, b], other[:, b], rtol=1e-14, atol=0)


def test_some_tensors_share_of_the_moments() -> None:
    moments = updated(history())
    names = ["weight", "embed", "conv"]
    found = moments.of(LAYOUT, names)
    for key, value in moments._asdict().items():
        spans = LAYOUT.spans(AXES[key])
        assert torch.equal(getattr(found, key), torch.cat([value[..., spans[name]] for name in names], -1))


@pytest.mark.parametrize("matrices", [False, True])
def test_normalised_equals_numpy_s(matrices: bool) -> None:
    features = torch.randn(5, B, LAYOUT.size)
    found = normalised(features, LAYOUT, 1e-5, matrices, kept=2)
    assert torch.equal(found[3:], features[3:])
    for name, span in LAYOUT.slices.items():
        shape = SHAPES[name] or (1,)
        own = features[:3, :, span].numpy().reshape(3, B, *shape)
        axes = tuple(range(2, 2 + len(shape)))[-2 if matrices else 0 :]
        if own.size:
            expected = own / np.sqrt(1e-5 + (own**2).mean(axes, keepdims=True))
            assert_close(found[:3, :, span].numpy(), expected.reshape(3, B, -1), rtol=1e-12, atol=0)
    means = mean_square(features[0], LAYOUT)
    assert means.shape == (B, len(SHAPES)) and means.isfinite().all()
    assert_close(means[:, 2], features[0][:, LAYOUT.slices["weight"]].square().mean(1), rtol=1e-12, atol=0)


@pytest.mark.parametrize("shape", [(4, 4), (3, 7), (7, 3), (2, 3, 5, 4), (1, 6), (6, 1)])
def test_newton_schulz_keeps_singular_vectors_and_makes_values_alike(shape: tuple[int, ...]) -> None:
    torch.manual_seed(1)
    x = torch.randn(B, *shape)
    y = newton_schulz(x)
    assert y.shape == x.shape
    u, s, vh = torch.linalg.svd(x, full_matrices=False)
    inside = u.mT @ y @ vh.mT  # diagonal: the polynomial acts on the singular values alone
    values = inside.diagonal(dim1=-2, dim2=-1)
    assert_close(inside, torch.diag_embed(values), rtol=0, atol=1e-10)
    s = s / (s.square().sum(-1, keepdim=True).sqrt() + 1e-8)
    for _ in range(5):
        s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
    assert_close(values, s, rtol=1e-8, atol=1e-10)


def test_newton_schulz_of_nothing_is_nothing() -> None:
    zeros = torch.zeros(B, 3, 4, requires_grad=True)
    out = newton_schulz(zeros)
    out.sum().backward()
    assert not out.any() and zeros.grad is not None and zeros.grad.isfinite().all()


@pytest.mark.parametrize("of_tasks", [(False, False), (True, True), (True, False), (False, True)])
def test_linear_takes_one_weight_or_one_of_each_task(of_tasks: tuple[bool, bool]) -> None:
    x = torch.randn(4, B, 6)
    weight = torch.randn(*([B] if of_tasks[0] else []), 3, 4)
    bias = torch.randn(*([B] if of_tasks[1] else []), 3)
    found = linear(x, weight, bias)
    for b in range(B):
        own_weight, own_bias = weight[b] if of_tasks[0] else weight, bias[b] if of_tasks[1] else bias
        assert_close(found[:, b], own_weight @ x[:, b] + own_bias[:, None], rtol=1e-12, atol=1e-14)


def test_constants_made_in_inference_mode_can_be_trained_with() -> None:
    like = torch.zeros(1)
    with torch.inference_mode():
        values = constant((0.123, 0.456), like)
    factor = torch.ones(2, requires_grad=True)
    (values * factor).sum().backward()
    assert_close(factor.grad, values)

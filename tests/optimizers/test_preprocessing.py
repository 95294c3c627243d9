"""What a rule sees of a gradient."""

import math

import pytest
import torch
from torch.testing import assert_close

from l2o.optimizers import Identity, LogAndSign, Scale

DTYPES = [torch.float32, torch.float64]
POWERS = [1, 5, 10, 50, 100]
PRECISION = {torch.float32: 2e-5, torch.float64: 1e-13}  # e^p multiplies the rounding of the exponent by p
every_dtype = pytest.mark.parametrize("dtype", DTYPES)
every_p = pytest.mark.parametrize("p", POWERS)


def magnitudes(dtype):
    """Normal numbers over the whole range, both signs."""
    limits = torch.finfo(dtype)
    low, high = math.log10(limits.smallest_normal) + 0.01, math.log10(limits.max) - 0.01
    size = 10 ** torch.linspace(low, high, 2001, dtype=torch.float64)
    return torch.cat([size, -size]).to(dtype)


def formula(grad: float, p: float) -> tuple[float, float]:
    """Andrychowicz et al. 2016, appendix A."""
    if abs(grad) >= math.exp(-p):
        return math.log(abs(grad)) / p, math.copysign(1, grad)
    return -1.0, math.exp(p) * grad


def special(dtype):
    limits = torch.finfo(dtype)
    smallest = torch.tensor(limits.smallest_normal, dtype=dtype)
    subnormal = torch.nextafter(torch.zeros((), dtype=dtype), torch.ones((), dtype=dtype))
    values = [0.0, -0.0, limits.max, limits.min, math.inf, -math.inf, math.nan, 1.0, -1.0]
    tensor = torch.tensor(values, dtype=dtype)
    return torch.cat([tensor, torch.stack([smallest, -smallest, smallest / 2, subnormal, -subnormal])])


@every_dtype
@every_p
def test_log_and_sign_is_the_paper_s_formula(p, dtype):
    grad = magnitudes(dtype)
    expected = torch.tensor([formula(value, p) for value in grad.tolist()], dtype=torch.float64)
    actual = LogAndSign(p)(grad)
    assert actual.dtype == dtype and actual.shape == (len(grad), 2)
    assert_close(actual.double(), expected, rtol=PRECISION[dtype], atol=PRECISION[dtype])


def test_known_values():
    features = LogAndSign(10)(torch.tensor([1.0, -1.0, math.e, -math.exp(-5), math.exp(-11), 0.0]))
    expected = [[0, 1], [0, -1], [0.1, 1], [-0.5, -1], [-1, math.exp(-1)], [-1, 0]]
    assert_close(features, torch.tensor(expected), rtol=1e-6, atol=1e-6)


@every_p
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_the_branches_meet_at_e_to_the_minus_p(float64, p, sign):
    edge = sign * torch.tensor(math.exp(-p))
    below, above = edge * (1 - 1e-12), edge * (1 + 1e-12)
    for grad in (below, edge, above):
        assert_close(LogAndSign(p)(grad), torch.tensor([-1.0, sign]), rtol=0, atol=1e-10)


@every_dtype
@every_p
def test_features_are_bounded_and_grow_with_the_gradient(p, dtype):
    features = LogAndSign(p)(magnitudes(dtype)[:2001])  # positive, rising
    assert (features.diff(dim=0) >= 0).all()
    assert (features[:, 0] >= -1).all() and (features[:, 1] <= 1).all() and (features[:, 1] >= 0).all()


@every_dtype
@every_p
def test_defined_for_every_float(p, dtype):
    grad = special(dtype)
    features = LogAndSign(p)(grad)
    assert features.isfinite().all()
    limits = torch.finfo(dtype)
    largest = math.log(limits.max) / p
    zero, negative_zero, most, least, infinite, negative_infinite, nothing = features[:7]
    assert zero.tolist() == negative_zero.tolist() == nothing.tolist() == [-1, 0]
    assert_close(most, torch.tensor([largest, 1], dtype=dtype), rtol=1e-6, atol=0)
    assert torch.equal(infinite, most) and torch.equal(negative_infinite, least)


@every_dtype
@every_p
def test_odd_in_the_sign_and_even_in_the_size(p, dtype):
    grad = torch.cat([magnitudes(dtype), special(dtype)])
    features, mirrored = LogAndSign(p)(grad), LogAndSign(p)(-grad)
    assert torch.equal(features[:, 0], mirrored[:, 0])
    assert torch.equal(features[:, 1], -mirrored[:, 1])


@every_dtype
@every_p
def test_derivative_is_finite_everywhere(p, dtype):
    grad = torch.cat([magnitudes(dtype), special(dtype)]).requires_grad_()
    for feature in (0, 1):
        (slope,) = torch.autograd.grad(LogAndSign(p)(grad)[:, feature].sum(), grad)
        assert slope.isfinite().all()


@every_p
def test_derivative_is_the_formula_s(float64, p):
    """1/(p∇) and 0 above e^−p, 0 and e^p below, at 0 too."""
    edge = math.exp(-p)
    above = edge * torch.logspace(0.01, 6, 50)
    below = torch.cat([edge * torch.linspace(-0.99, 0.99, 51), torch.zeros(1)])
    grad = torch.cat([above, -above, below]).requires_grad_()
    log, sign = LogAndSign(p)(grad).unbind(-1)
    (slope_log,) = torch.autograd.grad(log.sum(), grad, retain_graph=True)
    (slope_sign,) = torch.autograd.grad(sign.sum(), grad)
    outer = torch.cat([above, -above])
    assert_close(slope_log, torch.cat([1 / (p * outer), torch.zeros_like(below)]), rtol=1e-12, atol=0)
    assert_close(slope_sign, torch.cat([torch.zeros(100), torch.full_like(below, math.exp(p))]), rtol=1e-12, atol=0)


@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (4, 2, 3)])
@pytest.mark.parametrize("preprocessing", [Identity(), Scale(2.0), LogAndSign(10)], ids=["identity", "scale", "log"])
def test_features_come_last_and_coordinates_do_not_meet(preprocessing, shape):
    grad = torch.randn(shape)
    features = preprocessing(grad)
    assert features.shape == (*shape, preprocessing.num_features)
    one_by_one = torch.stack([preprocessing(value) for value in grad.flatten()]).view_as(features)
    assert torch.equal(features, one_by_one)
    assert not list(preprocessing.parameters())


def test_identity_is_the_gradient():
    grad = torch.randn(2, 3)
    assert torch.equal(Identity()(grad)[..., 0], grad)


@pytest.mark.parametrize("factor", [2.0, -0.5, 0.0])
def test_scale_multiplies(factor):
    grad = torch.randn(2, 3)
    assert torch.equal(Scale(factor)(grad)[..., 0], factor * grad)


@pytest.mark.parametrize("p", [0, -1, -math.inf, math.nan])
def test_p_must_be_positive(p):
    with pytest.raises(ValueError, match="log-and-sign needs p > 0"):
        LogAndSign(p)


def test_the_gradient_is_left_alone():
    grad = torch.tensor([math.nan, math.inf, 0.0, 2.0])
    before = grad.clone()
    for preprocessing in (Identity(), Scale(3.0), LogAndSign(10)):
        preprocessing(grad)
    assert_close(grad, before, rtol=0, atol=0, equal_nan=True)

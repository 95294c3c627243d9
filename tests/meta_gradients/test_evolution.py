"""Evolution strategies where their expectation is known: by χ² against exact gradients and numerical quadrature.

Shapes: N pairs, D meta-parameters, T steps of an episode, K steps of a window, M independent estimates.
"""

import numpy as np
import pytest
import torch
from linear_dynamics import Distance, influence_balancing, losses, small
from torch import Generator, nn
from torch.testing import assert_close

from l2o.meta_gradients import EvolutionStrategies, FullES, Last, Log, Mean, PersistentES, Sum, TruncatedBPTT
from l2o.meta_gradients.differences import capped
from l2o.optimizees import Layout, Optimizee, Quadratic
from l2o.optimizers import LSTM, AdafacMLP, Celo, LogAndSign, Scope, UpdateRule

pytestmark = pytest.mark.usefixtures("float64")


def episode_gradient(estimator, rule, optimizee, num_tasks, horizon, window, generator):
    """The mean of the estimates of an episode's windows, with φ as it is: (D,), and the windows' results."""
    carry, results = estimator.start(rule, optimizee, num_tasks, horizon, generator), []
    while True:
        found = estimator(rule, optimizee, carry, window, generator)
        results.append(found)
        carry = found.carry
        if found.done:
            flat = [torch.cat([g.flatten() for g in one.gradient]) for one in results]
            return torch.stack(flat).mean(0), results


def estimates(estimator, rule, optimizee, count, num_tasks, horizon, window, seed=5):
    """M independent estimates (M, D)."""
    generator = Generator().manual_seed(seed)
    args = rule, optimizee, num_tasks, horizon, window, generator
    return torch.stack([episode_gradient(estimator, *args)[0] for _ in range(count)])


def chi_square(found, exact):
    """(ḡ − g)ᵀ C⁻¹ (ḡ − g), C the covariance of the mean of the estimates (M, D): nearly χ² with D degrees of freedom,
    and the size of the error that it allows for, relative to the gradient's."""
    centred = found - found.mean(0)
    covariance = centred.mT @ centred / (len(found) - 1) / len(found)
    error = found.mean(0) - exact
    return (error @ torch.linalg.solve(covariance, error)).item(), (covariance.trace().sqrt() / exact.norm()).item()


UNLIKELY = {1: 10.8, 2: 13.8, 3: 16.3}
"""What χ² exceeds once in a thousand times, by degrees of freedom."""

T, K = 12, 4
UNBIASED = {
    "full_es": FullES(sigma=0.1, cap=None),
    "es, one window": EvolutionStrategies(sigma=0.1, cap=None),
    "pes": PersistentES("window", sigma=0.1, cap=None),
    "nres": PersistentES("episode", sigma=0.1, cap=None),
    "gpes over two windows": PersistentES(8, sigma=0.1, cap=None),
    "gpes within a window": PersistentES(2, sigma=0.1, cap=None),
    "gpes across windows": PersistentES(3, sigma=0.1, cap=None),
    "gpes of single steps": PersistentES(1, sigma=0.1, cap=None),
}


def exact_gradient(rule, optimizee, objective, horizon, tasks=400_000):
    """∇_φ of the mean over tasks, by autograd through the dynamics written out, for tasks drawn without noise: f is
    quadratic, so that what counts of y are its mean 0 and its variance 1, which adds a constant."""
    phi = rule.phi.detach().clone().requires_grad_()
    target = torch.zeros(1, len(rule.a)) if optimizee.target is None else optimizee.target[None]
    curve = losses(rule, optimizee, phi.expand(horizon, 1, -1), torch.ones(1, len(rule.a)), target)
    (gradient,) = torch.autograd.grad(objective(curve).sum(), phi)
    return gradient


@pytest.mark.parametrize("name", UNBIASED)
def test_it_is_unbiased_where_phi_enters_additively(name):
    rule, optimizee = small()
    window = T if name == "es, one window" else K
    found = estimates(UNBIASED[name], rule, optimizee, 60, 300, T, window)
    exact = exact_gradient(rule, optimizee, lambda curve: curve.mean(0), T)
    statistic, error = chi_square(found, exact)
    assert error < 0.05, "the test could see a bias of a few per cent"
    assert statistic < UNLIKELY[2]


def test_a_window_alone_is_biased_where_phi_enters_additively():
    """So the test above can fail: ES over windows leaves out what a window does to later ones."""
    rule, optimizee = small()
    found = estimates(EvolutionStrategies(sigma=0.1, cap=None), rule, optimizee, 60, 300, T, K)
    assert chi_square(found, exact_gradient(rule, optimizee, lambda curve: curve.mean(0), T))[0] > 100


@pytest.mark.parametrize("name", ["full_es", "pes", "nres", "gpes across windows"])
@pytest.mark.parametrize("telescoping", [False, True])
def test_the_final_loss_has_an_unbiased_gradient_too(name, telescoping):
    """By the objective `Last`, or by telescoping; the windows' estimates then sum to that of the final loss."""
    rule, optimizee = small()
    old = UNBIASED[name]
    extra = {"period": old.period} if isinstance(old, PersistentES) else {}
    objective = Mean() if telescoping else Last()
    estimator = type(old)(sigma=0.1, cap=None, objective=objective, telescoping=telescoping, **extra)
    windows = 1 if name == "full_es" else T // K
    found = windows * estimates(estimator, rule, optimizee, 60, 300, T, K)
    statistic, error = chi_square(found, exact_gradient(rule, optimizee, lambda curve: curve[-1], T))
    assert error < 0.1 and statistic < UNLIKELY[2]


class Bent(UpdateRule):
    """g = tanh(φ_1 θ + φ_2) − θ: what φ does depends on θ and on itself, so that smoothing moves the gradient."""

    scope = Scope.COORDINATE

    def __init__(self):
        super().__init__()
        self.slope, self.shift = nn.Parameter(torch.tensor(0.5)), nn.Parameter(torch.tensor(-0.4))

    def init_state(self, theta, layout):
        return {}

    def state_axes(self):
        return {}

    def forward(self, seen, state, layout):
        return torch.tanh(self.slope * seen.theta + self.shift) - seen.theta, state


def smoothed_gradient(sigma, periods, horizon, points=14):
    """∇_φ E[1/T Σ_t f(θ_t)] for `Bent` on f = ½ (θ − 2)² from θ_0 = 1, where every period has noise of its own, by
    Gauss-Hermite quadrature over all of it. f is not quadratic in φ, so that σ shows."""
    nodes, weights = map(torch.from_numpy, np.polynomial.hermite_e.hermegauss(points))
    dims = 2 * periods
    grid = torch.cartesian_prod(*[nodes] * dims).unflatten(1, (periods, 2))  # (points^dims, periods, 2)
    density = torch.cartesian_prod(*[weights / weights.sum()] * dims).prod(1)
    phi = torch.tensor([0.5, -0.4], requires_grad=True)
    moved, theta, total = phi + sigma * grid, torch.ones(len(grid)), torch.zeros(len(grid))
    for t in range(horizon):
        slope, shift = moved[:, t * periods // horizon].unbind(1)
        theta = torch.tanh(slope * theta + shift)
        total = total + 0.5 * (theta - 2).square() / horizon
    return torch.autograd.grad((density * total).sum(), phi)[0]


@pytest.mark.parametrize(("name", "periods"), [("full_es", 1), ("nres", 1), ("pes", 2)])
def test_it_is_the_gradient_of_the_smoothed_objective(name, periods):
    """With a σ so large that the smoothed gradient is another one than the plain gradient."""
    sigma, horizon, window = 0.4, 6, 3
    estimator = {
        "full_es": FullES(sigma=sigma, cap=None),
        "nres": PersistentES("episode", sigma=sigma, cap=None),
        "pes": PersistentES("window", sigma=sigma, cap=None),
    }[name]
    optimizee = Distance(torch.ones(1), 2 * torch.ones(1))
    found = estimates(estimator, Bent(), optimizee, 40, 2500, horizon, window)
    exact = smoothed_gradient(sigma, periods, horizon)
    statistic, error = chi_square(found, exact)
    assert error < 0.05 and statistic < UNLIKELY[2]
    assert chi_square(found, smoothed_gradient(1e-3, 1, horizon))[0] > 100


def test_influence_balancing():
    """Truncated backpropagation and ES over windows have the wrong sign; all persistent estimators have the right one,
    and agree with quadrature."""
    rule, optimizee = influence_balancing()
    horizon, window = 100, 10
    curve = lambda phi: losses(  # noqa: E731
        rule, optimizee, phi[None, :, None].expand(horizon, -1, -1), torch.ones(len(phi), 23), torch.ones(23)
    ).mean(0)
    nodes, weights = map(torch.from_numpy, np.polynomial.hermite_e.hermegauss(8))
    sigma = 0.1
    by_quadrature = (weights / weights.sum() * nodes * curve(0.5 + sigma * nodes)).sum() / sigma
    assert_close(by_quadrature[None], exact_gradient(rule, optimizee, lambda c: c.mean(0), horizon), rtol=1e-9, atol=0)
    for second_order in (False, True):
        truncated = TruncatedBPTT(second_order, objective=Mean())
        mean, _ = episode_gradient(truncated, rule, optimizee, 1, horizon, window, Generator())
        assert mean.sign() == -by_quadrature.sign()
    persistent = (PersistentES(period, sigma, cap=None) for period in ("window", "episode"))
    for estimator in (FullES(sigma, cap=None), *persistent):
        found = single_pairs(estimator, rule, optimizee, 800, horizon, window)
        statistic, error = chi_square(found, by_quadrature[None])
        assert error < 0.25 and statistic < UNLIKELY[1], estimator
        assert found.mean().sign() == by_quadrature.sign()
    found = single_pairs(EvolutionStrategies(sigma, cap=None), rule, optimizee, 800, horizon, window)
    assert found.mean() * by_quadrature < 0 and found.mean().abs() > 4 * found.std() / 800**0.5


def single_pairs(estimator, rule, optimizee, count, horizon, window):
    """What each of N pairs by itself says of the mean loss of an episode, (N, D); their mean is what is returned."""
    _, results = episode_gradient(estimator, rule, optimizee, count, horizon, window, Generator().manual_seed(5))
    found = []
    for one in results:
        plus, minus = one.losses.mean(0).chunk(2)
        found.append((plus - minus)[:, None] * one.carry.credit / (2 * estimator.sigma**2))
        assert_close(found[-1].mean(0), torch.cat([g.flatten() for g in one.gradient]))
    return torch.stack(found).mean(0)


# ------------------------------------------------------------------------------------------ equal to the last bit


class Steep(Optimizee):
    """f(θ) = Σ log cosh(W θ) with a fresh W for every evaluation."""

    layout = Layout({"a": (2, 2), "b": (3,)})

    def sample(self, num_tasks, generator):
        return torch.randn(num_tasks, 7, generator=generator), {}

    def sample_batch(self, task, num_tasks, generator):
        return {"W": torch.randn(num_tasks, 5, 7, generator=generator)}

    def loss(self, theta, batch):
        return (batch["W"] @ theta).cosh().log().sum()


def phase_two():
    return Celo(phase=2, scheduler_size=3)


RULES = {
    "lstm": lambda: LSTM(LogAndSign(10.0), hidden_size=3, output_scale=0.1),
    "adafac mlp": AdafacMLP,
    "learned initial state": phase_two,
}


def results(estimator, rule, window, horizon=8, num_tasks=3, seed=9):
    generator = Generator().manual_seed(seed)
    return episode_gradient(estimator, rule, Steep(), num_tasks, horizon, window, generator)[1]


def assert_same(one, other):
    assert torch.equal(one.losses, other.losses) and torch.equal(one.objective, other.objective)
    assert all(torch.equal(a, b) for a, b in zip(one.gradient, other.gradient, strict=True))


@pytest.mark.parametrize("name", RULES)
def test_all_are_one_estimator_where_the_window_is_the_episode(name):
    rule = RULES[name]()
    (expected,) = results(EvolutionStrategies(), rule, 8)
    assert max(gradient.abs().max() for gradient in expected.gradient) > 0
    for other in (PersistentES("window"), PersistentES("episode"), PersistentES(8), PersistentES(100), FullES()):
        (found,) = results(other, rule, 8)
        assert_same(found, expected)
    (found,) = results(FullES(), rule, 2)
    assert_same(found, expected)


@pytest.mark.parametrize("name", RULES)
def test_the_mean_of_an_episodes_windows_is_full_es_where_epsilon_is_one(name):
    rule = RULES[name]()
    windows = results(PersistentES("episode"), rule, 2)
    (whole,) = results(FullES(), rule, 8)
    mean = [torch.stack(parts).mean(0) for parts in zip(*(one.gradient for one in windows), strict=True)]
    assert len(windows) == 4
    assert torch.equal(torch.cat([one.losses for one in windows]), whole.losses)
    assert_close(mean, whole.gradient, rtol=1e-10, atol=1e-13)


def test_emphasis_weighs_every_window_by_its_place_in_the_episode():
    rule = AdafacMLP()
    plain, weighed = (results(PersistentES("episode", emphasis=p), rule, 2) for p in (0.0, 2.0))
    assert len(weighed) == 4
    for i, (found, expected) in enumerate(zip(weighed, plain, strict=True)):
        counts = 3 * ((2 * i + 1) / 8) ** 2
        assert torch.equal(found.losses, expected.losses)
        assert_close(found.objective, counts * expected.objective)
        assert_close(found.gradient, [counts * g for g in expected.gradient], rtol=1e-12, atol=0)


def test_emphasis_needs_a_horizon():
    estimator, generator = PersistentES("episode", emphasis=1.0), Generator().manual_seed(0)
    carry = estimator.start(AdafacMLP(), Quadratic(3), 2, float("inf"), generator)
    with pytest.raises(ValueError, match="no horizon T: give it a finite one"):
        estimator(AdafacMLP(), Quadratic(3), carry, 2, generator)


def test_a_period_of_one_window_is_pes():
    rule = phase_two()
    by_steps, by_window = (results(PersistentES(period), rule, 2) for period in (2, "window"))
    for found, expected in zip(by_steps, by_window, strict=True):
        assert_same(found, expected)


def test_periods_within_a_window_add_up_as_those_of_windows_do():
    """Windows of two periods give the mean of what windows of one period give, with the same draws."""
    rule = AdafacMLP()
    fine, coarse = results(PersistentES(2), rule, 2), results(PersistentES(2), rule, 4)
    for i, found in enumerate(coarse):
        pair = [one.gradient for one in fine[2 * i : 2 * i + 2]]
        expected = [torch.stack(parts).mean(0) for parts in zip(*pair, strict=True)]
        assert_close(found.gradient, expected, rtol=1e-9, atol=1e-12)


def test_the_credit_is_the_sum_of_the_perturbations_and_starts_anew():
    rule, generator = AdafacMLP(), Generator().manual_seed(3)
    estimator = PersistentES("window", sigma=0.5)
    for _ in range(2):  # episodes
        carry = estimator.start(rule, Steep(), 2, 6, generator)
        total = carry.noise.clone()
        assert torch.equal(carry.credit, total)
        for i in range(3):
            carry = estimator(rule, Steep(), carry, 2, generator).carry
            total = total + carry.noise if i else total
            assert torch.equal(carry.credit, total)


def test_both_signs_meet_the_same_task_and_minibatches():
    rule = LSTM(LogAndSign(10.0), hidden_size=3, head_init=0.0)  # stands still, whatever the other weights are
    for name, parameter in rule.named_parameters():
        parameter.requires_grad_(not name.startswith("head."))
    for estimator in (PersistentES(), EvolutionStrategies(), FullES()):
        for found in results(estimator, rule, 4):
            assert_close(*found.losses.chunk(2, 1), rtol=1e-12, atol=0)
            assert all(gradient.abs().max() < 1e-9 for gradient in found.gradient)


def test_the_positive_state_is_kept():
    rule, estimator, generator = AdafacMLP(), EvolutionStrategies(sigma=0.3), Generator().manual_seed(1)
    carry = estimator(rule, Steep(), estimator.start(rule, Steep(), 2, 8, generator), 2, generator).carry
    assert not torch.equal(*carry.episode.theta.chunk(2))
    again = estimator.renewed(carry, rule, generator)
    positive = carry.episode.theta[:2]
    assert torch.equal(again.episode.theta, positive.repeat(2, 1))
    for key, value in carry.episode.state.items():
        assert torch.equal(again.episode.state[key][2:], value[:2])
    assert torch.equal(again.noise, again.credit) and not torch.equal(again.noise, carry.noise)


# ---------------------------------------------------------------------------------------------- what can go wrong


class Cliff(Optimizee):
    """f(θ) = θ², and nan or infinite beyond 2, from θ_0 = 1."""

    layout = Layout({"x": (1,)})

    def __init__(self, beyond):
        self.beyond = beyond

    def sample(self, num_tasks, generator):
        return torch.ones(num_tasks, 1), {}

    def loss(self, theta, batch):
        return torch.where(theta.abs() > 2, self.beyond * theta.square(), theta.square()).sum()


class Push(UpdateRule):
    """g = φ."""

    scope = Scope.COORDINATE

    def __init__(self, phi):
        super().__init__()
        self.phi = nn.Parameter(torch.tensor(phi))

    def init_state(self, theta, layout):
        return {}

    def state_axes(self):
        return {}

    def forward(self, seen, state, layout):
        return self.phi + 0 * seen.theta, state


@pytest.mark.parametrize("beyond", [torch.nan, torch.inf, -torch.inf, 1e30])
@pytest.mark.parametrize("cap", [2.0, None])
def test_one_bad_particle_never_voids_an_update(beyond, cap):
    """φ = 1 puts half of the particles beyond the cliff, on which side is worse: the estimate says to go back."""
    estimator, generator = PersistentES(sigma=0.1, cap=cap), Generator().manual_seed(2)
    rule, optimizee = Push(1.0), Cliff(beyond)
    carry = estimator.start(rule, optimizee, 6, 1, generator)
    found = estimator(rule, optimizee, carry, 1, generator)
    assert found.losses.isfinite().all() and found.objective.isfinite() and found.gradient[0].isfinite()
    assert found.diagnostics["not_finite"] == (0.5 if beyond != 1e30 else 0)
    if cap:
        assert found.losses.max() == cap and found.gradient[0] == 0  # just below 4 = θ² > cap: all count alike
        assert found.diagnostics["capped"] == 1


def test_where_all_are_bad_nothing_is_said():
    estimator, generator = PersistentES(sigma=0.1, cap=None), Generator().manual_seed(2)
    rule, optimizee = Push(10.0), Cliff(torch.nan)
    found = estimator(rule, optimizee, estimator.start(rule, optimizee, 2, 1, generator), 1, generator)
    assert found.gradient == [0] and found.objective == 0 and found.diagnostics["not_finite"] == 1


def test_the_cap_is_relative_to_the_first_loss():
    losses = torch.tensor([[1.0, 5.0, torch.nan, -torch.inf, -9.0, 3.0]])
    first = torch.tensor([2.0, 2.0, 2.0, -2.0, -2.0, torch.nan])
    assert capped(losses, first, 2.0).tolist() == [[1.0, 4.0, 4.0, 0.0, -9.0, 3.0]]
    assert capped(losses, first, None).tolist() == [[1.0, 5.0, 5.0, 5.0, -9.0, 3.0]]


def test_sign_and_clip():
    rule = AdafacMLP()
    for kwargs, change in (({"sign": True}, torch.sign), ({"clip": 1e-3}, lambda d: d.clamp(-1e-3, 1e-3))):
        generator = Generator().manual_seed(4)
        plain, other = FullES(sigma=0.1), FullES(sigma=0.1, **kwargs)
        carry = plain.start(rule, Steep(), 4, 3, generator)
        state = generator.get_state()
        losses = plain(rule, Steep(), carry, 3, generator).losses
        generator.set_state(state)
        found = torch.cat([g.flatten() for g in other(rule, Steep(), carry, 3, generator).gradient])
        plus, minus = losses.mean(0).chunk(2)
        assert ((plus - minus).abs() > 1e-3).any()
        assert_close(found, change(plus - minus) @ carry.noise / 4 / (2 * 0.1**2), rtol=1e-12, atol=1e-14)


def test_objectives_are_taken_of_each_particle():
    rule, generator = AdafacMLP(), Generator().manual_seed(4)
    estimator = FullES(sigma=0.1, objective=Log(1e-3, Sum()))
    carry = estimator.start(rule, Steep(), 4, 3, generator)
    found = estimator(rule, Steep(), carry, 3, generator)
    value = (found.losses + 1e-3).log().sum(0)
    plus, minus = value.chunk(2)
    assert_close(found.objective, value.mean())
    gradient = torch.cat([g.flatten() for g in found.gradient])
    assert_close(gradient, (plus - minus) @ carry.noise / 4 / (2 * 0.1**2), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("loss_on", ["fresh", "test"])
def test_other_losses_are_those_of_other_minibatches(loss_on):
    rule = AdafacMLP()
    inner, other = results(FullES(), rule, 8), results(FullES(loss_on=loss_on), rule, 8)
    assert not torch.equal(inner[0].losses, other[0].losses)
    assert other[0].gradient[0].isfinite().all()


def test_the_signal_to_noise_ratio_is_that_of_single_pairs():
    rule = AdafacMLP()
    estimator = FullES(sigma=0.1)
    many = Generator().manual_seed(8)
    carry = estimator.start(rule, Quadratic(3), 5, 4, many)
    found = estimator(rule, Quadratic(3), carry, 4, many)
    plus, minus = found.losses.mean(0).chunk(2)
    each = (plus - minus)[:, None] * carry.noise / (2 * 0.1**2)
    expected = each.mean(0).square().sum() / (each - each.mean(0)).square().sum(1).mean()
    assert_close(found.diagnostics["snr"], expected)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FullES(sigma=0.0), "positive sigma, got 0.0"),
        (lambda: FullES(sigma=float("nan")), "positive sigma, got nan"),
        (lambda: FullES(clip=0.0), "must be positive, got 0.0"),
        (lambda: FullES(cap=1.0), "more than 1 or null, got 1.0"),
        (lambda: FullES(cap=float("inf")), "more than 1 or null, got inf"),
        (lambda: FullES(loss_on="train"), "loss_on must be one of"),
        (lambda: PersistentES("step"), "period must be window, episode or a positive number of steps, got 'step'"),
        (lambda: PersistentES(0), "got 0"),
        (lambda: PersistentES(True), "got True"),
        (lambda: PersistentES(2.5), "got 2.5"),
        (lambda: PersistentES(emphasis=-1.0), "from 0 on, got -1.0"),
        (lambda: PersistentES(emphasis=float("inf")), "from 0 on, got inf"),
    ],
)
def test_what_makes_no_sense_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_full_es_needs_a_horizon():
    rule, generator = AdafacMLP(), Generator()
    carry = FullES().start(rule, Steep(), 1, float("inf"), generator)
    with pytest.raises(ValueError, match="FullES runs whole episodes and needs to know their horizon"):
        FullES()(rule, Steep(), carry, 2, generator)

"""A schedule with restarts for a rule that was trained for R steps.

Shapes: B tasks, P coordinates, K steps, R steps of a cycle.
"""

import math

import pytest
import torch
from torch import Tensor

from l2o.deploy.torch_optimizer import LearnedOptimizer
from l2o.meta_gradients import PersistentES
from l2o.meta_gradients.perturbation import perturbed
from l2o.optimizees import Layout, Quadratic
from l2o.optimizees.layout import Axis
from l2o.optimizers import LSTM, Adam, Identity, Observation, Partitioned, Scheduled, Scope, UpdateRule
from l2o.optimizers.kernels import dispatch
from l2o.optimizers.phi import trainable, with_phi
from l2o.optimizers.recurrent_cells import WrittenOut
from l2o.optimizers.scheduled import schedule
from l2o.unroll import start_episode, unroll

B, R, LAYOUT = 2, 4, Layout({"w": (2, 2), "v": (1,)})
P = LAYOUT.size

pytestmark = pytest.mark.usefixtures("float64")


def lstm() -> LSTM:
    torch.manual_seed(0)
    return LSTM(Identity(), hidden_size=3, num_layers=1)


def moved(rule: Scheduled) -> Scheduled:
    torch.manual_seed(1)
    for parameter in rule.mlp.parameters():
        parameter.data += torch.randn_like(parameter)
    return rule


def gradients(steps: int) -> Tensor:
    return torch.randn(steps, B, P, generator=torch.Generator().manual_seed(2))


def observed(grads: Tensor, horizon: float, loss: float = math.nan) -> list[Observation]:
    full = lambda value: torch.full((B,), float(value))  # noqa: E731
    return [
        Observation(grad, torch.zeros_like(grad), full(loss), full(t), full(horizon)) for t, grad in enumerate(grads)
    ]


def run(rule: UpdateRule, steps: list[Observation]) -> Tensor:
    """Updates (K, B, P) of an episode."""
    state, updates = rule.init_state(steps[0].theta, LAYOUT), []
    with torch.no_grad():
        for one in steps:
            update, state = rule(one, state, LAYOUT)
            updates.append(update)
    return torch.stack(updates)


@pytest.mark.parametrize("horizon", [R - 1, R, math.inf])
def test_an_untrained_schedule_leaves_the_inner_rule_as_it_is_for_as_long_as_it_was_trained(horizon: float) -> None:
    steps = observed(gradients(int(min(horizon, R))), horizon, loss=2.0)
    assert torch.equal(run(Scheduled(lstm(), R), steps), run(lstm(), steps))


def test_a_longer_episode_is_made_of_cycles_the_last_of_which_ends_with_it() -> None:
    """T = 11 and R = 4: cycles of 3, 4 and 4 steps, in which the rate falls from 1 to nearly R/T."""
    grads, horizon = gradients(11), 11
    found = run(Scheduled(lstm(), R), observed(grads, horizon, loss=2.0))
    cycles = [run(lstm(), observed(part, horizon)) for part in grads.split([3, 4, 4])]
    rates = torch.tensor([(R / horizon) ** (t / horizon) for t in range(horizon)])
    torch.testing.assert_close(found, rates[:, None, None] * torch.cat(cycles), rtol=1e-12, atol=0)


def test_without_a_horizon_it_starts_anew_after_so_many_steps() -> None:
    grads = gradients(10)
    found = run(Scheduled(lstm(), R), observed(grads, math.inf))
    cycles = [run(lstm(), observed(part, math.inf)) for part in grads.split([4, 4, 2])]
    rates = torch.tensor([1.0] * 5 + [R / t for t in range(5, 10)])
    torch.testing.assert_close(found, rates[:, None, None] * torch.cat(cycles), rtol=1e-12, atol=0)


def test_left_to_itself_it_only_scales() -> None:
    grads = gradients(9)
    found = run(Scheduled(lstm(), R, restarts=False), observed(grads, 9))
    rates = torch.tensor([(R / 9) ** (t / 9) for t in range(9)])
    torch.testing.assert_close(found, rates[:, None, None] * run(lstm(), observed(grads, 9)), rtol=1e-12, atol=0)


class Told(UpdateRule):
    """Moves by what it is told: 100 · step + horizon."""

    scope = Scope.COORDINATE
    needs = frozenset({"horizon"})

    def init_state(self, theta, layout):
        return {}

    def state_axes(self) -> dict[str, Axis]:
        return {}

    def forward(self, seen, state, layout):
        return (100 * seen.step + seen.horizon)[:, None].expand_as(seen.grad), state


def test_the_inner_rule_is_told_of_its_own_cycle_and_needs_no_horizon() -> None:
    rule = Scheduled(Told(), R)
    assert rule.needs == frozenset() and Scheduled(Told(), R, restarts=False).needs == {"horizon"}
    torch.nn.init.zeros_(rule.mlp.weights[0])
    rates = torch.tensor([(R / 6) ** (t / 6) for t in range(6)])
    cycle = torch.tensor([2.0, 102.0, 4.0, 104.0, 204.0, 304.0])
    torch.testing.assert_close(run(rule, observed(gradients(6), 6))[:, 0, 0], rates * cycle, rtol=1e-12, atol=0)


def test_tasks_at_other_steps_and_horizons_do_not_disturb_each_other() -> None:
    """One that starts anew beside one that does not, and beside one that knows no horizon."""
    torch.manual_seed(3)
    rule, steps, horizons = moved(Scheduled(lstm(), R)), [8.0, 5.0, 4.0], [12.0, 12.0, math.inf]
    grad, loss = torch.randn(3, P), torch.rand(3)
    together = Observation(grad, torch.zeros(3, P), loss, torch.tensor(steps), torch.tensor(horizons))
    state = {key: torch.randn_like(value) for key, value in rule.init_state(together.theta, LAYOUT).items()}
    state["losses"] = state["losses"].abs()

    def one_task(seen: Observation, state: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        own = {key: value[None] for key, value in state.items()}
        return rule(Observation(*(part[None] for part in seen)), own, LAYOUT)

    with torch.no_grad():
        found, after = rule(together, state, LAYOUT)
        with dispatch.without_kernels(), WrittenOut():
            mapped, _ = torch.func.vmap(one_task)(together, state)
        for b in range(3):
            own = {key: value[b : b + 1] for key, value in state.items()}
            alone, alone_after = rule(Observation(*(part[b : b + 1] for part in together)), own, LAYOUT)
            torch.testing.assert_close(found[b : b + 1], alone, rtol=1e-12, atol=1e-14)
            torch.testing.assert_close(mapped[b], alone, rtol=1e-12, atol=1e-14)
            for key, value in alone_after.items():
                torch.testing.assert_close(after[key][b : b + 1], value, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("hidden_size", [0, 3])
def test_the_rate_depends_on_time_and_loss_and_on_the_task_s_own_numbers(hidden_size: int) -> None:
    grads, rule = gradients(8), moved(Scheduled(lstm(), R, hidden_size=hidden_size))
    plain = run(Scheduled(lstm(), R), observed(grads, 8, loss=2.0))
    rates = run(rule, observed(grads, 8, loss=2.0)) / plain
    torch.testing.assert_close(rates, rates[:, :1, :1].expand_as(rates), rtol=1e-9, atol=0)  # one for all coordinates
    assert len(rates[:, 0, 0].unique()) == 8
    falling = [one._replace(loss=one.loss / (1 + t)) for t, one in enumerate(observed(grads, 8, loss=2.0))]
    assert not torch.allclose(run(rule, falling)[1:], run(rule, observed(grads, 8, loss=2.0))[1:])
    deaf = moved(Scheduled(lstm(), R, hidden_size=hidden_size, reads_loss=False))
    assert torch.equal(run(deaf, falling), run(deaf, observed(grads, 8)))
    phi = {name: torch.stack((p, 0 * p)) for name, p in rule.named_parameters() if name.startswith("mlp.")}
    with with_phi(rule, phi):
        both = run(rule, observed(grads, 8, loss=2.0))
    torch.testing.assert_close(both[:, 0], run(rule, observed(grads, 8, loss=2.0))[:, 0], rtol=1e-9, atol=0)
    torch.testing.assert_close(both[:, 1], plain[:, 1], rtol=1e-9, atol=0)


def test_the_schedule_alone_is_trained_and_the_inner_rule_keeps_its_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    rule = Scheduled(lstm(), R)
    assert set(trainable(rule)) == {"mlp.weight_0", "mlp.bias_0"}
    assert set(trainable(Scheduled(lstm(), R, frozen=False))) == {name for name, _ in rule.named_parameters()}
    shapes, inner = [], dispatch.step
    monkeypatch.setattr(
        dispatch, "step", lambda w, *rest: (shapes.append([one.shape for one in w]), inner(w, *rest))[1]
    )
    with perturbed(rule, 0.1 * torch.randn(B, 7)):
        episode = start_episode(rule, Quadratic(3), 2 * B, torch.Generator().manual_seed(0), 8.0)
        unroll(rule, Quadratic(3), episode, 1, torch.Generator().manual_seed(1))
    own = [weight.shape for weight in lstm()._weights()]
    assert shapes == [own]  # one φ for all tasks, as the kernels like it


def test_a_training_that_was_interrupted_amid_an_episode_goes_on_with_the_same_bits() -> None:
    rule, optimizee, estimator = moved(Scheduled(lstm(), R)), Quadratic(3), PersistentES("episode", 0.1)
    generator = torch.Generator().manual_seed(0)
    carry = estimator.start(rule, optimizee, B, 12.0, generator)
    carry = estimator(rule, optimizee, carry, 6, generator).carry
    seed, copies = generator.get_state(), []
    for _ in range(2):
        generator.set_state(seed)
        copies.append(estimator(rule, optimizee, carry, 6, generator))
    first, again = copies
    assert all(torch.equal(a, b) for a, b in zip(first.gradient, again.gradient, strict=True))
    assert torch.equal(first.losses, again.losses) and first.done
    frozen = [g for g, p in zip(first.gradient, rule.parameters(), strict=True) if not p.requires_grad]
    assert not torch.cat([part.flatten() for part in frozen]).any()
    assert torch.cat([part.flatten() for part in first.gradient]).count_nonzero() == 7


@pytest.mark.parametrize("horizon", [None, 10])
def test_it_serves_a_model_as_it_serves_an_optimizee(horizon: int | None) -> None:
    torch.manual_seed(4)
    rule, grads = moved(Scheduled(lstm(), R)), gradients(10)
    parameters = [torch.nn.Parameter(torch.zeros(shape)) for shape in LAYOUT.shapes.values()]
    named = list(zip(LAYOUT.shapes, parameters, strict=True))
    optimizer = LearnedOptimizer(named, rule, horizon=horizon, on_divergence=None)
    for step, grad in enumerate(grads[:, 0]):
        if step == 6:  # amid the second cycle: another optimizer takes over
            saved, optimizer = optimizer.state_dict(), LearnedOptimizer(named, rule, horizon=horizon)
            optimizer.load_state_dict(saved)
        for name, parameter in named:
            parameter.grad = grad[LAYOUT.slices[name]].view_as(parameter)
        optimizer.step(loss=torch.tensor(1.0 + step))
    told = math.inf if horizon is None else horizon
    steps = [one._replace(loss=torch.full((B,), 1.0 + t)) for t, one in enumerate(observed(grads, told))]
    expected = run(rule, steps)[:, 0].sum(0)
    found = torch.cat([parameter.detach().flatten() for parameter in parameters])
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def test_each_group_has_a_schedule_of_its_own() -> None:
    first = Partitioned({"a": lstm(), "b": Adam(0.1)}, {"a": "w", "b": "v"})
    first.card = {"horizon": [3, R]}
    rule = schedule(first, hidden_size=2)
    assert isinstance(rule, Partitioned) and rule.patterns == first.patterns
    parts = [*rule.rules.values()]
    assert all(isinstance(part, Scheduled) and part.trained_horizon == R for part in parts)
    assert parts[0].mlp is not parts[1].mlp and parts[0].hidden_size == 2
    assert isinstance(schedule(lstm(), 7), Scheduled)


def test_what_makes_no_sense_is_refused_in_a_line() -> None:
    both = Partitioned({"a": lstm(), "b": Adam(0.1)}, {"a": "w", "b": "v"})
    for make, words in (
        (lambda: Scheduled(both, R), "Scheduled takes the rule of one group.*schedule"),
        (lambda: schedule(lstm()), "nobody knows for how many steps LSTM was trained.*trained_horizon"),
        (lambda: Scheduled(lstm(), 0), "trained_horizon must be at least 1, got 0"),
        (lambda: Scheduled(lstm(), R, hidden_size=-1), "hidden_size must be a whole number of at least 0, got -1"),
        (lambda: Scheduled(lstm(), 2.5), "trained_horizon must be a whole number, got 2.5"),
    ):
        with pytest.raises(ValueError, match=words):
            make()

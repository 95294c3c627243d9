"""What every modern rule keeps to: scope, purity, tasks, extreme gradients, export, and its meta-gradient.

Shapes: B tasks, P coordinates, K steps.
"""

import json
import math

import modern_rules
import pytest
import torch
from modern_rules import LAYOUT, RULES, made, run, seen
from torch import Tensor
from torch.testing import assert_close

from l2o.deploy.export import build, describe
from l2o.optimizees import Layout
from l2o.optimizees.layout import Axis
from l2o.optimizers import AdafacMLP, Adam, AdamW, Celo, Celo2, Hierarchical, MLPLOpt, Momentum, Muon, Scope, UpdateRule
from l2o.optimizers.base import Recording
from l2o.optimizers.celo import second_phase
from l2o.replay import replay

B, K = 2, 4

every_rule = pytest.mark.parametrize("name", RULES)


def data(dtype: torch.dtype = torch.float64, tasks: int = B, layout: Layout = LAYOUT) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients (K, B, P), θ (B, P), losses (K, B)."""
    generator = torch.Generator().manual_seed(7)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=dtype)  # noqa: E731
    return draw(K, tasks, layout.size), draw(tasks, layout.size), 2 + 0.3 * draw(K, tasks)


@every_rule
def test_state_is_laid_out_as_declared(float64, name: str) -> None:
    rule = made(name)
    grads, theta, losses = data()
    _, after = run(rule, grads, theta, losses, LAYOUT)
    for state in (rule.init_state(theta, LAYOUT), after):
        assert {key: value.shape[:2] for key, value in state.items()} == {
            key: (B, LAYOUT.length(axis)) for key, axis in rule.state_axes().items()
        }


@every_rule
def test_forward_is_pure_and_finite(float64, name: str) -> None:
    rule = made(name)
    grads, theta, losses = data()
    _, state = run(rule, grads, theta, losses, LAYOUT)
    told = seen(grads[0], theta, 5, 20.0, losses[0])
    inputs = [*told, *state.values()]
    before = [tensor.clone() for tensor in inputs]
    first, second = (rule(told, state, LAYOUT) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(inputs, before, strict=True))
    assert torch.equal(first[0], second[0]) and first[0].shape == theta.shape
    assert all(torch.equal(first[1][key], second[1][key]) for key in state)
    assert all(value.isfinite().all() for value in (first[0], *first[1].values()))
    assert first[0].any()


@every_rule
def test_tasks_do_not_meet(float64, name: str) -> None:
    rule = made(name)
    grads, theta, losses = data()
    together, _ = run(rule, grads, theta, losses, LAYOUT)
    for b in range(B):
        alone, _ = run(rule, grads[:, b : b + 1], theta[b : b + 1], losses[:, b : b + 1], LAYOUT)
        assert_close(together[:, b : b + 1], alone, rtol=1e-10, atol=1e-15)


@every_rule
def test_a_tensor_depends_on_itself_alone(float64, name: str) -> None:
    """The scope TENSOR: each tensor by itself moves as among the others; the scope ALL is for the one that does not."""
    rule = made(name)
    if name == "adafac_mlp by fan-in":
        assert rule.scope is Scope.ALL
        return
    assert rule.scope is Scope.TENSOR
    grads, theta, losses = data()
    together, _ = run(rule, grads, theta, losses, LAYOUT)
    for part, span in LAYOUT.slices.items():
        alone, _ = run(rule, grads[..., span], theta[:, span], losses, Layout({part: LAYOUT.shapes[part]}))
        assert_close(alone, together[..., span], rtol=1e-10, atol=1e-15)


@every_rule
def test_the_order_of_tensors_does_not_matter(float64, name: str) -> None:
    rule = made(name)
    grads, theta, losses = data()
    parts = list(LAYOUT.shapes)
    mixed = Layout({part: LAYOUT.shapes[part] for part in (parts if name[-9:] == "by fan-in" else parts[::-1])})
    order = torch.cat([torch.arange(LAYOUT.size)[LAYOUT.slices[part]] for part in mixed.shapes])
    there, _ = run(rule, grads, theta, losses, LAYOUT)
    here, _ = run(rule, grads[..., order], theta[:, order], losses, mixed)
    assert_close(here, there[..., order], rtol=1e-10, atol=1e-15)


@every_rule
@pytest.mark.parametrize("scale", [0.0, 1e-12, 1e-6, 1.0, 1e6])
@pytest.mark.parametrize("horizon", [1.0, 20.0, 1e9, math.inf])
def test_extreme_gradients_and_horizons_are_finite(name: str, scale: float, horizon: float) -> None:
    """In float32, forward and backward, for losses of that scale, too."""
    rule = made(name)
    grads, theta, losses = data(torch.float32)
    updates, state = run(rule, scale * grads, theta, scale * losses, LAYOUT, horizon)
    assert all(value.isfinite().all() for value in (updates, *state.values()))
    updates.sum().backward()
    assert all(p.grad.isfinite().all() for p in rule.parameters() if p.grad is not None)


@every_rule
def test_no_tensors_and_one_tensor(float64, name: str) -> None:
    rule = made(name)
    for shapes in ({}, {"only": (3, 2)}, {"only": ()}, {"only": (0,)}, {"only": (5, 0)}):
        layout = Layout(shapes)
        updates, state = run(rule, *data(layout=layout), layout)
        assert updates.shape == (K, B, layout.size) and updates.isfinite().all()
        assert all(value.isfinite().all() for value in state.values())


@every_rule
def test_export_and_back(float64, name: str) -> None:
    rule = made(name)
    again = build(json.loads(json.dumps(describe(rule))))
    again.load_state_dict(rule.state_dict())
    assert describe(again) == describe(rule)
    grads, theta, losses = data()
    mine, other = (run(one, grads, theta, losses, LAYOUT) for one in (rule, again))
    assert_close(mine, other, rtol=0, atol=0)


@every_rule
def test_phi_with_a_leading_task_axis(float64, name: str) -> None:
    """One φ for each task gives what each task's rule gives by itself; learned initial states and decays included."""
    rules = [made(name, seed) for seed in range(B)]
    stacked = {key: torch.stack([rule.get_parameter(key) for rule in rules]) for key in rules[0].state_dict()}
    together = made(name)
    for key, value in stacked.items():
        owner, _, last = key.rpartition(".")
        module = together.get_submodule(owner)
        delattr(module, last)
        setattr(module, last, value)
    grads, theta, losses = data()
    updates, _ = run(together, grads, theta, losses, LAYOUT)
    for b, rule in enumerate(rules):
        alone, _ = run(rule, grads[:, b : b + 1], theta[b : b + 1], losses[:, b : b + 1], LAYOUT)
        assert_close(updates[:, b : b + 1], alone, rtol=1e-9, atol=1e-14)


def autograd(rule: UpdateRule, recording: Recording, weights: Tensor) -> list[Tensor]:
    """∂ Σ_t ⟨λ_t, g_t⟩ / ∂φ by plain autograd, where θ does not depend on φ."""
    theta = recording.theta
    state = rule.init_state(theta, recording.layout) if recording.step == 0 else recording.state
    total = theta.new_zeros(())
    for t, weight in enumerate(weights):
        update, state = rule(recording.seen(t, theta), state, recording.layout)
        total, theta = total + (weight * update).sum(), theta + update.detach()
    wanted = [parameter for parameter in rule.parameters() if parameter.requires_grad]
    found = iter(torch.autograd.grad(total, wanted, allow_unused=True))
    grads = [next(found) if parameter.requires_grad else None for parameter in rule.parameters()]
    return [torch.zeros_like(p) if grad is None else grad for p, grad in zip(rule.parameters(), grads, strict=True)]


@every_rule
@pytest.mark.parametrize("first", [0, 5], ids=["first window", "later window"])
@pytest.mark.parametrize("budget", [1, 20_000, 2**30])
def test_replay_equals_autograd(float64, name: str, first: int, budget: int) -> None:
    rule = made(name)
    grads, theta, losses = data()
    state = rule.init_state(theta, LAYOUT)
    if first:
        with torch.no_grad():
            _, state = run(rule, grads.flip(0), theta, losses.flip(0), LAYOUT)
    state = {key: value.detach() for key, value in state.items()}
    recording = Recording(grads, losses, theta, state, first, 20.0, LAYOUT)
    weights = torch.randn(K, B, LAYOUT.size)
    expected = autograd(rule, recording, weights)
    found = replay(rule, recording, lambda spans: torch.cat([weights[..., span] for span in spans], -1), budget)
    for (key, parameter), mine, right in zip(rule.named_parameters(), found, expected, strict=True):
        assert_close(mine, right, rtol=1e-8, atol=1e-12, msg=key)
        if parameter.requires_grad and "initial" in key:
            assert bool(right.any()) == (first == 0), key


def test_the_initial_state_of_the_scheduler_is_learned(float64) -> None:
    rule = made("celo phase 2")
    assert {"scheduler.initial_hidden", "scheduler.initial_cell"} <= dict(rule.named_parameters()).keys()
    assert {axis for key, axis in rule.state_axes().items() if key in ("hidden", "cell")} == {Axis.SHARED}


def test_sizes_are_the_published_ones() -> None:
    count = lambda rule: sum(parameter.numel() for parameter in rule.parameters())  # noqa: E731
    assert count(AdafacMLP()) == 197
    assert count(AdafacMLP(32, learned_decays=False)) == 2402
    assert count(MLPLOpt()) == 1762
    assert count(Celo(1)) == 159
    assert count(Celo2()) == 347


@pytest.mark.parametrize("name", ["adafac_mlp", "mlp_lopt", "celo phase 2", "celo2"])
def test_weights_start_within_two_sigmas_and_biases_at_0(name: str) -> None:
    for key, value in RULES[name]().named_parameters():
        if value.ndim == 2:
            sigma = value.shape[1] ** -0.5
            assert value.abs().max() <= 2 * sigma
            assert value.numel() < 100 or abs(value.std() / (0.88 * sigma) - 1) < 0.25  # 0.88: the cut takes 12 %
        else:
            assert not value.any(), key


def test_phase_2_goes_on_from_phase_1() -> None:
    first = made("celo phase 1")
    second = second_phase(first)
    assert second.needs == {"loss", "horizon"} and not first.needs
    frozen = {key for key, value in second.named_parameters() if not value.requires_grad}
    assert frozen == {f"mlp.{key}" for key in first.mlp.state_dict()}
    assert all(torch.equal(value, second.mlp.state_dict()[key]) for key, value in first.mlp.state_dict().items())
    with pytest.raises(ValueError, match="phase 2 starts from a Celo of phase 1"):
        second_phase(second)


def test_the_horizon_is_needed_where_the_rate_depends_on_it() -> None:
    assert not AdafacMLP().needs and AdafacMLP(warmup=0.1).needs == {"horizon"}
    assert Celo2(schedule="cosine").needs == {"horizon"} and Celo(2, schedule="cosine").needs == {"loss", "horizon"}


@pytest.mark.parametrize("shape", [(8, 8), (3, 12), (12, 3), (2, 3, 4, 5)])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e6])
def test_celo2_s_step_has_the_size_of_the_rate(shape: tuple[int, ...], scale: float) -> None:
    """Of every matrix of the last two axes, wherever ε is small beside it."""
    layout = Layout({"weight": shape})
    grads, theta, losses = data(torch.float32, layout=layout)
    updates, _ = run(made("celo2"), scale * grads, theta, losses, layout)
    sizes = updates.unflatten(-1, shape).square().mean((-2, -1)).sqrt()
    assert_close(sizes, torch.full_like(sizes, 1e-3), rtol=1e-3, atol=0)


def test_celo2_s_adam_part(float64) -> None:
    """Vectors and embeddings: 20 times Adam's step, torch's at use, and without bias correction as in training."""
    layout = Layout({"b": (4,), "embed.weight": (3, 2)})
    grads, theta, losses = data(layout=layout)
    updates, _ = run(Celo2(step_mult=1e-2, weight_decay=0.1), grads, theta, losses, layout)
    point = theta.clone().requires_grad_()
    torch_s = torch.optim.AdamW([point], lr=0.2, betas=(0.9, 0.95), weight_decay=0.1)
    for grad, update in zip(grads, updates, strict=True):
        before, point.grad = point.detach().clone(), grad.clone()
        torch_s.step()
        assert_close(update, point.detach() - before, rtol=1e-10, atol=1e-12)
    trained, _ = run(Celo2(bias_correction=False), grads[:1], theta, losses, layout)
    expected = -0.02 * 0.1 * grads[0] / (0.05 * grads[0].square() + 1e-8).sqrt()
    assert_close(trained[0], expected, rtol=1e-10, atol=1e-12)


def test_steps_by_fan_in(float64) -> None:
    """A hidden weight's step is divided by its fan-in; the first and last weight and vectors keep theirs."""
    shapes = {"in.weight": (6, 4), "in.bias": (6,), "mid.weight": (5, 6), "conv": (7, 5, 3, 2), "out.weight": (2, 5)}
    layout = Layout(shapes)
    plain, scaled, named, last = (
        made_adafac(**options)
        for options in (
            {},
            {"step_scale": "fan_in"},
            {"step_scale": "fan_in", "unscaled": r"^(in|out)\."},
            {"step_scale": "fan_in", "out_axis": -1},
        )
    )
    grads, theta, losses = data(layout=layout)
    first = {
        key: layout.unravel(run(rule, grads[:1], theta, losses, layout)[0][0])
        for key, rule in {"plain": plain, "scaled": scaled, "named": named, "last": last}.items()
    }
    fan_in = {"mid.weight": (6, 5), "conv": (30, 105)}
    for name in shapes:
        here, there = fan_in.get(name, (1, 1))
        assert_close(first["scaled"][name], first["plain"][name] / here, rtol=1e-12, atol=0)
        assert_close(first["named"][name], first["plain"][name] / here, rtol=1e-12, atol=0)
        assert_close(first["last"][name], first["plain"][name] / there, rtol=1e-12, atol=0)
    assert scaled.scope is Scope.ALL and named.scope is Scope.TENSOR


def made_adafac(**options) -> AdafacMLP:
    torch.manual_seed(0)
    return AdafacMLP(**options)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: AdafacMLP(0), "hidden_size must be at least 1"),
        (lambda: MLPLOpt(2.5), "hidden_size must be a whole number, got 2.5"),  # type: ignore[reportArgumentType]
        (lambda: Celo("4"), "phase must be 1"),  # type: ignore[reportArgumentType]
        (lambda: Celo2(True), "hidden_size must be a whole number, got True"),
        (lambda: AdafacMLP(momentum_decays=[1.5, 0.9, 0.9]), r"momentum_decays must lie in \[0, 1\), got \[1.5, 0.9"),
        (lambda: AdafacMLP(square_decays=[1.0]), r"square_decays must lie in \[0, 1\)"),
        (lambda: AdafacMLP(unscaled="("), r"unscaled is no regular expression: '\(', missing"),
        (lambda: Celo2(adam_pattern="("), "adam_pattern is no regular expression"),
        (lambda: Muon(0.1, adam_pattern="*"), r"adam_pattern is no regular expression: '\*', nothing to repeat"),
        (lambda: Muon(0.1, beta2=1.0), r"Muon: beta2 must lie in \[0, 1\), got 1.0"),
        (lambda: Adam(0.1, beta1=-0.1), r"Adam: beta1 must lie in \[0, 1\)"),
        (lambda: AdamW(0.1, beta2=float("nan")), r"AdamW: beta2 must lie in \[0, 1\), got nan"),
        (lambda: Hierarchical(square_decay=2), r"square_decay must lie in \[0, 1\)"),
        (lambda: Hierarchical(momentum_decays=[]), "momentum_decays must have at least one decay"),
        (lambda: Hierarchical(direction="cosine"), "direction must be learned or adam, got 'cosine'"),
        (lambda: Hierarchical(schedule="linear"), "schedule must be learned or cosine, got 'linear'"),
        (lambda: Hierarchical(exempt="("), r"Hierarchical: exempt is no regular expression: '\('"),
        (lambda: Hierarchical(exempt=5), "exempt must be a regular expression, as a string, or None, got 5"),
        (lambda: AdafacMLP(unscaled=b"b"), "unscaled must be a regular expression, as a string, or None, got b'b'"),
        (lambda: Hierarchical(iterations=0), "optimizer.iterations must be at least 1, got 0"),
        (lambda: Hierarchical(orthogonal="false"), "Hierarchical: orthogonal must be true or false, got 'false'"),
        (lambda: Hierarchical(reads_loss=None), "Hierarchical: reads_loss must be true or false, got None"),
        (lambda: Celo2(adam_vectors=2), "Celo2: adam_vectors must be true or false, got 2"),
        (lambda: AdafacMLP(learned_decays="no"), "AdafacMLP: learned_decays must be true or false, got 'no'"),
        (lambda: Momentum(nesterov="no"), "Momentum: nesterov must be true or false, got 'no'"),
        (lambda: Muon(nesterov=0), "Muon: nesterov must be true or false, got 0"),
        (lambda: Hierarchical(warmup=-1.0), "warmup is a fraction of the horizon"),
        (lambda: AdafacMLP(step_scale="fan_out"), "step_scale must be null or fan_in"),
        (lambda: AdafacMLP(square_decays=[0.9, 0.99]), "one decay in square_decays"),
        (lambda: Celo(3), "phase must be 1"),
        (lambda: MLPLOpt(schedule="linear"), "schedule must be one of constant, cosine"),
        (lambda: Celo2(warmup=1.0), "warmup is a fraction of the horizon"),
        (lambda: Celo2(weight_decay=-1.0), "must be at least 0"),
    ],
)
def test_bad_arguments_are_refused(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_golden_helper_sees_all_tensors() -> None:
    arrays = modern_rules.golden("celo")
    assert modern_rules.golden_names(arrays) == ["a/w", "a/b", "c/w", "c/b", "s/w"]

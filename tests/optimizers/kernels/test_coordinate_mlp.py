"""The compiled step of the modern rules against plain torch: for random shapes, for one φ and for one of each task.

Shapes: B tasks, P coordinates, K steps.
"""

import modern_rules
import pytest
import torch
from modern_rules import LAYOUT, RULES, TOLERANCE, B, K, assert_alike, data, made, random_layout, with_phi_of_each_task
from torch import Tensor
from torch.testing import assert_close

from l2o.optimizees import Layout
from l2o.optimizers import AdafacMLP, State, UpdateRule
from l2o.optimizers.accumulators import Decays
from l2o.optimizers.kernels import coordinate_mlp, coordinate_mlp_cpp, coordinate_mlp_torch
from l2o.optimizers.kernels.coordinate_mlp_structures import MAX_DECAYS
from l2o.optimizers.kernels.dispatch import donated_state

needs_compiler = pytest.mark.skipif(not coordinate_mlp_cpp.available(), reason="no C++ compiler on this machine")
pytestmark = needs_compiler
every_rule = pytest.mark.parametrize("name", RULES)

SOME = {
    "scalar": (),
    "empty": (0, 3),
    "none": (4, 0, 2),
    "vector": (77,),
    "row": (1, 130),
    "column": (130, 1),
    "wide": (5, 300),
    "tall": (300, 5),
    "conv": (3, 3, 17, 40),
    "kernel": (20, 12, 3, 3),
    "five": (2, 3, 4, 5, 6),
    "same": (6, 6, 6),
    "norm/b": (9,),
}


@torch.no_grad()
def results(
    rule: UpdateRule, monkeypatch, kernel: bool, grads: Tensor, theta: Tensor, losses: Tensor, *, layout: Layout
) -> dict[str, Tensor]:
    """The updates (K, B, P) and the last state, by the kernel or by plain torch."""
    monkeypatch.setenv("L2O_KERNEL", "1" if kernel else "0")
    updates, state = modern_rules.run(rule, grads, theta, losses, layout)
    return {"updates": updates} | state


@every_rule
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize(
    "layout", [LAYOUT, Layout(SOME), *map(random_layout, range(4))], ids=lambda layout: layout.size
)
def test_kernel_equals_torch(monkeypatch, name: str, dtype: torch.dtype, layout: Layout) -> None:
    rule = made(name).to(dtype)
    given = data(layout, dtype)
    found, wanted = (results(rule, monkeypatch, kernel, *given, layout=layout) for kernel in (True, False))
    assert wanted["updates"].any()
    assert_alike(found, wanted, TOLERANCE[dtype])


@every_rule
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_one_phi_for_each_task(monkeypatch, name: str, dtype: torch.dtype) -> None:
    """What each task's rule gives by itself, by the kernel and by plain torch."""
    rules, layout = [made(name, seed).to(dtype) for seed in range(B)], Layout(SOME)
    given = data(layout, dtype)
    together = with_phi_of_each_task(name, rules)
    for kernel in (True, False):
        found = results(together, monkeypatch, kernel, *given, layout=layout)
        for b, rule in enumerate(rules):
            own = (given[0][:, b : b + 1], given[1][b : b + 1], given[2][:, b : b + 1])
            alone = results(rule, monkeypatch, True, *own, layout=layout)
            of_task = {
                key: value[:, b : b + 1] if key == "updates" else value[b : b + 1] for key, value in found.items()
            }
            assert_alike(of_task, alone, TOLERANCE[dtype])


@pytest.mark.parametrize("name", ["adafac_mlp", "mlp_lopt", "celo phase 1", "celo2 base"])
@pytest.mark.parametrize("shape", [(300, 250), (70_000,), (5, 70, 200), (2, 35_000), (35_000, 2), (90, 90, 3, 3)])
def test_bits_do_not_depend_on_the_number_of_threads(monkeypatch, name: str, shape: tuple[int, ...]) -> None:
    """Tensors that are cut into units, beside one that is not; and they are right."""
    rule, layout = made(name), Layout({"weight": shape, "bias": (70,)})
    given = [part[:2, :1] if part.ndim == 3 or part.shape[0] == K else part[:1] for part in data(layout, torch.float32)]
    wanted, found = results(rule, monkeypatch, False, *given, layout=layout), []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            found.append(results(rule, monkeypatch, True, *given, layout=layout))
    finally:
        torch.set_num_threads(1)
    assert all(torch.equal(value, other[key]) for other in found[1:] for key, value in found[0].items())
    assert_alike(found[0], wanted, 1e-4)


@every_rule
def test_a_donated_state_is_overwritten_and_no_other(monkeypatch, name: str) -> None:
    rule, layout = made(name).double(), Layout(SOME)
    grads, theta, losses = data(layout, torch.float64)
    state = results(rule, monkeypatch, True, grads, theta, losses, layout=layout)
    del state["updates"]
    copies = {key: value.clone() for key, value in state.items()}
    told = modern_rules.seen(grads[0], theta, 3, 20.0, losses[0])
    with torch.no_grad():
        update, kept = rule(told, state, layout)
        assert all(torch.equal(value, copies[key]) for key, value in state.items())
        with donated_state():
            again, overwritten = rule(told, state, layout)
    assert torch.equal(update, again)
    for key in ("momenta", "squares", "major", "minor"):
        if key in state:
            assert overwritten[key].data_ptr() == state[key].data_ptr() and torch.equal(overwritten[key], kept[key])


def test_any_strides_will_do(monkeypatch) -> None:
    """Gradients, parameters and states that lie otherwise in memory, rows of a wider tensor among them."""
    rule, layout = made("adafac_mlp").double(), Layout(SOME)
    grads, theta, losses = data(layout, torch.float64)
    plain = results(rule, monkeypatch, True, grads, theta, losses, layout=layout)
    state = rule.init_state(theta, layout)
    wide = torch.zeros(B, 2 * layout.size, dtype=torch.float64)
    with torch.no_grad(), donated_state():
        for t, grad in enumerate(grads):
            wide[:, layout.size :] = theta
            told = modern_rules.seen(grad.t().contiguous().t(), wide[:, layout.size :], t, 20.0, losses[t])
            update, state = rule(told, {key: value.contiguous() for key, value in state.items()}, layout)
            assert_close(update, plain["updates"][t], rtol=1e-12, atol=1e-18)
            theta = theta + update


def test_no_numbers_share_a_place(monkeypatch) -> None:
    """A donated state that is one task's, seen as several tasks', is not overwritten."""
    rule, layout = made("mlp_lopt").double(), Layout({"weight": (4, 5)})
    grads, theta, losses = data(layout, torch.float64)
    shared = rule.init_state(theta[:1], layout)["momenta"].expand(B, -1, -1)
    with torch.no_grad(), donated_state():
        _, after = rule(modern_rules.seen(grads[0], theta, 0, 20.0, losses[0]), {"momenta": shared}, layout)
    assert not shared.any() and not torch.equal(after["momenta"][0], after["momenta"][1])


def given_to_step(dtype: torch.dtype = torch.float32) -> tuple[AdafacMLP, list, Layout]:
    rule, layout = AdafacMLP().to(dtype).requires_grad_(False), Layout({"weight": (3, 4)})
    theta = torch.randn(B, layout.size, dtype=dtype)
    decays = rule.decays(theta)
    return rule, [rule.mlp.weights, decays, modern_rules.seen(theta, theta), rule.init_state(theta, layout)], layout


def kernel_for(weights: list[Tensor], decays: Decays, seen, state: State) -> object:
    from l2o.optimizers.adafac_mlp import RECIPE

    return coordinate_mlp.kernel_for(RECIPE, weights, decays, seen, state, torch.ones(1, 1))


def test_which_kernel_serves(monkeypatch) -> None:
    """Compiled code where nothing is recorded; plain torch for autograd, other dtypes, and where it is disabled."""
    _, given, _ = given_to_step()
    weights, decays, seen, state = given
    assert kernel_for(*given) is coordinate_mlp_cpp
    recorded = [weights[0].clone().requires_grad_(), *weights[1:]]
    assert kernel_for(recorded, decays, seen, state) is coordinate_mlp_torch
    with torch.no_grad():
        assert kernel_for(recorded, decays, seen, state) is coordinate_mlp_cpp
    assert kernel_for(weights, decays, seen._replace(grad=seen.grad.bfloat16()), state) is coordinate_mlp_torch
    assert kernel_for([weight.double() for weight in weights], decays, seen, state) is coordinate_mlp_torch
    many = Decays(*(torch.full((MAX_DECAYS + 1,), 0.5) for _ in range(3)))
    assert kernel_for(weights, many, seen, state) is coordinate_mlp_torch
    monkeypatch.setenv("L2O_KERNEL", "0")
    assert kernel_for(*given) is coordinate_mlp_torch


def test_vmap_over_phi_equals_a_loop() -> None:
    rule, (_, _, seen, state), layout = given_to_step(torch.float64)
    phi = {key: torch.stack([value, 2 * value]) for key, value in rule.named_parameters()}
    call = lambda own: torch.func.functional_call(rule, own, (seen, state, layout))[0]  # noqa: E731
    together = torch.func.vmap(call)(phi)
    for i, update in enumerate(together):
        assert_close(update, call({key: value[i] for key, value in phi.items()}), rtol=1e-12, atol=1e-18)


def test_a_gradient_reaches_what_only_the_scale_depends_on() -> None:
    """In phase 2 of Celo the network is frozen, and φ is the scheduler, which the direction is multiplied by."""
    rule = made("celo phase 2")
    grads, theta, losses = data(LAYOUT, torch.float32)
    update, _ = rule(modern_rules.seen(grads[0], theta, 1, 20.0, losses[0]), rule.init_state(theta, LAYOUT), LAYOUT)
    update.square().sum().backward()
    own = {name: p.grad for name, p in rule.named_parameters() if p.grad is not None}
    assert own.keys() == {name for name, p in rule.named_parameters() if p.requires_grad}
    assert all(grad.isfinite().all() for grad in own.values())
    assert own["scheduler.step_size_weight"].any()


@pytest.mark.parametrize("key", ["momenta", "squares", "major", "minor"])
def test_a_state_of_another_shape_is_refused(key: str) -> None:
    rule, (_, _, seen, state), layout = given_to_step()
    with torch.no_grad(), pytest.raises(ValueError, match="expected shapes"):
        rule(seen, state | {key: state[key][:, :-1]}, layout)


@every_rule
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_shows_where_it_does_in_torch(monkeypatch, name: str, value: float) -> None:
    """A gradient that is not finite spoils its own tensor of its own task, and no other."""
    rule, layout = made(name).double(), Layout(SOME)
    grads, theta, losses = data(layout, torch.float64)
    for part in ("vector", "wide", "conv"):
        grads[1, 1, layout.slices[part].start + 3] = value
    found, wanted = (
        results(rule, monkeypatch, kernel, grads, theta, losses, layout=layout) for kernel in (True, False)
    )
    for key, right in wanted.items():
        assert torch.equal(found[key].isfinite(), right.isfinite()), key
    assert_close(found["updates"][:, ::2], wanted["updates"][:, ::2], rtol=1e-9, atol=1e-15)

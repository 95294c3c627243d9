"""The hierarchical rule: where it starts, what it cannot do, and its compiled passes against plain torch."""

import math

import pytest
import torch
from modern_rules import LAYOUT, made, run, seen
from torch.testing import assert_close

from l2o.optimizees import Layout
from l2o.optimizers import Hierarchical, newton_schulz
from l2o.optimizers.kernels import hierarchical_cpp, newton_schulz_cpp
from l2o.optimizers.kernels.dispatch import donated_state
from l2o.optimizers.newton_schulz import orthogonalised
from l2o.optimizers.phi import with_phi

B, K = 3, 6
SHAPES = Layout(
    {"scalar": (), "empty": (0, 3), "row": (1, 130), "long": (70, 150), "vector": (64,), "conv": (3, 2, 5, 5)}
)


def data(layout: Layout = LAYOUT, dtype: torch.dtype = torch.float64, steps: int = K):
    generator = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=dtype)  # noqa: E731
    return draw(steps, B, layout.size), draw(B, layout.size), draw(steps, B).exp()


def test_an_untrained_rule_is_adam_with_warm_up_and_a_linear_decay():
    grads, theta, losses = data(dtype=torch.float32)
    updates, _ = run(Hierarchical(step_mult=0.03, warmup=0.25, square_decay=0.99), grads, theta, losses, LAYOUT, 8.0)
    parameter = torch.nn.Parameter(theta.clone())
    adam = torch.optim.Adam([parameter], lr=1.0, betas=(0.9, 0.99))
    for t, grad in enumerate(grads):
        before = parameter.detach().clone()
        parameter.grad = grad
        adam.step()
        rate = 0.03 * min(1.0, (t + 1) / 2) * (1 - t / 8)
        assert_close(updates[t], rate * (parameter.detach() - before), rtol=1e-4, atol=1e-7)


def controlled(trained: Hierarchical, **changes: str) -> Hierarchical:
    """The same φ in a rule of which a part is left out."""
    rule = Hierarchical(5, 6, 2, **changes).double()
    rule.load_state_dict(trained.state_dict())
    return rule


def test_a_control_without_both_trained_parts_is_adam_along_a_cosine_whatever_phi_says():
    grads, theta, losses = data()
    trained, untrained = made("hierarchical").double(), Hierarchical(5, 6, 2, schedule="cosine").double()
    control = controlled(trained, direction="adam", schedule="cosine")
    found, expected = (run(rule, grads, theta, losses, LAYOUT, 8.0)[0] for rule in (control, untrained))
    assert_close(found, expected)
    linear, _ = run(Hierarchical(5, 6, 2).double(), grads, theta, losses, LAYOUT, 8.0)
    for t in range(K):  # the untrained rule falls linearly
        assert_close(found[t] * (1 - t / 8), linear[t] * 0.5 * (1 + math.cos(math.pi * t / 8)))


def test_a_control_with_adam_s_direction_keeps_the_trained_size_of_each_tensor_s_step():
    grads, theta, losses = data()
    trained = made("hierarchical").double()
    found, own, adam = (
        run(rule, grads, theta, losses, LAYOUT)[0][0]  # the first step: after it they are in different places
        for rule in (controlled(trained, direction="adam"), trained, Hierarchical(5, 6, 2).double())
    )
    for name, span in LAYOUT.slices.items():
        step, size, direction = (part[..., span] for part in (found, own, adam))
        assert_close(step.norm(dim=-1), size.norm(dim=-1), msg=name)
        unit = direction / direction.norm(dim=-1, keepdim=True).clamp(min=1e-30)
        assert_close(step, step.norm(dim=-1, keepdim=True) * unit, msg=name)
    assert (found - own).abs().max() > 1e-3 * own.abs().max()


def test_an_orthogonal_rule_turns_matrices_and_keeps_the_size_of_every_step():
    grads, theta, losses = data()
    plain = made("hierarchical").double()
    rule = Hierarchical(5, 6, 2, orthogonal=True).double()
    rule.load_state_dict(plain.state_dict())
    found, own = (run(each, grads, theta, losses, LAYOUT)[0][0] for each in (rule, plain))
    for name, shape in LAYOUT.shapes.items():
        step, before = found[:, LAYOUT.slices[name]], own[:, LAYOUT.slices[name]]
        if name not in ("weight", "square", "conv"):  # a row has nothing to turn, and the name of embed is exempt
            assert torch.equal(step, before), name
            continue
        x, y = (part.reshape(B, -1, shape[-1]) for part in (before, step))
        u, s, vh = torch.linalg.svd(x, full_matrices=False)
        size, values = s.norm(dim=-1, keepdim=True), s / s.norm(dim=-1, keepdim=True)
        for _ in range(5):
            values = 3.4445 * values - 4.7750 * values**3 + 2.0315 * values**5
        values = values * size / values.norm(dim=-1, keepdim=True)  # of the same Frobenius norm
        assert_close(u.mT @ y @ vh.mT, torch.diag_embed(values), rtol=1e-6, atol=1e-9, msg=name)


def test_adam_s_direction_is_not_made_orthogonal():
    grads, theta, losses = data()
    trained = made("hierarchical and orthogonal").double()
    adam = Hierarchical(5, 6, 2, orthogonal=True, exempt=None, direction="adam").double()
    other = Hierarchical(5, 6, 2, direction="adam").double()
    adam.load_state_dict(trained.state_dict())
    other.load_state_dict(trained.state_dict())
    assert_close(*(run(rule, grads, theta, losses, LAYOUT)[0] for rule in (adam, other)), rtol=0, atol=0)


@pytest.mark.parametrize("factor", [1e-30, 1e-12, 1e12, 1e30, 9e37])
def test_orthogonalising_does_not_depend_on_the_size_of_a_matrix(factor: float):
    layout = Layout({"a": (4, 6), "b": (6, 4), "c": (2, 2, 6), "zero": (3, 3)})
    torch.manual_seed(0)
    update = torch.randn(B, layout.size)
    update[:, layout.slices["zero"]] = 0
    small = orthogonalised(factor * update, layout, None)
    assert_close(small / factor, orthogonalised(update, layout, None), rtol=1e-4, atol=1e-5)
    assert not small[:, layout.slices["zero"]].any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_orthogonalising_nothing_gives_nothing(dtype: torch.dtype):
    assert not orthogonalised(torch.zeros(B, 32, dtype=dtype), Layout({"a": (4, 8)}), None).any()


def test_a_control_with_a_cosine_keeps_the_trained_direction():
    grads, theta, losses = data()
    trained = made("hierarchical").double()
    found, own, adam = (
        run(rule, grads, theta, losses, LAYOUT)[0][0]  # the first step: after it they are in different places
        for rule in (controlled(trained, schedule="cosine"), trained, Hierarchical(5, 6, 2, schedule="cosine").double())
    )
    for name, span in LAYOUT.slices.items():
        step, trained_step, size = (part[..., span] for part in (found, own, adam))
        assert_close(step.norm(dim=-1), size.norm(dim=-1), msg=name)
        unit = trained_step / trained_step.norm(dim=-1, keepdim=True).clamp(min=1e-30)
        assert_close(step, step.norm(dim=-1, keepdim=True) * unit, msg=name)


def test_it_rests_after_its_horizon():
    grads, theta, losses = data()
    updates, _ = run(made("hierarchical").double(), grads, theta, losses, LAYOUT, 4.0)
    assert updates[3].abs().max() > 0 and not updates[4:].any()


def test_no_phi_can_make_a_step_larger_than_its_bound():
    """A step is at most e⁴ times Adam's, whatever the networks say: the direction's size does not count."""
    grads, theta, losses = data()
    rule, adam = Hierarchical().double(), Hierarchical().double()
    for parameter in rule.parameters():
        parameter.data = 100 * torch.randn_like(parameter)
    largest, bounds = (run(one, grads, theta, losses, LAYOUT)[0] for one in (rule, adam))
    assert largest.isfinite().all()
    for name, span in LAYOUT.slices.items():
        own, bound = (updates[..., span].norm(dim=-1) for updates in (largest, bounds))
        assert (own <= math.e**4 * bound * (1 + 1e-6)).all(), name


@pytest.mark.parametrize("scale", [1e-2, 1e4])
def test_it_does_not_know_the_scale_of_loss_and_gradient(scale):
    rule = made("hierarchical").double()
    grads, theta, losses = data()
    as_they_are, _ = run(rule, grads, theta, losses, LAYOUT)
    scaled, _ = run(rule, scale * grads, theta, scale * losses, LAYOUT)
    assert_close(scaled, as_they_are, rtol=1e-3, atol=1e-6)  # ε is all that differs


def test_a_loss_that_nobody_knows_counts_as_none():
    rule, blind = made("hierarchical").double(), Hierarchical(5, 6, 2, reads_loss=False).double()
    blind.load_state_dict(rule.state_dict())
    grads, theta, losses = data()
    known, _ = run(rule, grads, theta, losses, LAYOUT)
    unknown, _ = run(rule, grads, theta, torch.full_like(losses, math.nan), LAYOUT)
    without, _ = run(blind, grads, theta, losses, LAYOUT)
    assert unknown.isfinite().all() and not torch.equal(known, unknown)
    assert torch.equal(unknown, without)
    some = torch.where(torch.arange(K)[:, None] % 2 == 0, losses, math.nan)  # known now and then
    assert run(rule, grads, theta, some, LAYOUT)[0].isfinite().all()


needs_kernel = pytest.mark.skipif(not hierarchical_cpp._library(), reason="no C++ compiler on this machine")
needs_iteration = pytest.mark.skipif(not newton_schulz_cpp._library(), reason="no C++ compiler on this machine")
PRECISIONS = [(torch.float64, 1e-10), (torch.float32, 1e-4)]


def both(monkeypatch, compute):
    """What the compiled kernels and plain torch make of the same."""
    results = []
    for kernel in ("1", "0"):
        monkeypatch.setenv("L2O_KERNEL", kernel)
        results.append(compute())
    return results


def assert_alike(found, tolerance: float) -> None:
    (compiled, after), (plain, wanted) = found
    assert_close(compiled, plain, rtol=0, atol=tolerance * plain.abs().max().item())
    assert after.keys() == wanted.keys()
    for key, value in after.items():
        assert_close(value, wanted[key], rtol=tolerance, atol=tolerance)


def noisy(rule: Hierarchical, dtype: torch.dtype) -> Hierarchical:
    torch.manual_seed(0)
    rule = rule.to(dtype)
    for parameter in rule.parameters():
        parameter += 0.1 * torch.randn_like(parameter)
    return rule


@needs_kernel
@pytest.mark.parametrize("dtype, tolerance", PRECISIONS)
@pytest.mark.parametrize("hidden_size", [8, 5])
@pytest.mark.parametrize("own_phi", [False, True])
@torch.no_grad()
def test_the_kernel_is_plain_torch(monkeypatch, dtype, tolerance, hidden_size, own_phi):
    rule = noisy(Hierarchical(hidden_size), dtype)
    noise = {name: p + 0.1 * torch.randn(B, *p.shape, dtype=dtype) for name, p in rule.named_parameters()}
    grads, theta, losses = data(SHAPES, dtype)
    with with_phi(rule, noise if own_phi else {}):
        assert_alike(both(monkeypatch, lambda: run(rule, grads, theta, losses, SHAPES)), tolerance)


@needs_kernel
@pytest.mark.parametrize("dtype, tolerance", PRECISIONS)
@pytest.mark.parametrize(
    "options",
    [
        {"direction": "adam"},
        {"schedule": "cosine", "warmup": 0.5},
        {"reads_loss": False},
        {"momentum_decays": [0.8], "tensor_hidden_size": 3, "told": 1},
        {"orthogonal": True},
    ],
    ids=lambda options: next(iter(options)),
)
@torch.no_grad()
def test_the_kernel_is_plain_torch_with_every_option(monkeypatch, dtype, tolerance, options):
    rule = noisy(Hierarchical(**options), dtype)
    grads, theta, losses = data(SHAPES, dtype)
    assert_alike(both(monkeypatch, lambda: run(rule, grads, theta, losses, SHAPES, 8.0)), tolerance)


@needs_kernel
@pytest.mark.parametrize("horizon", [4.0, math.inf])
@torch.no_grad()
def test_the_kernel_knows_losses_that_come_and_go_are_negative_or_huge_and_horizons_that_end(monkeypatch, horizon):
    rule = noisy(Hierarchical(), torch.float64)
    grads, theta, losses = data(SHAPES)
    losses[0], losses[2, 0], losses[3, 1], losses[4, 2], losses[5, 0] = math.nan, math.inf, -1.0, 1e300, 0.0
    assert_alike(both(monkeypatch, lambda: run(rule, grads, theta, losses, SHAPES, horizon)), 1e-10)


@needs_kernel
@torch.no_grad()
def test_the_kernel_takes_gradients_of_zero_and_passes_on_what_is_not_a_number(monkeypatch):
    rule = noisy(Hierarchical(), torch.float64)
    grads, theta, losses = data(SHAPES)
    grads[:, 0] = 0
    assert_alike(both(monkeypatch, lambda: run(rule, grads, theta, losses, SHAPES)), 1e-10)
    grads[2:, 1, SHAPES.slices["long"].start] = math.nan
    updates = both(monkeypatch, lambda: run(rule, grads, theta, losses, SHAPES)[0])
    assert_close(*updates, rtol=1e-8, atol=1e-10, equal_nan=True)
    assert updates[0][2, 1, SHAPES.slices["long"]].isnan().all() and updates[0][:, 2].isfinite().all()


@needs_kernel
@torch.no_grad()
def test_the_number_of_threads_changes_no_bit_of_the_kernels():
    rule, threads = made("hierarchical and orthogonal"), torch.get_num_threads()
    grads, theta, losses = data(SHAPES, torch.float32, 2)
    results = []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            updates, after = run(rule, grads, theta, losses, SHAPES)
            results.append(torch.cat([part.flatten() for part in (updates, *after.values())]))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(*results)


@needs_kernel
@torch.no_grad()
def test_the_kernel_overwrites_a_state_only_where_it_is_donated():
    rule = made("hierarchical")
    grads, theta, losses = data(LAYOUT, torch.float32, 1)
    state = rule.init_state(theta, LAYOUT)
    before = {key: value.clone() for key, value in state.items()}
    observed = seen(grads[0], theta, 0, 20.0, losses[0])
    update, after = rule(observed, state, LAYOUT)
    assert all(torch.equal(state[key], before[key]) for key in state)
    with donated_state():
        again, reused = rule(observed, state, LAYOUT)
    assert torch.equal(again, update) and all(torch.equal(reused[key], after[key]) for key in after)
    assert reused["momenta"].data_ptr() == state["momenta"].data_ptr()


@needs_kernel
@torch.no_grad()
def test_the_kernel_refuses_what_would_lead_it_beside_a_tensor():
    rule = Hierarchical()
    grads, theta, losses = data(LAYOUT, torch.float32, 1)
    state, observed = rule.init_state(theta, LAYOUT), seen(grads[0], theta, 0, 20.0, losses[0])
    wrong = [
        (observed._replace(loss=losses[0, :1]), state, LAYOUT),
        (observed._replace(theta=theta[:, :-1]), state, LAYOUT),
        (observed, state | {"momenta": state["momenta"][..., :-1]}, LAYOUT),
        (observed, state | {"step": state["step"][:1]}, LAYOUT),
        (observed, state, Layout({"longer": (LAYOUT.size + 1,)})),
    ]
    for given in wrong:
        with pytest.raises(ValueError, match="must have the shape"):
            rule(*given)
    too_few = {"mlp.weight_1": torch.ones(B - 1, 8, 8)}
    with with_phi(rule, too_few), pytest.raises(ValueError, match="must have the shape"):
        rule(observed, state, LAYOUT)
    rule.momentum_decays = [0.5, 0.9, 0.99, 0.999]  # φ and the state are for three
    with pytest.raises(ValueError, match="must have the shape"):
        rule(observed, state, LAYOUT)


@needs_kernel
@pytest.mark.parametrize("names", [(), ("mlp.bias_0",), ("tensor_mlp.weight_2", "mlp.weight_2")])
@torch.no_grad()
def test_the_kernel_takes_views_and_no_tasks_and_phi_of_which_a_part_is_each_task_s_own(monkeypatch, names):
    rule, tasks = noisy(Hierarchical(), torch.float64), B
    noise = {name: p + 0.1 * torch.randn(B, *p.shape) for name, p in rule.named_parameters() if name in names}
    grads, theta, losses = data(SHAPES)
    grads = grads.mT.contiguous().mT
    theta = theta[:1].expand(tasks, -1)
    with with_phi(rule, {name: value.double() for name, value in noise.items()}):
        assert_alike(both(monkeypatch, lambda: run(rule, grads, theta, losses, SHAPES)), 1e-10)
    update, _ = run(rule, grads[:, :0], theta[:0], losses[:, :0], SHAPES)
    assert update.shape == (K, 0, SHAPES.size)


@needs_iteration
@pytest.mark.parametrize("dtype, tolerance", PRECISIONS)
@pytest.mark.parametrize("shape", [(2, 2), (3, 17), (33, 5), (16, 16), (20, 70), (65, 40), (2, 3, 4, 5)])
@pytest.mark.parametrize("iterations", [0, 1, 2, 3, 5])
def test_the_kernel_of_newton_schulz_is_plain_torch(monkeypatch, dtype, tolerance, shape, iterations):
    layout = Layout({"row": (1, 5), "matrix": shape, "embed": (4, 4), "zero": (3, 2), "vector": (7,)})
    torch.manual_seed(0)
    update = torch.randn(B, layout.size, dtype=dtype)
    update[:, layout.slices["zero"]] = 0
    update[1, layout.slices["matrix"]] = 1.0  # of rank 1
    given = update.clone()
    found, wanted = both(monkeypatch, lambda: orthogonalised(update, layout, "embed", iterations))
    assert torch.equal(update, given)
    assert_close(found, wanted, rtol=0, atol=tolerance * wanted.abs().max().item())
    matrix = layout.slices["matrix"]
    sizes = [part[:, matrix].norm(dim=-1) for part in (found, update)]
    assert_close(*sizes, rtol=max(tolerance, 1e-6), atol=0)
    others = [name for name in layout.shapes if name != "matrix"]
    assert all(torch.equal(found[:, layout.slices[name]], update[:, layout.slices[name]]) for name in others)


@needs_iteration
@pytest.mark.parametrize("iterations", [3, 5])
@torch.no_grad()
def test_sharing_out_one_matrix_among_threads_changes_no_bit(monkeypatch, iterations):
    layout, threads = Layout({"long": (37, 130), "wide": (50, 40), "square": (33, 33)}), torch.get_num_threads()
    update, found = torch.randn(1, layout.size), []
    monkeypatch.setattr(newton_schulz_cpp, "WORK_PER_THREAD", 1)
    try:
        for count, apart in ((1, 1), (1, 2**60), (2, 1), (3, 1), (3, 2**60)):
            torch.set_num_threads(count)
            monkeypatch.setattr(newton_schulz_cpp, "APART", apart)
            found.append(orthogonalised(update, layout, None, iterations))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(one, found[0]) for one in found)


@needs_iteration
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_matrix_with_what_is_not_a_number_becomes_nan_and_no_other_does(monkeypatch, value):
    layout = Layout({"a": (3, 4), "b": (4, 3)})
    update = torch.ones(B, layout.size)
    update[1, 0] = value
    for found in both(monkeypatch, lambda: orthogonalised(update, layout, None)):
        assert found[1, layout.slices["a"]].isnan().all()
        assert found[1, layout.slices["b"]].isfinite().all() and found[[0, 2]].isfinite().all()


@needs_iteration
def test_matrices_for_the_kernel_and_for_torch_may_stand_side_by_side(monkeypatch):
    layout = Layout({"small": (5, 6), "large": (40, 50)})
    monkeypatch.setattr(newton_schulz_cpp, "LARGEST_WORK", 10_000)
    monkeypatch.setattr(newton_schulz, "_matrices", newton_schulz._matrices.__wrapped__)
    update = torch.randn(B, layout.size, dtype=torch.float64)
    assert_close(*both(monkeypatch, lambda: orthogonalised(update, layout, None)), rtol=1e-10, atol=1e-10)

"""NTM-BFGS against the equations with a dense memory.

Shapes: B tasks, P coordinates, R read heads, W write heads, T steps.
"""

import pytest
import torch
from observations import seen
from torch.testing import assert_close

from l2o.optimizees import Layout
from l2o.optimizers import NTMBFGS, Identity, LogAndSign

B, P, T = 2, 5, 40
LAYOUT = Layout({"theta": (P,)})

pytestmark = pytest.mark.usefixtures("float64")


def small(**arguments):
    return NTMBFGS(LogAndSign(10), **{"hidden_size": 4, "averaging_cells": 1, "output_scale": 0.1} | arguments)


RULES = {
    "three writes": lambda: small(read_preprocessing=LogAndSign(1)),
    "identity": lambda: small(read_preprocessing=Identity(), write_heads=1),
    "two reads": lambda: small(read_preprocessing=LogAndSign(1), read_heads=2, write_heads=2),
    "window": lambda: small(read_preprocessing=LogAndSign(1), memory_window=7),
}


@pytest.fixture(params=RULES)
def rule(request):
    return RULES[request.param]()


def run(rule, grads):
    """Updates and read results (T, B, P, …), and the last state."""
    theta = torch.zeros_like(grads[0])
    state, updates, reads = rule.init_state(theta, LAYOUT), [], []
    for grad in grads:
        update, state = rule(seen(grad, theta), state, LAYOUT)
        updates.append(update)
        reads.append(state["read"])
    return torch.stack(updates), torch.stack(reads), state


def dense(rule, grads):
    """The docstring's equations for one task, with M (P, P) as a matrix; updates (T, P), reads (T, P, R)."""
    controller = {name: part[:1] for name, part in rule.init_state(grads[:1], LAYOUT).items()}
    read = torch.zeros(P, rule.read_heads)
    products, updates, reads = [], [], []
    for grad in grads:
        columns = [rule.read_preprocessing(read[:, n]) for n in range(rule.read_heads)]
        features = torch.cat([rule.preprocessing(grad), *columns], dim=1)
        out, controller = rule.controller(features[None], controller)
        g, r, a, b = out[0].split([1, rule.read_heads, rule.write_heads, rule.write_heads], dim=1)
        memory = torch.eye(P) + sum(products[-rule.memory_window :] if rule.memory_window else products)
        read = torch.stack([memory @ r[:, n] for n in range(rule.read_heads)], dim=1)
        products.append(sum(torch.outer(a[:, n], b[:, n]) for n in range(rule.write_heads)))
        updates.append(rule.output_scale * g[:, 0])
        reads.append(read)
    return torch.stack(updates), torch.stack(reads)


@torch.no_grad()
def test_equals_the_equations_with_a_dense_memory(rule):
    grads = torch.randn(T, B, P)
    updates, reads, _ = run(rule, grads)
    for b in range(B):
        expected, expected_reads = dense(rule, grads[:, b])
        assert_close(updates[:, b], expected, rtol=1e-10, atol=1e-12)
        assert_close(reads[:, b], expected_reads, rtol=1e-10, atol=1e-12)
    assert (reads[-1] - reads[0]).abs().max() > 1e-3


@torch.no_grad()
def test_with_zero_writes_it_is_its_controller(rule):
    """M stays I: the read vector comes back as the read result."""
    writes = slice(1 + rule.read_heads, None)
    rule.controller.head.weight[writes], rule.controller.head.bias[writes] = 0, 0
    grads = torch.randn(T, B, P)
    updates, reads, _ = run(rule, grads)
    state, vectors = rule.init_state(grads[0], LAYOUT), torch.zeros(B, P, rule.read_heads)
    for grad, update, read in zip(grads, updates, reads, strict=True):
        features = torch.cat((rule.preprocessing(grad), rule.read_preprocessing(vectors).flatten(2)), -1)
        out, state = rule.controller(features, state)
        vectors = out[..., 1 : 1 + rule.read_heads]
        assert_close(update, rule.output_scale * out[..., 0], rtol=1e-13, atol=1e-15)
        assert_close(read, vectors, rtol=1e-13, atol=1e-15)


@torch.no_grad()
def test_writes_matter(rule):
    """Through the memory alone: the same controller with other right write vectors proposes something else."""
    grads = torch.randn(T, B, P)
    before = run(rule, grads)[0]
    rule.controller.head.weight[-rule.write_heads :] *= -1
    after = run(rule, grads)[0]
    assert torch.equal(after[0], before[0])  # nothing has been read yet
    assert (after[-1] - before[-1]).abs().max() > 1e-6


@torch.no_grad()
def test_a_window_as_long_as_the_episode_is_no_window():
    whole, window = small(write_heads=2), small(write_heads=2, memory_window=T)
    window.load_state_dict(whole.state_dict())
    grads = torch.randn(T, B, P)
    assert torch.equal(run(window, grads)[0], run(whole, grads)[0])
    window.memory_window = T // 2
    assert not torch.equal(run(window, grads)[0][-1], run(whole, grads)[0][-1])


@torch.no_grad()
def test_the_memory_grows_with_the_steps_and_stops_at_the_window(rule):
    state = run(rule, torch.randn(T, B, P))[2]
    columns = sum(part.shape[-1] for name, part in state.items() if name.startswith("left"))
    assert columns == rule.write_heads * (rule.memory_window or T)
    assert all(part.shape[:2] == (B, P) for part in state.values())


@torch.no_grad()
def test_equivariant_to_permutations_of_coordinates(rule):
    grads, order = torch.randn(T, B, P), torch.tensor([3, 0, 4, 1, 2])
    updates, reads, _ = run(rule, grads)
    permuted, permuted_reads, _ = run(rule, grads[..., order])
    assert_close(permuted, updates[..., order], rtol=1e-9, atol=1e-12)
    assert_close(permuted_reads, reads[:, :, order], rtol=1e-9, atol=1e-12)


@torch.no_grad()
def test_a_task_of_a_batch_equals_it_alone(rule):
    grads = torch.randn(T, B, P)
    assert_close(run(rule, grads[:, 1:])[0], run(rule, grads)[0][:, 1:], rtol=1e-10, atol=1e-12)


def test_untrained_it_stands_still_and_its_memory_is_ready_to_learn():
    """The update's row starts at zero, those of the memory do not: all but the memory's have a gradient from the start,
    and after one meta-update the memory's too."""
    rule, grads = small(head_init=0.0), torch.randn(T, B, P)
    updates, _, _ = run(rule, grads)
    assert not updates.any()
    slope = lambda: torch.autograd.grad(run(rule, grads)[0].square().sum() + run(rule, grads)[0].sum(),  # noqa: E731
                                        rule.controller.head.weight)[0].abs().amax(1)  # fmt: skip
    assert slope()[0] > 0 and not slope()[1:].any()
    with torch.no_grad():
        rule.controller.head.weight[0] += 0.1
    assert (slope() > 0).all()


@pytest.mark.parametrize("name", ["read_heads", "write_heads", "memory_window"])
def test_bad_sizes_are_refused(name):
    with pytest.raises(ValueError, match="read_heads, write_heads and memory_window must be at least 1"):
        NTMBFGS(**{name: 0})


def test_labels():
    assert NTMBFGS().label == "NTM-BFGS" and NTMBFGS(memory_window=3).label == "NTM-L-BFGS"

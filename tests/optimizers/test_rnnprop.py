"""RNNProp: bounded, blind to the gradient's scale, each coordinate for itself."""

import pytest
import torch
from observations import seen
from torch.testing import assert_close

from l2o.meta_gradients.truncated_bptt import TruncatedBPTT
from l2o.optimizees import Layout, Quadratic
from l2o.optimizers import RNNProp
from l2o.unroll import start_episode

B, P, K = 2, 5, 4
LAYOUT = Layout({"theta": (P,)})


def run(rule, grads):
    state, updates = rule.init_state(grads[0], LAYOUT), []
    for grad in grads:
        update, state = rule(seen(grad, torch.zeros_like(grad)), state, LAYOUT)
        updates.append(update)
    return torch.stack(updates)


def test_blind_to_the_gradient_s_scale(float64, path):
    rule, grads = RNNProp(hidden_size=3), torch.randn(K, B, P)
    grads = grads + grads.sign()  # beside which ε is nothing
    with torch.no_grad():
        assert_close(run(rule, grads), run(rule, 1e4 * grads), rtol=1e-6, atol=1e-10)


def test_bounded_by_its_output_scale():
    rule = RNNProp(hidden_size=3, output_scale=0.5)
    with torch.no_grad():
        rule.lstm.head.bias.fill_(100.0)
        updates = run(rule, torch.randn(K, B, P))
    assert_close(updates, torch.full_like(updates, 0.5))


def test_each_coordinate_and_each_task_for_itself(float64, path):
    rule, grads = RNNProp(hidden_size=3), torch.randn(K, B, P)
    order = torch.randperm(P)
    with torch.no_grad():
        whole = run(rule, grads)
        assert_close(run(rule, grads[..., order]), whole[..., order], rtol=1e-12, atol=1e-15)
        assert_close(run(rule, grads[:, 1:]), whole[:, 1:], rtol=1e-12, atol=1e-15)


def test_a_head_at_zero_stands_still():
    assert not run(RNNProp(hidden_size=3, head_init=0.0), torch.randn(K, B, P)).any()


def test_the_first_step_sees_one_and_the_sign(float64):
    """m̂_1 = ∇, v̂_1 = ∇²: both inputs are the gradient's sign."""
    rule, grad = RNNProp(hidden_size=3), torch.randn(1, 1, P)
    seen = []
    rule.lstm.preprocessing.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    run(rule, grad)
    assert_close(seen[0], grad[0].sign()[..., None].expand(1, P, 2), rtol=1e-6, atol=1e-6)


def test_its_gradient_does_not_depend_on_chunks(float64, path):
    """Replayed in chunks of coordinates, and at once."""
    rule, optimizee = RNNProp(hidden_size=3), Quadratic(P)
    estimator = TruncatedBPTT(max_replay_bytes=2000)
    episode = start_episode(rule, optimizee, B, torch.Generator().manual_seed(0))
    gradient = estimator(rule, optimizee, episode, K, torch.Generator().manual_seed(1)).gradient
    whole = TruncatedBPTT()(rule, optimizee, episode, K, torch.Generator().manual_seed(1)).gradient
    for part, expected in zip(gradient, whole, strict=True):
        assert_close(part, expected, rtol=1e-10, atol=1e-14)
        assert part.abs().max() > 0


@pytest.mark.parametrize("beta", [-0.1, 1.0])
def test_beta_must_be_a_mean_s_weight(beta):
    with pytest.raises(ValueError, match="beta must lie in"):
        RNNProp(beta=beta)

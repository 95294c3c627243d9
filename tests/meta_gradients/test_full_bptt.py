"""The checkpointed gradient of an episode equals plain second-order backpropagation through all of it."""

import pytest
import torch
from torch import Generator
from torch.testing import assert_close

from l2o.meta_gradients import FullBPTT, Last, Log, Sum, TruncatedBPTT
from l2o.optimizees import Classifier, Quadratic, mlp
from l2o.optimizers import LSTM, SGD, AdafacMLP, Celo, LogAndSign, RNNProp

pytestmark = pytest.mark.usefixtures("float64")

T = 7
RULES = {
    "lstm": lambda: LSTM(LogAndSign(10.0), hidden_size=3, output_scale=0.1),
    "rnnprop": lambda: RNNProp(hidden_size=3),
    "adafac mlp": lambda: AdafacMLP(step_mult=0.1),
    "learned initial state, frozen weights": lambda: Celo(phase=2, scheduler_size=3, step_mult=0.1),
    "without parameters": lambda: SGD(0.1),
}


@pytest.fixture(params=["quadratic", "classifier"])
def optimizee(request, dataset):
    if request.param == "quadratic":
        return Quadratic(4, init_std=1.0)
    return Classifier(mlp(16, [3], 3), dataset, batch_size=6, init_std=0.5)


def run(estimator, rule, optimizee, num_steps):
    generator = Generator().manual_seed(3)
    carry = estimator.start(rule, optimizee, 2, T, generator)
    found = estimator(rule, optimizee, carry, num_steps, generator)
    return found, generator.get_state()


@pytest.mark.parametrize("stretch", [None, 1, 3, 100])
@pytest.mark.parametrize("name", RULES)
def test_it_equals_second_order_truncated_to_the_episode(name, optimizee, stretch):
    rule = RULES[name]()
    for objective, loss_on in ((Sum(), "inner"), (Last(), "inner"), (Log(1e-3), "fresh")):
        expected, stream = run(TruncatedBPTT(True, objective=objective, loss_on=loss_on), rule, optimizee, T)
        actual, after = run(FullBPTT(objective, loss_on, stretch), rule, optimizee, 2)
        assert torch.equal(stream, after) and actual.done
        assert_close(actual.losses, expected.losses)
        assert_close(actual.objective, expected.objective)
        scale = max((gradient.abs().max().item() for gradient in expected.gradient), default=1.0)
        assert scale > 1e-9
        for a, e in zip(actual.gradient, expected.gradient, strict=True):
            assert_close(a, e, rtol=0, atol=1e-10 * scale)
        assert_close(actual.carry.theta, expected.carry.theta)
        assert not any(tensor.requires_grad for tensor in (actual.losses, actual.objective, *actual.gradient))
        assert not actual.carry.theta.requires_grad


@pytest.mark.parametrize("steps_before", [3])
def test_an_episode_that_is_on_its_way_is_finished(optimizee, steps_before):
    rule, generator = RULES["adafac mlp"](), Generator().manual_seed(3)
    start = TruncatedBPTT(True)
    carry = start(rule, optimizee, start.start(rule, optimizee, 2, T, generator), steps_before, generator).carry
    state = generator.get_state()
    expected = start(rule, optimizee, carry, T - steps_before, generator)
    generator.set_state(state)
    actual = FullBPTT(stretch=2)(rule, optimizee, carry, 1, generator)
    assert_close(actual.gradient, expected.gradient, rtol=1e-9, atol=1e-12)
    assert_close(actual.carry.theta, expected.carry.theta)
    assert actual.carry.step == T


def test_what_makes_no_sense_is_refused():
    with pytest.raises(ValueError, match="at least 1 or null, got 0"):
        FullBPTT(stretch=0)
    rule = SGD(0.1)
    carry = FullBPTT().start(rule, Quadratic(2), 1, float("inf"), Generator())
    with pytest.raises(ValueError, match="FullBPTT runs whole episodes and needs to know their horizon"):
        FullBPTT()(rule, Quadratic(2), carry, 1, Generator())

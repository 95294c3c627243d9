"""What every estimator of the meta-gradient owes the learner. A new estimator is tested by being listed.

Shapes: B tasks (or pairs), K steps of a window, T steps of an episode.
"""

import io

import pytest
import torch
from torch import Generator
from torch.testing import assert_close
from torch.utils import _pytree as pytree

from l2o.meta_gradients import (
    EvolutionStrategies,
    FadingTeacher,
    FullBPTT,
    FullES,
    Imitation,
    Last,
    Log,
    Normalised,
    PersistentES,
    TruncatedBPTT,
)
from l2o.optimizees import Classifier, Quadratic, mlp
from l2o.optimizers import LSTM, NTMBFGS, AdafacMLP, Adam, Celo, LogAndSign, Momentum, Partitioned
from l2o.training.carries import filled, leaves_of

pytestmark = pytest.mark.usefixtures("float64")

B, K, T = 2, 3, 9
ESTIMATORS = {
    "truncated": TruncatedBPTT,
    "truncated, second order": lambda: TruncatedBPTT(second_order=True),
    "truncated, fresh losses": lambda: TruncatedBPTT(objective=Log(1e-3), loss_on="fresh"),
    "full": FullBPTT,
    "imitation": lambda: Imitation(Momentum(0.1), cooldown=0.5),
    "es": EvolutionStrategies,
    "full es": lambda: FullES(objective=Last(), sign=True),
    "pes": PersistentES,
    "gpes": lambda: PersistentES(2),
    "nres": lambda: PersistentES("episode", objective=Normalised()),
    "pes with a teacher": lambda: FadingTeacher(PersistentES(), Adam(0.1), direction=0.3),
    "pes, telescoping, test losses": lambda: PersistentES(telescoping=True, loss_on="test", clip=0.1),
}
RULES = {
    "lstm": lambda: LSTM(LogAndSign(10.0), hidden_size=3, output_scale=0.1),
    "adafac mlp": AdafacMLP,
    "learned initial state, frozen weights": lambda: Celo(phase=2, scheduler_size=3),
    "state that grows": lambda: NTMBFGS(hidden_size=2, averaging_cells=1, output_scale=0.1),
    "partitioned": lambda: Partitioned(
        {"a": LSTM(hidden_size=2, output_scale=0.1), "b": Adam(0.1)}, {"a": ".*weight|theta", "b": ".*bias"}
    ),
}


@pytest.fixture(params=ESTIMATORS)
def estimator(request):
    return ESTIMATORS[request.param]()


@pytest.fixture(params=RULES)
def rule(request):
    return RULES[request.param]()


@pytest.fixture
def optimizee(dataset):
    return Classifier(mlp(16, [3], 3), dataset, batch_size=6, init_std=0.5)


def windows(estimator, rule, optimizee, carry, generator, count=3):
    """The results of some windows, one after another."""
    found = []
    for _ in range(count):
        found.append(estimator(rule, optimizee, carry, K, generator))
        carry = found[-1].carry
        if found[-1].done:
            break
    return found


def started(estimator, rule, optimizee, seed=4):
    generator = Generator().manual_seed(seed)
    return estimator.start(rule, optimizee, B, T, generator), generator


def assert_same_bits(one, other):
    """The same leaves; nan equals nan."""
    one, other = leaves_of(one), leaves_of(other)
    assert one.keys() == other.keys()
    assert_close(one, other, rtol=0, atol=0, equal_nan=True)


def test_a_carry_resumes_to_the_bit(estimator, rule, optimizee, path):
    """After its leaves went through a file, as a checkpoint keeps them, beside the generator's state."""
    carry, generator = started(estimator, rule, optimizee)
    first, *expected = windows(estimator, rule, optimizee, carry, generator)
    carry, generator = started(estimator, rule, optimizee)
    first = estimator(rule, optimizee, carry, K, generator)
    file = io.BytesIO()
    torch.save({"carry": leaves_of(first.carry), "generator": generator.get_state()}, file)
    saved = torch.load(io.BytesIO(file.getvalue()), weights_only=True)
    like, fresh = started(estimator, rule, optimizee, seed=77)
    fresh.set_state(saved["generator"])
    resumed = filled(like, saved["carry"])
    assert resumed is not None
    assert_same_bits(resumed, first.carry)
    if not first.done:
        found = windows(estimator, rule, optimizee, resumed, fresh, 2)
        assert len(found) == len(expected) == 2
        assert_same_bits(
            [one._replace(diagnostics={}) for one in found], [e._replace(diagnostics={}) for e in expected]
        )


def test_it_changes_neither_the_rule_nor_the_carry(estimator, rule, optimizee):
    carry, generator = started(estimator, rule, optimizee)
    parameters = [(name, parameter, parameter.clone()) for name, parameter in rule.named_parameters()]
    attributes = [{*vars(module)} for module in rule.modules()]
    before = pytree.tree_map(lambda leaf: leaf.clone() if isinstance(leaf, torch.Tensor) else leaf, carry)
    windows(estimator, rule, optimizee, carry, generator)
    assert_same_bits(carry, before)
    assert [{*vars(module)} for module in rule.modules()] == attributes
    for (name, now), (old_name, old, value) in zip(rule.named_parameters(), parameters, strict=True):
        assert name == old_name and now is old and torch.equal(now, value) and now.grad is None


def test_it_draws_from_its_generator_alone(estimator, rule, optimizee):
    torch.manual_seed(1)
    before, results = torch.get_rng_state(), []
    for _ in range(2):
        carry, generator = started(estimator, rule, optimizee)
        results.append(windows(estimator, rule, optimizee, carry, generator))
        results.append(generator.get_state())
    assert torch.equal(torch.get_rng_state(), before)
    assert_same_bits(results[0], results[2])
    assert torch.equal(results[1], results[3])


def test_a_result_is_what_the_learner_expects(estimator, rule, optimizee):
    carry, generator = started(estimator, rule, optimizee)
    found = windows(estimator, rule, optimizee, carry, generator)
    whole = isinstance(estimator, FullES | FullBPTT)
    assert [one.done for one in found] == ([True] if whole else [False, False, True])
    names = {*found[0].diagnostics}
    for one in found:
        assert one.losses.shape[0] == (T if whole else K) and one.losses.shape[1] in (B, 2 * B)
        assert one.objective.shape == () and {*one.diagnostics} == names
        assert len(one.gradient) == len([*rule.parameters()])
        for gradient, parameter in zip(one.gradient, rule.parameters(), strict=True):
            assert gradient.shape == parameter.shape and gradient.dtype == parameter.dtype
            assert gradient.isfinite().all()
            assert parameter.requires_grad or not gradient.any()
        tensors = [leaf for leaf in pytree.tree_leaves(one) if isinstance(leaf, torch.Tensor)]
        assert not any(leaf.requires_grad or leaf.grad_fn for leaf in tensors)
        new, old = leaves_of(one.carry).keys(), leaves_of(carry).keys()
        assert new >= old and all("state.left_" in name or "state.right_" in name for name in new - old)
    moved = [gradient.abs().max() for one in found for gradient in one.gradient]
    assert max(moved) > 0


def test_ranks_average_to_one_process(estimator, rule):
    """The gradient of B tasks, or pairs, is the mean of those of each by itself. This f draws no minibatches."""
    optimizee = Quadratic(3, init_std=1.0)
    carry, generator = started(estimator, rule, optimizee)
    stream = generator.get_state()

    def of(task):
        def choose(leaf):
            if not isinstance(leaf, torch.Tensor):
                return leaf
            return leaf[[task, task + B]] if len(leaf) == 2 * B else leaf[[task]]

        return pytree.tree_map(choose, carry)

    if isinstance(estimator, FadingTeacher):
        estimator = estimator.estimator  # a gradient that is divided by its norm is no mean
        carry = carry.estimator
    # Within the first period nothing is drawn: later ones would be drawn from each rank's own stream.
    steps = 2 if getattr(estimator, "period", None) == 2 else K
    whole = estimator(rule, optimizee, carry, steps, generator)
    parts = []
    for task in range(B):
        generator.set_state(stream)
        parts.append(estimator(rule, optimizee, of(task), steps, generator))
    mean = [torch.stack(shares).mean(0) for shares in zip(*(part.gradient for part in parts), strict=True)]
    assert_close(whole.gradient, mean, rtol=1e-9, atol=1e-12)
    assert_close(whole.objective, torch.stack([part.objective for part in parts]).mean())

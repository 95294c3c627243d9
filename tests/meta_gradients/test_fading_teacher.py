"""A fading teacher: its two losses against autograd, its weights over the run, and what it leaves to the estimator."""

import pytest
import torch
from torch import Generator
from torch.testing import assert_close

from l2o.meta_gradients import FadingTeacher, PersistentES, TruncatedBPTT
from l2o.meta_gradients.fading_teacher import added, compared
from l2o.optimizees import Quadratic
from l2o.optimizers import LSTM, AdafacMLP, Adam, LogAndSign
from l2o.unroll import start_episode

pytestmark = pytest.mark.usefixtures("float64")

K, B = 4, 3


def rules():
    torch.manual_seed(2)
    return LSTM(LogAndSign(10.0), hidden_size=3, output_scale=0.1)


def by_autograd(rule, teacher, optimizee, episode, generator):
    """∇_φ of L_dir and L_mag along the rule's trajectory, whose gradients and points are constants."""
    state, memory, direction, size = episode.state, teacher.init_state(episode.theta, optimizee.layout), 0.0, 0.0
    theta, grad = episode.theta, episode.grad
    for t in range(K):
        seen = episode._replace(theta=theta, grad=grad, step=t).seen
        update, state = rule(seen, state, optimizee.layout)
        aim, memory = teacher(seen, memory, optimizee.layout)
        direction = direction + (1 - torch.cosine_similarity(update, aim, dim=1)).mean() / K
        size = size + ((update.norm(dim=1) - aim.norm(dim=1)).abs() / aim.norm(dim=1)).mean() / K
        theta = theta + update.detach()
        _, grad = optimizee.loss_and_grad(theta, optimizee.sample_batch(episode.task, B, generator))
    parameters = list(rule.parameters())
    return [torch.autograd.grad(loss, parameters, retain_graph=True) for loss in (direction, size)], (direction, size)


def test_the_gradients_of_both_losses_are_those_of_autograd(path):
    rule, teacher, optimizee = rules(), Adam(0.1), Quadratic(4, init_std=1.0)
    fading, generator = FadingTeacher(TruncatedBPTT(), teacher, 0.5, 0.5), Generator().manual_seed(3)
    lesson = fading.start(rule, optimizee, B, 8, generator)
    expected, losses = by_autograd(rule, teacher, optimizee, lesson.episode, generator)
    values, gradients, after = fading._lesson(rule, optimizee, lesson, K, generator)
    assert_close(values, torch.stack(losses).detach())
    assert_close(gradients, [list(each) for each in expected], rtol=1e-9, atol=1e-12)
    assert after.episode.step == K


def unit(gradient):
    flat = torch.cat([part.flatten() for part in gradient])
    return flat / flat.norm()


@pytest.mark.parametrize(
    ("fraction", "weights"),
    [
        (0.0, (0.0, 0.7, 0.3)),
        (0.05, (0.0, 0.7, 0.3)),
        (0.275, (0.5, 0.35, 0.15)),
        (0.5, (0.79, 0.21, 0.0)),
        (1.0, (0.79, 0.21, 0.0)),
    ],
)
def test_the_weights_fall_over_the_run(fraction, weights):
    """The direction keeps its floor of 0.3, the size does not; the estimator has the rest."""
    rule, optimizee = rules(), Quadratic(4, init_std=1.0)
    estimator, generator = PersistentES(), Generator().manual_seed(3)
    fading = FadingTeacher(estimator, Adam(0.1))
    fading.told(fraction)
    assert fading.weights == pytest.approx(weights)
    lesson = fading.start(rule, optimizee, B, 8, generator)
    found = fading(rule, optimizee, lesson, K, generator)
    plain = estimator(rule, optimizee, lesson.estimator, K, generator)  # f draws no minibatches
    _, gradients, _ = fading._lesson(rule, optimizee, lesson, K, generator)
    parts = [unit(gradient) for gradient in (plain.gradient, *gradients)]
    expected = sum(weight * part for weight, part in zip(weights, parts, strict=True))
    assert_close(torch.cat([part.flatten() for part in found.gradient]), expected, rtol=1e-9, atol=1e-12)
    assert torch.equal(found.losses, plain.losses) and torch.equal(found.objective, plain.objective)
    assert found.diagnostics["teacher_weight"] == pytest.approx(1 - weights[0])


def test_fading_at_once_is_a_switch():
    fading = FadingTeacher(TruncatedBPTT(), Adam(0.1), floor=0.0, start=0.2, until=0.2)
    for fraction, rest in ((0.2, 0.0), (0.21, 1.0)):
        fading.told(fraction)
        assert fading.weights[0] == pytest.approx(rest)


@pytest.mark.parametrize("part", ["direction", "size"])
def test_a_rule_learns_what_its_teacher_does(part):
    """With a part of the teacher alone, the updates turn to the teacher's, or become as large as they are."""
    torch.manual_seed(0)
    rule, optimizee = LSTM(LogAndSign(10.0), hidden_size=5, output_scale=0.02), Quadratic(3, init_std=1.0)
    weights = {"direction": float(part == "direction"), "size": float(part == "size")}
    fading = FadingTeacher(TruncatedBPTT(), Adam(0.05), **weights, start=1.0, until=1.0)
    meta, generator, curve = torch.optim.Adam(rule.parameters(), lr=0.01), Generator().manual_seed(1), []
    for _ in range(50):
        found = fading(rule, optimizee, fading.start(rule, optimizee, 4, 5, generator), 5, generator)
        for parameter, gradient in zip(rule.parameters(), found.gradient, strict=True):
            parameter.grad = gradient
        meta.step()
        curve.append(found.diagnostics[f"teacher_{part}"].item())
    assert sum(curve[-5:]) < 0.5 * sum(curve[:5]), curve


def test_a_teacher_or_a_rule_that_rests_gives_finite_gradients():
    values, gradient = compared(torch.zeros(2, 3), torch.tensor([[1.0, 2.0, 2.0], [0.0, 0.0, 0.0]]))
    assert values.tolist() == [0.5, 0.5]
    assert gradient.isfinite().all() and not gradient[:, 1].any()
    assert (gradient[0, 0] < 0).all(), "a rule that stands still learns which way to go"


def test_a_gradient_of_zero_adds_nothing_and_one_that_is_not_finite_shows():
    one, zero, bad = ([torch.tensor(part)] for part in ([3.0, 4.0], [0.0, 0.0], [torch.inf, 1.0]))
    assert_close(added([one, zero], [0.5, 0.5]), [torch.tensor([0.3, 0.4])])
    assert not added([one, bad], [0.5, 0.5])[0].isfinite().all()
    assert_close(added([one, bad], [1.0, 0.0]), [torch.tensor([0.6, 0.8])])


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"teacher": Adam()}, "set meta_gradient.teacher.lr"),
        ({"direction": 0.9}, "direction \\+ size is at most 1, got direction=0.9"),
        ({"size": -0.1}, "size=-0.1"),
        ({"floor": 2.0}, "floor=2.0"),
        ({"start": 0.6}, "start <= until, got 0.6 and 0.5"),
        ({"max_replay_bytes": 0}, "must be positive"),
    ],
)
def test_what_makes_no_sense_is_refused(more, message):
    with pytest.raises(ValueError, match=message):
        FadingTeacher(**({"estimator": TruncatedBPTT(), "teacher": Adam(0.1)} | more))


def test_the_episode_beside_goes_on_from_window_to_window():
    rule, optimizee, generator = AdafacMLP(), Quadratic(3), Generator().manual_seed(3)
    fading = FadingTeacher(PersistentES(), Adam(0.1))
    carry = fading.start(rule, optimizee, 2, 8, generator)
    found = fading(rule, optimizee, fading(rule, optimizee, carry, K, generator).carry, K, generator)
    assert found.done and found.carry.episode.step == 8 and found.carry.teacher["step"].unique().tolist() == [8]
    assert start_episode(rule, optimizee, 2, generator).step == 0

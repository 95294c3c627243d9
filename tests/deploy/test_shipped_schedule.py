"""The optimizer `cifar_small_scheduled`: `cifar_small` as it is, with a schedule for longer episodes.

`L2O_CIFAR10=cifar10.npz python -m pytest tests/deploy/test_shipped_schedule.py` holds it to what
docs/notebook/cifar_small_horizon.md says of it; without the data, those tests are left out.
"""

import os

import pytest
import torch

import l2o
from l2o import seeds
from l2o.data import from_npz
from l2o.optimizees import Classifier, conv_net
from l2o.optimizers import LSTM, Momentum, Partitioned, Scheduled, UpdateRule
from l2o.unroll import start_episode, unroll

FROZEN, SCHEDULED = "cifar_small", "cifar_small_scheduled"


def groups(rule: UpdateRule) -> dict[str, Scheduled]:
    assert isinstance(rule, Partitioned)
    found = {name: part for name, part in rule.rules.items() if isinstance(part, Scheduled)}
    assert set(found) == {"conv", "fc"}
    return found


def test_it_is_the_frozen_optimizer_with_a_schedule_of_few_numbers() -> None:
    first, rule = l2o.from_pretrained(FROZEN), l2o.from_pretrained(SCHEDULED)
    inner = {name: value for name, value in rule.state_dict().items() if ".mlp." not in name}
    assert {name.replace(".rule.", "."): value.tolist() for name, value in inner.items()} == {
        name: value.tolist() for name, value in first.state_dict().items()
    }
    for part in groups(rule).values():
        assert isinstance(part.rule, LSTM) and part.trained_horizon == 200 and part.restarts
        assert sum(parameter.numel() for parameter in part.mlp.parameters()) == 7
    assert not rule.needs and rule.card is not None and rule.card["name"] == SCHEDULED


@pytest.fixture(scope="module")
def problem() -> Classifier:
    """The problem that it was trained on."""
    path = os.environ.get("L2O_CIFAR10")
    if not path:
        pytest.skip("L2O_CIFAR10 names no file of CIFAR-10")
    network = conv_net(image_size=32, channels=[8, 8, 8], hidden=[32], out_features=5, reduce=2)
    return Classifier(network, from_npz(path, labels=[5, 6, 7, 8, 9]), 64, init_std=0.01)


def means(rule: UpdateRule, problem: Classifier, num_tasks: int, seed: int, horizon: int) -> torch.Tensor:
    """The mean loss of 50 steps at a time, over some problems: (horizon / 50,)."""
    episode = start_episode(rule, problem, num_tasks, seeds.generator(seed), horizon)
    losses, _ = unroll(rule, problem, episode, horizon, seeds.generator(seed + 1))
    return losses.mean(1).view(-1, 50).mean(1)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_five_times_as_far_it_has_no_cliff_where_the_frozen_one_has(problem: Classifier) -> None:
    found = means(l2o.from_pretrained(SCHEDULED), problem, 3, 9, 1000)
    assert found.isfinite().all() and found[-1] <= 1.1 * found.min()
    assert found[-1] < means(Momentum(0.01, momentum=0.9, nesterov=True), problem, 3, 9, 1000)[-1]
    frozen = means(l2o.from_pretrained(FROZEN), problem, 3, 9, 500)
    assert frozen[-1] > 3 * frozen.min()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_for_as_long_as_the_frozen_one_was_trained_it_is_as_good_as_nag(problem: Classifier) -> None:
    rules = l2o.from_pretrained(SCHEDULED), Momentum(0.01, momentum=0.9, nesterov=True)
    scheduled, nag = (means(rule, problem, 4, 123, 200)[-1] for rule in rules)
    assert scheduled <= nag

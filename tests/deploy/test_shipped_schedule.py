"""The optimizer `cifar_small_scheduled`: `cifar_small` as it is, with a schedule for longer episodes.

`L2O_CIFAR10=cifar10.npz python -m pytest tests/deploy/test_shipped_schedule.py` holds it to the real data; without
them, images of five classes are drawn, of which a part has wrong labels.
"""

import os
from pathlib import Path

import numpy as np
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
def problem(tmp_path_factory: pytest.TempPathFactory) -> Classifier:
    """The problem that it was trained on, or one of the same shape."""
    path = os.environ.get("L2O_CIFAR10") or drawn(tmp_path_factory.mktemp("data") / "images.npz")
    network = conv_net(image_size=32, channels=[8, 8, 8], hidden=[32], out_features=5, reduce=2)
    return Classifier(network, from_npz(str(path), labels=[5, 6, 7, 8, 9]), 64, init_std=0.01)


def drawn(path: Path) -> Path:
    """Noisy pictures of ten classes. Three of ten labels are wrong, so that no loss falls to 0."""
    draw = np.random.default_rng(0)
    shapes = draw.uniform(80, 170, (10, 4, 4, 3)).repeat(8, 1).repeat(8, 2)
    arrays = {}
    for split, count in (("train", 12_000), ("test", 1000)):
        labels = draw.integers(0, 10, count)
        images = shapes[labels] + draw.normal(0, 60, (count, 32, 32, 3))
        wrong = draw.random(count) < 0.3
        arrays[f"x_{split}"] = images.clip(0, 255).astype(np.uint8)
        arrays[f"y_{split}"] = np.where(wrong, draw.integers(0, 10, count), labels)
    np.savez(path, **arrays)
    return path


def means(rule: UpdateRule, problem: Classifier, num_steps: int) -> torch.Tensor:
    """The loss, as the mean of 50 steps and of two problems: (num_steps / 50,)."""
    episode = start_episode(rule, problem, 2, seeds.generator(7), num_steps)
    losses, _ = unroll(rule, problem, episode, num_steps, seeds.generator(8))
    return losses.mean(1).view(-1, 50).mean(1)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_five_times_as_far_it_has_no_cliff_where_the_frozen_one_has(problem: Classifier) -> None:
    found = means(l2o.from_pretrained(SCHEDULED), problem, 1000)
    assert found.isfinite().all() and found[-1] <= 1.1 * found.min()
    assert found[-1] < means(Momentum(0.01, nesterov=True), problem, 1000)[-1]
    frozen = means(l2o.from_pretrained(FROZEN), problem, 500)
    assert frozen[-1] > 3 * frozen.min()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_for_as_long_as_the_frozen_one_was_trained_it_is_as_good_as_nag(problem: Classifier) -> None:
    assert (
        means(l2o.from_pretrained(SCHEDULED), problem, 200)[-1]
        <= means(Momentum(0.01, nesterov=True), problem, 200)[-1]
    )

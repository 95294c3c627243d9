"""What an estimator carries, written into a table of leaves and read back."""

from typing import Any, NamedTuple

import pytest
import torch
from every_rule import RULES
from torch import Tensor

from l2o.data import Dataset
from l2o.optimizees import Classifier, mlp
from l2o.training.carries import filled, leaves_of, of_older_checkpoint
from l2o.unroll import Episode, start_episode, unroll


class Inner(NamedTuple):
    theta: Tensor
    state: dict[str, Tensor]


def carry(value: float) -> dict[str, Any]:
    inner = Inner(torch.full((2, 3), value), {"m": torch.full((2, 3, 4), value)})
    return {"both": [inner, inner], "pair": (value, None), "nothing": {}, "words": "a", "count": int(value)}


def test_leaves_are_named_by_their_places_and_read_back() -> None:
    leaves = leaves_of(carry(3.0))
    assert list(leaves) == [
        *("both.0.theta", "both.0.state.m", "both.1.theta", "both.1.state.m"),
        *("pair.0", "pair.1", "nothing", "words", "count"),
    ]
    found = filled(carry(0.0), leaves)
    assert found is not None and isinstance(found["both"][1], Inner)
    assert torch.equal(found["both"][1].state["m"], torch.full((2, 3, 4), 3.0))
    assert (found["pair"], found["nothing"], found["words"], found["count"]) == ((3.0, None), {}, "a", 3)


def test_leaves_are_copies_that_need_no_gradient() -> None:
    theta = torch.ones(2, 1, requires_grad=True)
    saved = leaves_of({"theta": theta})["theta"]
    assert not saved.requires_grad
    saved.zero_()
    assert theta.detach().sum() == 2


@pytest.mark.parametrize(
    "other",
    [
        {"theta": torch.ones(2, 3)},  # a leaf is missing
        {"theta": torch.ones(2, 3), "step": 1, "more": 2},
        {"theta": torch.ones(2, 4), "step": 1},  # other coordinates
        {"theta": torch.ones(3, 3), "step": 1},  # other tasks
        {"theta": torch.ones(2, 3, dtype=torch.float64), "step": 1},
        {"theta": None, "step": 1},
    ],
)
def test_another_carry_does_not_fit(other: dict[str, Any]) -> None:
    assert filled({"theta": torch.zeros(2, 3), "step": 0}, leaves_of(other)) is None


def episode(state: dict[str, Tensor]) -> Episode:
    return Episode({}, torch.zeros(2, 3), torch.zeros(2), torch.zeros(2, 3), state, 0)


def test_a_state_that_has_grown_since_the_start_of_its_episode_is_read_back() -> None:
    later = {"m": torch.ones(2, 3), "left_0": torch.full((2, 3, 4), 5.0)}
    found = filled({"episode": episode({"m": torch.zeros(2, 3)})}, leaves_of({"episode": episode(later)}))
    assert found is not None and found["episode"].state.keys() == later.keys()
    assert all(torch.equal(found["episode"].state[key], value) for key, value in later.items())
    empty = filled(episode({}), leaves_of(episode(later)))
    assert empty is not None and torch.equal(empty.state["left_0"], later["left_0"])


def test_only_the_state_of_an_episode_may_have_grown_and_only_by_tensors_for_its_tasks() -> None:
    start = {"m": torch.zeros(2, 3)}
    assert filled(episode(start), leaves_of(episode(start | {"more": torch.ones(3, 3)}))) is None
    assert filled(episode(start | {"lost": torch.ones(2, 3)}), leaves_of(episode(start))) is None
    assert filled({"teacher": start}, leaves_of({"teacher": start | {"square": torch.ones(2, 3)}})) is None


def test_what_a_checkpoint_cannot_hold_is_named() -> None:
    with pytest.raises(ValueError, match="tensors, numbers, strings and None, got Generator"):
        leaves_of([torch.Generator()])


def test_an_episode_of_an_older_checkpoint_is_read_with_and_without_its_teacher() -> None:
    loss, state = torch.tensor([1.0, 2.0]), {"hidden": torch.ones(2, 3), "teacher/buffer": torch.full((2, 3), 5.0)}
    older = {"task": {}, "theta": torch.zeros(2, 3), "loss": loss, "state": state, "step": 4}
    alone, taught = of_older_checkpoint(older, 12)
    assert alone["horizon"] == 12 and alone["step"] == 4 and alone["start_loss"].isnan().all()
    assert "state.hidden" in alone and not any("teacher" in path for path in alone)
    assert torch.equal(taught["teacher.buffer"], state["teacher/buffer"])
    assert torch.equal(taught["episode.loss"], loss) and "episode.state.teacher/buffer" not in taught


@pytest.mark.parametrize("name", RULES)
def test_the_episode_of_every_rule_is_read_back_in_its_middle(name: str, dataset: Dataset) -> None:
    """The nesting comes from the start of an episode, as in a run that resumes."""
    rule, generator = RULES[name](), torch.Generator().manual_seed(0)
    optimizee = Classifier(mlp(16, [3], 3), dataset, batch_size=4, init_std=0.3)
    start = start_episode(rule, optimizee, 2, generator, horizon=9)
    _, later = unroll(rule, optimizee, start, 3, generator)
    found = filled([start], leaves_of([later]))
    assert found is not None and found[0].step == 3
    assert found[0].state.keys() == later.state.keys()
    assert all(torch.equal(found[0].state[key], value) for key, value in later.state.items())

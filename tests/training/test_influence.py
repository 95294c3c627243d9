"""A φ that has no say in anything that is trained is refused before a run begins."""

import logging

import pytest
import torch
from every_rule import LAYOUT, RULES

from l2o.data import Dataset
from l2o.optimizees import Classifier, Layout, Quadratic, mlp
from l2o.optimizers import LSTM, Celo, Celo2, Partitioned, UpdateRule
from l2o.training.families import Choices, Family
from l2o.training.influence import refuse_families, refuse_no_influence
from l2o.training.learner import MetaLearner

VECTORS, MATRICES = Layout({"theta": (10,), "x": ()}), Layout({"embed.weight": (30, 4), "w": (300, 40), "b": (40,)})
LEARNED = [name for name in RULES if any(parameter.requires_grad for parameter in RULES[name]().parameters())]


@pytest.mark.parametrize("layout", [VECTORS, MATRICES, LAYOUT], ids=["vectors", "matrices", "all kinds"])
@pytest.mark.parametrize("name", [name for name in LEARNED if not name.startswith("partitioned")])
def test_every_learned_rule_has_influence_but_celo2_on_vectors(name, layout):
    if name == "celo2" and layout is VECTORS:
        with pytest.raises(ValueError, match=r"φ of Celo2 has no .* theta \(10,\), x \(\): .*adam_vectors=false"):
            refuse_no_influence(RULES[name](), layout)
    else:
        refuse_no_influence(RULES[name](), layout)


def test_names_alone_may_leave_nothing_to_phi():
    with pytest.raises(ValueError, match="has no influence on this optimizee"):
        refuse_no_influence(Celo2(adam_vectors=False, adam_pattern="."), MATRICES)


def test_a_learner_refuses_it_and_takes_the_remedy():
    with pytest.raises(ValueError, match="nothing could be learned"):
        MetaLearner(Celo2(), Quadratic(3))
    MetaLearner(Celo2(adam_vectors=False), Quadratic(3))
    MetaLearner(Celo(1), Quadratic(3))


def test_a_rule_that_cannot_be_tried_in_small_is_left_alone():
    class Picky(LSTM):
        def init_state(self, theta, layout):
            assert layout.size == 340
            return super().init_state(theta, layout)

    refuse_no_influence(Picky(hidden_size=2), MATRICES)


def test_a_group_without_a_part_is_said(caplog):
    def two(**patterns: str) -> UpdateRule:
        return Partitioned({name: LSTM(hidden_size=2) for name in patterns}, patterns)

    with caplog.at_level(logging.WARNING):
        refuse_no_influence(two(conv=r"conv.*", fc=".*weight|b|w"), MATRICES)
        refuse_no_influence(two(a="b|w", b="embed.*"), MATRICES)
    (record,) = caplog.records
    assert "no part of this optimizee belongs to the group 'conv': the rule of that group is not" in record.getMessage()


def test_a_family_needs_one_optimizee_that_phi_moves():
    """Celo2 leaves vectors to Adam: a family of quadratics alone would train nothing, beside others or not."""
    network = Classifier(mlp(4, [2], 2), Dataset(*[torch.zeros(4, 2, 2), torch.tensor([0, 1, 0, 1])] * 2))
    mixed, vectors = Family(Choices([Quadratic(3), network])), Family(Choices([Quadratic(3), Quadratic(4)]))
    refuse_families(Celo2(), {"mixed": mixed}, seed=0)
    refuse_families(LSTM(), {"vectors": vectors}, seed=0)
    with pytest.raises(ValueError, match="no influence"):
        refuse_families(Celo2(), {"mixed": mixed, "vectors": vectors}, seed=0)

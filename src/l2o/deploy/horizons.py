"""How far a rule may be trusted: the steps that it was trained for, and the steps that it was told of."""

from l2o.deploy.groups import Group
from l2o.optimizers.base import UpdateRule
from l2o.optimizers.card import horizon_of


def beyond(group: Group, rule: UpdateRule) -> str | None:
    """Return what to tell a user whose next step lies beyond the rule's horizon; None where it does not.

    A rule has two horizons: the longest that it was trained for, which its card knows, and the one that the optimizer
    was given, where the rule plans by it. Both count steps of this optimizer, those before a resume included.
    """
    number, told, trained = group["step"] + 1, group["horizon"], horizon_of(rule.card)
    name = (rule.card or {}).get("name") or rule.label
    if trained is not None and number > trained:
        return (
            f"the rule '{name}' was trained for {trained} steps, and this is step {number}: nobody knows what it does "
            f"from here on. Stop here, go on with another optimizer, or train a rule for longer "
            f"(python train.py learner.horizon={number - 1 + trained} …). This is said once"
        )
    if told is not None and number > told and "horizon" in rule.needs:
        return (
            f"this optimizer was told that the training takes {told} steps (horizon={told}), and this is step "
            f"{number}: what {rule.label} plans by the horizon is over. Give the number of steps that the training "
            "really takes, LearnedOptimizer(…, horizon=…). This is said once"
        )
    return None

"""Whether what is trained can move what it is trained on.

Shapes: B = 1 task, P coordinates.
"""

from collections.abc import Mapping

import torch
from torch import Generator

from l2o.optimizees.layout import Layout
from l2o.optimizers.base import Observation, UpdateRule
from l2o.optimizers.partitioned import Partitioned
from l2o.training.families import Family
from l2o.training.safeguards import warn

STEPS = 2
"""A φ that only acts on what a rule remembers shows at the second step."""


def refuse_no_influence(rule: UpdateRule, layout: Layout) -> None:
    """Raise ValueError where no part of the optimizee is moved by anything that φ has a say in.

    A rule may leave some parts to a rule without φ, as Celo2 leaves vectors to Adam. Where that is all there is, the
    training would do nothing, in silence. Groups of a `Partitioned` rule that no part belongs to are said in one line.
    """
    trained = [parameter for parameter in rule.parameters() if parameter.requires_grad]
    if trained and not _has_influence(rule, trained, layout):
        parts = ", ".join(f"{name} {shape}" for name, shape in [*layout.shapes.items()][:4])
        remedy = "set optimizer.adam_vectors=false, or " if getattr(rule, "adam_vectors", False) else ""
        raise ValueError(
            f"φ of {rule.label} has no influence on this optimizee, whose parts are {parts}: "
            f"nothing could be learned. For parts like these {remedy}choose another optimizer or another optimizee"
        )
    if isinstance(rule, Partitioned):
        served = {part.prefix.partition(".")[0] for part in rule.parts(layout)}
        for group in rule.rules.keys() - served:
            warn("no part of this optimizee belongs to the group '%s': the rule of that group is not trained", group)


def refuse_families(rule: UpdateRule, families: Mapping[str, Family], seed: int) -> None:
    """Raise ValueError where there is a family of whose optimizees φ moves none (`refuse_no_influence`)."""
    trained = [parameter for parameter in rule.parameters() if parameter.requires_grad]
    for name, family in families.items():
        layouts = [optimizee.layout for optimizee in family.architectures(name, seed)]
        moved = (layout for layout in layouts if trained and _has_influence(rule, trained, layout))
        refuse_no_influence(rule, next(moved, layouts[0]))


def _has_influence(rule: UpdateRule, trained: list[torch.nn.Parameter], layout: Layout) -> bool:
    """Return whether an update of a small optimizee with parts of the same names and kinds has a path to φ."""
    kinds = {name: tuple(min(size, 2) for size in shape) for name, shape in layout.shapes.items()}
    small, like = Layout(kinds, layout.turned), trained[0]
    generator = Generator().manual_seed(0)
    draw = lambda: torch.randn(1, small.size, generator=generator).to(like)  # noqa: E731
    one = like.new_ones(1)
    try:
        with torch.enable_grad():
            theta, total = draw(), like.new_zeros(())
            state = rule.init_state(theta, small)
            for step in range(STEPS):
                update, state = rule(Observation(draw(), theta, one, step * one, 10 * one), state, small)
                total = total + update.sum()
            paths = torch.autograd.grad(total, trained, allow_unused=True) if total.requires_grad else ()
    except Exception:  # a rule may need sizes that this optimizee has not; the training will show what is wrong
        return True
    return any(path is not None for path in paths)

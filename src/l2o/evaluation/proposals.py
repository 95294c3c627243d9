"""What other rules would have done on a rule's trajectory (Andrychowicz et al. 2016, appendix: visualizations).

Shapes: P coordinates of one optimizee, C of them shown, T steps.
"""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from l2o.checks import at_least_one
from l2o.evaluation.comparison import Comparison
from l2o.optimizees.base import Optimizee
from l2o.optimizees.layout import Layout
from l2o.optimizers.base import UpdateRule
from l2o.optimizers.hand_designed import HandDesigned
from l2o.unroll import start_episode, step


class Proposals(NamedTuple):
    """Hold the updates that rules proposed along a trajectory at C coordinates. Those of the first rule were taken."""

    coordinates: list[str]
    gradients: Tensor  # (T, C)
    updates: dict[str, Tensor]  # each (T, C)


@torch.no_grad()
def proposals(
    rules: Mapping[str, UpdateRule], optimizee: Optimizee, num_steps: int, num_coordinates: int, generator: Generator
) -> Proposals:
    """Let the first rule move θ for T steps on one task, and ask the others what they would do with the same gradients.

    Every rule keeps a state of its own. The coordinates shown are spread evenly over the ranks of |∇f(θ_0)|, from the
    largest to the median.
    """
    at_least_one("proposals", coordinates=num_coordinates)
    leader = next(iter(rules))
    episode = start_episode(rules[leader], optimizee, 1, generator, num_steps)
    ranked = episode.grad[0].abs().argsort(descending=True, stable=True)
    shown = ranked[torch.linspace(0, (len(ranked) - 1) // 2, num_coordinates).long().to(ranked.device)]
    others = {name: rule for name, rule in rules.items() if name != leader}
    states = {name: rule.init_state(episode.theta, optimizee.layout) for name, rule in others.items()}
    gradients, updates = [], {name: [] for name in rules}
    for _ in range(num_steps):
        gradients.append(episode.grad[0, shown])
        for name, rule in others.items():
            proposed, states[name] = rule(episode.seen, states[name], optimizee.layout)
            updates[name].append(proposed[0, shown])
        taken, episode = step(rules[leader], optimizee, episode, generator)
        updates[leader].append(taken[0, shown])
    names = [_name(optimizee.layout, int(index)) for index in shown]
    return Proposals(names, torch.stack(gradients).cpu(), {name: torch.stack(u).cpu() for name, u in updates.items()})


def tuned(rules: Mapping[str, UpdateRule], comparison: Comparison) -> dict[str, UpdateRule]:
    """Return the rules of a comparison, the hand-designed ones at the learning rates that the comparison has found."""
    rates = {name: comparison.entries[name].lr for name in rules}
    return {
        name: rule.with_lr(rate) if isinstance(rule, HandDesigned) and (rate := rates[name]) is not None else rule
        for name, rule in rules.items()
    }


def _name(layout: Layout, index: int) -> str:
    """Name a coordinate of the flat vector by its place in its parameter, as '0.weight[3, 17]'."""
    name = next(name for name, part in layout.slices.items() if part.start <= index < part.stop)
    place = (layout.parameters(torch.arange(layout.size))[name] == index).nonzero()[0]
    return f"{name}[{', '.join(map(str, place.tolist()))}]"

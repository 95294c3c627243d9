"""How good optimizers are: their curves on the same fresh problems, the baselines' learning rates tuned first."""

import logging
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from l2o import seeds
from l2o.checks import at_least_one, valid_seed
from l2o.evaluation.comparison import Comparison, Entry
from l2o.evaluation.curves import learning_curves
from l2o.evaluation.tuning import Tuning, tune
from l2o.optimizees.base import Optimizee
from l2o.optimizers.base import UpdateRule
from l2o.optimizers.card import horizon_of
from l2o.optimizers.hand_designed import HandDesigned
from l2o.seeds import Stream

log = logging.getLogger(__name__)

Device = torch.device | str

SHOWN = 6
"""A comparison keeps the pictures of so many tasks."""


Remember = Callable[[HandDesigned, Callable[[], Tuning]], Tuning]
"""Gives the tuning of a rule: an earlier one of the same rule on the same problems, or what the function returns."""


class Evaluation:
    """Compares update rules on one optimizee. Every rule meets the same problems and the same minibatches.

    Baselines without a learning rate are tuned first, on other problems, over `rates_count` rates spaced evenly on a
    logarithmic scale between the two numbers of `rates_range`. Where an optimizee has splits, baselines are tuned on
    "validation" and all rules are compared on "test".

    `cache` is for the programs train.py and evaluate.py alone, which keep tunings on disk: see `l2o.runs.tunings`.
    """

    def __init__(
        self,
        num_tasks: int = 32,
        num_steps: int = 100,
        tuning_tasks: int = 8,
        tuning_steps: int | None = None,
        rates_range: tuple[float, float] = (1e-4, 10.0),
        rates_count: int = 15,
        select_by: str = "final",
        table_steps: Sequence[int] = (20, 50, 100),
        seed: int = 0,
        cache: bool = False,
    ):
        tuning_steps = num_steps if tuning_steps is None else tuning_steps
        at_least_one("evaluation", num_tasks=num_tasks, num_steps=num_steps, tuning_tasks=tuning_tasks)
        at_least_one("evaluation", tuning_steps=tuning_steps, rates_count=rates_count)
        if select_by not in ("final", "sum"):
            raise ValueError(f"evaluation.select_by must be final or sum, got {select_by!r}")
        low, high = rates_range
        if not 0 < low <= high:
            pair = f"two positive learning rates, the lower one first, got {list(rates_range)}"
            raise ValueError(f"evaluation.rates_range must be {pair}")
        self.num_tasks, self.num_steps = num_tasks, num_steps
        self.tuning_tasks, self.tuning_steps = tuning_tasks, tuning_steps
        self.rates = torch.logspace(torch.tensor(low).log10(), torch.tensor(high).log10(), rates_count)
        self.select_by, self.table_steps, self.seed = select_by, table_steps, valid_seed(seed)
        self.cache = cache

    def __call__(
        self,
        rules: Mapping[str, UpdateRule],
        optimizee: Optimizee,
        device: Device = "cpu",
        remember: Remember | None = None,
    ) -> Comparison:
        """Unroll every rule, in the order given. Rules and optimizee are moved to `device` and stay there.

        `remember` may give tunings that were done before; by default every rule without a learning rate is tuned.
        """
        optimizee.to(device)
        entries = {}
        for name, rule in rules.items():
            log.info("evaluating %s", name)
            entries[name] = self._entry(name, rule.to(device), optimizee, device, remember)
        return Comparison(entries, self.table_steps)

    def _entry(
        self, name: str, rule: UpdateRule, optimizee: Optimizee, device: Device, remember: Remember | None
    ) -> Entry:
        tuning = None
        if isinstance(rule, HandDesigned) and rule.lr is None:
            tuning = self._tune(name, rule, optimizee, device, remember)
            rule = rule.with_lr(tuning.best)
        stream = seeds.generator(self.seed, Stream.EVALUATION, device=device)
        curves = learning_curves(rule, optimizee.split("test"), self.num_tasks, self.num_steps, stream)
        return Entry(
            losses=curves.losses.cpu(),
            metrics={key: value.cpu() for key, value in curves.metrics.items()},
            pictures={key: [picture.cpu() for picture in value[:SHOWN]] for key, value in curves.pictures.items()},
            baseline=isinstance(rule, HandDesigned),
            lr=rule.rate if isinstance(rule, HandDesigned) else None,  # type: ignore[arg-type]
            tuning={f"{rate:.4g}": score for rate, score in zip(*map(Tensor.tolist, tuning[:2]), strict=True)}
            if tuning
            else None,
            horizon=horizon_of(rule.card),
        )

    def _tune(
        self, name: str, rule: HandDesigned, optimizee: Optimizee, device: Device, remember: Remember | None
    ) -> Tuning:
        def tuned() -> Tuning:
            stream = seeds.generator(self.seed, Stream.TUNING, device=device)
            problems = optimizee.split("validation")
            return tune(rule, problems, self.rates, self.tuning_tasks, self.tuning_steps, stream, self.select_by)

        tuning = remember(rule, tuned) if remember else tuned()
        ends = {0: "first", len(self.rates) - 1: "last"}
        if len(self.rates) > 1 and (end := ends.get(int(tuning.scores.argmin()))):
            advice = "the best learning rate of %s, %.4g, is the %s of the grid: widen evaluation.rates_range"
            log.warning(advice, name, tuning.best, end)
        return tuning

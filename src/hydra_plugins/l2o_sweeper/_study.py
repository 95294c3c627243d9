"""The trials of a sweep, in a database in its folder."""

from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from hydra.utils import instantiate
from omegaconf import DictConfig
from optuna.trial import FrozenTrial, TrialState

from hydra_plugins.l2o_sweeper._outcomes import read_outcome
from hydra_plugins.l2o_sweeper._rows import Row
from hydra_plugins.l2o_sweeper._search import Search


class Study:
    """Trials that are asked for, run and told; a trial's number is its job's.

    What a trial draws depends on the seed, its number and the trials told before, never on how often the sweep was
    interrupted.
    """

    def __init__(self, folder: Path, search: Search, sampler: DictConfig, seed: int):
        self.folder, self.search, self.sampler, self.seed = folder, search, sampler, seed
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        fresh = not (folder / "trials.db").exists()
        if fresh and any(path.is_dir() for path in folder.glob("[0-9]*")):
            raise ValueError(f"{folder} holds runs that are no part of this search: choose another hydra.sweep.dir")
        folder.mkdir(parents=True, exist_ok=True)
        storage = f"sqlite:///{folder / 'trials.db'}"
        self.optuna = optuna.create_study(storage=storage, study_name="sweep", load_if_exists=True)
        self._refuse_another_search()
        self.tell()
        for trial in self._running():
            if trial.params.keys() != search.space.keys():  # killed while it was asked for
                self.optuna.tell(trial.number, state=TrialState.FAIL)

    @property
    def trials(self) -> list[FrozenTrial]:
        """The trials that have ended, the best first."""
        ended = self.optuna.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        return sorted(ended, key=lambda trial: trial.values)

    def next_batch(self, n_trials: int, size: int | None) -> list[FrozenTrial]:
        """At most `size` trials (None: all) with numbers in a row, as launchers want them: first those that were
        interrupted, then new ones up to a total of `n_trials`."""
        if not self._running():
            missing = n_trials - len(self.trials)
            for _ in range(min(missing, size or missing)):
                self._ask()
        running = self._running()[:size]
        return [trial for trial, number in zip(running, count(running[0].number if running else 0), strict=False)
                if trial.number == number]  # fmt: skip

    def tell(self) -> None:
        """Every outcome that there is, of trials not told yet."""
        for trial in self._running():
            outcome = read_outcome(self.folder / "outcomes", trial.number)
            if outcome is not None:
                if outcome.diverged:
                    optuna.trial.Trial(self.optuna, trial._trial_id).set_user_attr("diverged", outcome.diverged)
                self.optuna.tell(trial.number, outcome.loss)

    def _ask(self) -> None:
        number = len(self.optuna.get_trials(deepcopy=False))
        mixed = np.random.SeedSequence([self.seed, number]).generate_state(1)
        self.optuna.sampler = instantiate(self.sampler, seed=int(mixed[0]))
        self.optuna.ask(dict(self.search.space))

    def _running(self) -> list[FrozenTrial]:
        return self.optuna.get_trials(deepcopy=False, states=(TrialState.RUNNING,))

    def _refuse_another_search(self) -> None:
        there: Any = self.optuna.user_attrs.get("search")
        here = self.search.written
        if there is None:
            self.optuna.set_user_attr("search", here)
        elif there != here:
            only = [" ".join(sorted(set(a) - set(b))) or "nothing more" for a, b in ((there, here), (here, there))]
            raise ValueError(
                f"{self.folder} holds another search: {only[0]} there, {only[1]} here. Give the same overrides, or "
                "another hydra.sweep.dir"
            )


def row_of(trial: FrozenTrial) -> Row:
    """Return what became of a trial that has ended."""
    reason = trial.user_attrs.get("diverged")
    return Row(trial.number, trial.params, None if reason else trial.value, f"diverged: {reason}" if reason else None)

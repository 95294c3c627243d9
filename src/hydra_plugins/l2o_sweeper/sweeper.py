"""The search: ask Optuna for trials, launch them, tell what came out."""

import logging
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

if TYPE_CHECKING:
    from hydra_plugins.l2o_sweeper._search import Search

log = logging.getLogger(__name__)


class OptunaSweeper(Sweeper):
    """Minimizes what the program returns over `space`, a mapping from keys to Hydra's sweeps: `interval`, `choice`, ….

    Sweeps given on the command line join the space, or replace a key's; a plain value takes its key out of the space.
    Every batch of `batch_size` trials (null: all) goes through Hydra's launcher in one piece. All that is known lies in
    the sweep's folder: the same command with the same `hydra.sweep.dir` goes on after an interruption.
    """

    def __init__(
        self,
        space: Mapping[str, str],
        n_trials: int,
        batch_size: int | None,
        sampler: DictConfig,
        seed: int,
        job_overrides: Sequence[str],
    ):
        self.space, self.n_trials, self.batch_size = space, n_trials, batch_size
        self.sampler, self.seed, self.job_overrides = sampler, seed, job_overrides

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        from hydra_plugins.l2o_sweeper._outcomes import Recorded

        if not find_spec("optuna"):
            raise ValueError("a sweep needs Optuna: pip install -e '.[sweep]'")
        self.config, self.hydra_context = config, hydra_context
        self.folder = Path(config.hydra.sweep.dir).absolute()
        self.group = "-".join(self.folder.parts[-2:])  # of the runs in W&B
        recorded = Recorded(task_function, self.folder / "outcomes")
        self.launcher = Plugins.instance().instantiate_launcher(hydra_context, recorded, config)

    def sweep(self, arguments: list[str]) -> None:
        """Raises ValueError if the folder holds another search, a trial left no outcome, or every trial diverged."""
        from hydra_plugins.l2o_sweeper._report import Sweep, report_best, report_table
        from hydra_plugins.l2o_sweeper._search import Search
        from hydra_plugins.l2o_sweeper._study import Study, row_of
        from l2o.runs.locks import sole

        assert self.config and self.hydra_context and self.launcher
        for name, value in {"n_trials": self.n_trials, "batch_size": self.batch_size}.items():
            if value is not None and value < 1:
                raise ValueError(f"sweep.{name} must be at least 1, got {value}")
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        space = [f"{key}={value}" for key, value in self.space.items()]
        search = Search.of(parser.parse_overrides(space + arguments))
        self.validate_batch_is_legal([self._job(search, {})])  # a mistake is found before anything is written
        with sole(self.folder, "another sweep"):
            study = Study(self.folder, search, self.sampler, self.seed)
            OmegaConf.save(self.config, self.folder / "multirun.yaml")
            log.info("After an interruption, the same command goes on with hydra.sweep.dir=%s", self.folder)
            while batch := study.next_batch(self.n_trials, self.batch_size):
                jobs = [self._job(search, trial.params) for trial in batch]
                ended = self.launcher.launch(jobs, initial_job_idx=batch[0].number)
                study.tell()
                self._refuse_unfinished([trial.number for trial in batch], ended)
            loader = self.hydra_context.config_loader
            told = Sweep(self.folder, self.config, loader, self.group, list(search.space), "trial", "loss", False)
            rows = [row_of(trial) for trial in study.trials]
            report_table(told, rows)
            if rows[0].problem:
                first = min(rows, key=lambda row: row.number)
                raise ValueError(f"every trial diverged; the first: {(first.problem or '').removeprefix('diverged: ')}")
            report_best(told, rows, parser.parse_overrides(search.overrides(rows[0].params)))

    def _refuse_unfinished(self, numbers: Sequence[int], ended: Sequence[JobReturn]) -> None:
        """End the sweep where a trial has left no outcome: unseen, it would come again for ever."""
        from hydra_plugins.l2o_sweeper._outcomes import Unfinished

        failed = [pair for pair in zip(numbers, ended, strict=True) if pair[1].status != JobStatus.COMPLETED]
        if not failed:
            return
        error = failed[0][1]._return_value  # its property would write a line of its own
        if not isinstance(error, Unfinished):
            raise error
        trials = ", ".join(str(number) for number, _ in failed)
        raise ValueError(
            f"without an outcome: trial {trials} ({error}). The same command with hydra.sweep.dir={self.folder} runs "
            "what is missing"
        ) from error

    def _job(self, search: "Search", params: Mapping[str, Any]) -> list[str]:
        group = QuotedString(self.group, Quote.single).with_quotes()
        return [*self.job_overrides, *search.overrides(params), f"sweep.group={group}"]

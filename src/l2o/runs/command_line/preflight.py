"""What is refused before anything runs or is written."""

import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException

from l2o.runs.command_line.arguments import refuse_arguments
from l2o.runs.command_line.finished_runs import refuse_runs
from l2o.runs.command_line.modes import refuse_other_mode
from l2o.runs.command_line.own_code import import_own, is_in_home, working_folder
from l2o.runs.command_line.read_keys import refuse_unread
from l2o.runs.command_line.settings import refuse_settings
from l2o.runs.command_line.suite_settings import refuse_suite_settings
from l2o.runs.command_line.sweep_values import configurations
from l2o.runs.errors import exit_with
from l2o.runs.leftovers import remember_what_is_there


class Preflight(Callback):
    """Ends a program with one line where what was asked for could only go wrong.

    `program` is train or evaluate; `unread` names groups that its configuration has for the sake of experiments alone.
    It ends by exits, because Hydra would turn the errors of a callback into warnings.
    """

    def __init__(self, program: str = "train", unread: Sequence[str] = ()):
        self.program, self.unread = program, tuple(unread)

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        if OmegaConf.select(config, "sweep"):
            sys.exit("error: a sweep is many runs: add -m (--multirun)")
        _expand_folder(config, "hydra.run.dir")
        refuse_unwritable(config, "hydra.run.dir")
        _remember(config, "hydra.run.dir")
        self._check([config])

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        tasks = int(os.environ.get("SLURM_NTASKS") or 1)
        if tasks > 1 and "SLURM_PROCID" in os.environ:
            refusal = (
                f"error: {tasks} Slurm tasks would each start the whole sweep in one folder: start it once, with "
                "srun --ntasks=1, or outside the job with launcher=slurm, which gives every run a job of its own"
            )
            sys.exit(refusal if os.environ["SLURM_PROCID"] == "0" else 1)
        words = OmegaConf.select(config, "hydra.overrides.task") or []
        if any(word.lstrip("+").startswith("runs=") for word in words):
            sys.exit("error: runs=[…] draws all its runs in one figure: leave out -m (--multirun)")
        _expand_folder(config, "hydra.sweep.dir")
        refuse_unwritable(config, "hydra.sweep.dir")
        _remember(config, "hydra.sweep.dir")
        self._check(None, config)

    def _check(self, configs: list[DictConfig] | None, sweep: DictConfig | None = None) -> None:
        """Check the configuration of every run. First comes what needs none of the modules that `_target_`s name."""
        hydra = GlobalHydra.instance().hydra
        if hydra is None:
            return
        assert isinstance(hydra.config_loader, ConfigLoaderImpl)
        loader = hydra.config_loader
        try:
            found = list(configurations(sweep, loader)) if sweep is not None else configs or []
            read = [refuse_unread(config, loader, self.unread) for config in found]
            for config, keys in zip(found, read, strict=True):
                refuse_settings(config, keys)
                if self.program == "evaluate":
                    refuse_other_mode(config, list(config.hydra.overrides.task))
                    refuse_suite_settings(config)
                    refuse_runs(config)
            for config, keys in zip(found, read, strict=True):
                import_own(config, working_folder(config))
                with _as_in_a_job(config) as known:
                    refuse_arguments(known, keys)
        except Exception as error:
            exit_with(error)


@contextmanager
def _as_in_a_job(config: DictConfig) -> Iterator[DictConfig]:
    """A copy of a configuration in which what only a job knows (its number and folder) has a value, so that what refers
    to it can be looked at."""
    known, hydra_config = config.copy(), HydraConfig.instance()
    before = hydra_config.cfg
    with read_write(known), open_dict(known):
        known.hydra.job.update(num=0, id="0")
        known.hydra.runtime.output_dir = "."
    hydra_config.cfg = known  # type: ignore[assignment]
    try:
        yield known
    finally:
        hydra_config.cfg = before


def _expand_folder(config: DictConfig, key: str) -> None:
    """Replace `~` in the folder that a key of Hydra's names, for this process and for the jobs of a sweep."""
    folder = OmegaConf.select(OmegaConf.masked_copy(config, ["hydra"]), key, throw_on_resolution_failure=False)
    if not is_in_home(folder):
        return
    whole = str(Path(folder).expanduser())
    OmegaConf.update(config, key, whole)
    overrides = config.hydra.overrides.hydra  # what the jobs of a sweep are composed with
    for index, override in enumerate(overrides):
        if override.startswith(f"{key}="):
            overrides[index] = f"{key}={QuotedString(whole, Quote.double).with_quotes()}"


def _remember(config: DictConfig, key: str) -> None:
    """Note what is there of the folder that a key names, where its name is known already."""
    with suppress(OmegaConfBaseException):
        remember_what_is_there(OmegaConf.select(config, key))


def refuse_unwritable(config: DictConfig, key: str) -> None:
    """Exit where nothing can be written into the folder that a key names, or there where it would be made."""
    try:
        folder = Path(OmegaConf.select(config, key)).absolute()
    except OmegaConfBaseException:  # a name that only the job knows
        return
    try:
        tempfile.TemporaryFile(dir=next(path for path in (folder, *folder.parents) if path.exists())).close()
    except OSError as error:
        sys.exit(f"error: '{folder}' cannot be written ({error.strerror}): choose another folder with {key}=FOLDER")

"""What is refused before anything runs."""

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException


class Preflight(Callback):
    """Ends a program with one line where what was asked for could only go wrong.

    By exits: Hydra would turn a callback's errors into warnings.
    """

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        if OmegaConf.select(config, "sweep"):
            sys.exit("error: a sweep is many runs: add -m (--multirun)")
        refuse_unwritable(config, "hydra.run.dir")

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        tasks = int(os.environ.get("SLURM_NTASKS") or 1)
        if tasks > 1 and "SLURM_PROCID" in os.environ:
            refusal = (
                f"error: {tasks} Slurm tasks would each start the whole sweep in one folder: start it once, with "
                "srun --ntasks=1, or outside the job with launcher=slurm, which gives every run a job of its own"
            )
            sys.exit(refusal if os.environ["SLURM_PROCID"] == "0" else 1)
        refuse_unwritable(config, "hydra.sweep.dir")


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

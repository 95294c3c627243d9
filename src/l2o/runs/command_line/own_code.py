"""The code and the files of a program's user: where they are found, and which modules are imported first."""

import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, ListConfig, OmegaConf, open_dict, read_write

from l2o.runs.provenance import commit


def prepare(cfg: DictConfig) -> None:
    """Make a job ready for its user's code and files, in whatever process it runs.

    The folder that the program was started in becomes importable, the modules of `imports` are imported, and `~` at the
    start of a value becomes the user's home. The commit of the code is read here, because a checkout may change while
    a job runs.
    """
    commit()
    import_own(cfg, HydraConfig.get().runtime.cwd)
    expand_home(cfg)


def import_own(cfg: DictConfig, folder: str) -> None:
    """Make `folder` importable and import the modules that the key `imports` names.

    A folder comes last, so that a file of the user hides no module of Python. Raises ValueError for a module that is
    not found; what a module raises by itself passes through.
    """
    if folder not in sys.path:
        sys.path.append(folder)
    names = cfg.get("imports") or []
    for name in [names] if isinstance(names, str) else names:
        try:
            import_module(name)
        except ModuleNotFoundError as error:
            if error.name is None or error.name.split(".")[0] != str(name).split(".")[0]:
                raise
            raise ValueError(
                f"imports: there is no module '{name}' in {folder}, nor among what is installed"
            ) from error


def expand_home(node: Any) -> None:
    """Replace `~` or `~/…` by the user's home in every value of a configuration, in place."""
    if not isinstance(node, DictConfig | ListConfig) or node._is_none() or node._is_missing():
        return
    keys: list[Any] = list(node.keys()) if isinstance(node, DictConfig) else list(range(len(node)))
    with read_write(node), open_dict(node):
        for key in keys:
            if OmegaConf.is_interpolation(node, key) or OmegaConf.is_missing(node, key):
                continue
            value = node[key]
            if is_in_home(value):
                node[key] = str(Path(value).expanduser())
            else:
                expand_home(value)


def is_in_home(value: Any) -> bool:
    """Whether a value is a path that begins with `~`, as people write the folder that is their home."""
    return isinstance(value, str) and (value == "~" or value.startswith("~/"))


def working_folder(cfg: DictConfig) -> str:
    """The folder that the program was started in, from a configuration of Hydra's."""
    return str(OmegaConf.select(cfg, "hydra.runtime.cwd") or Path.cwd())

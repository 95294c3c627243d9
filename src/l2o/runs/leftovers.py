"""A run that is refused before its work begins leaves nothing behind.

Hydra makes a run's folder and writes the configuration into it before the program is called, so that the folder is
already there when a part of the run turns out to be missing or wrong.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from l2o.runs.errors import one_line

CONFIGURATION = [f".hydra/{name}.yaml" for name in ("config", "hydra", "overrides")]
"""What Hydra writes into the folder of a run, besides the log."""

SWEEP = "multirun.yaml"
"""What Hydra writes into the folder of a sweep."""

_made: list[Path] = []
"""The highest folder that had to be made for this process's run or sweep; empty where all were there."""


def remember_what_is_there(folder: str | Path) -> None:
    """Note, before Hydra makes a folder, which of the folders above it are there already: those are never removed."""
    whole = Path(folder).absolute()
    _made[:] = [path for path in (*reversed(whole.parents), whole) if not path.exists()][:1]


@contextmanager
def nothing_left_if_refused(folder: str | Path) -> Iterator[None]:
    """Remove a run's folder where the block, which opens the run, ends with a user's mistake.

    Only what is written before the work begins is removed, and a folder only where nothing else lies in it: results of
    an earlier run stay. Of the folders above, those go that this process has made. An error that is a bug keeps the
    folder for whoever looks for the reason.
    """
    try:
        yield
    except Exception as error:
        if _is_rank_zero() and one_line(error) is not None:
            with suppress(OSError):  # another process may be quicker, or has put something there
                _remove(Path(folder).absolute())
        raise


def _is_rank_zero() -> bool:
    from pytorch_lightning.utilities import rank_zero_only  # slow to import

    return getattr(rank_zero_only, "rank", 0) == 0


def _remove(folder: Path) -> None:
    """Remove what was written before the work began. Raises OSError where something else is there."""
    from l2o.runs.locks import FILE, HOLDER  # slow to import

    logs = [Path(getattr(handler, "baseFilename", "")) for handler in logging.root.handlers]
    early = {*(folder / name for name in (*CONFIGURATION, FILE, HOLDER)), *logs}
    if not all(path in early or path == folder / ".hydra" for path in folder.rglob("*")):
        return
    for path in early:
        if path.parent in (folder, folder / ".hydra"):
            path.unlink(missing_ok=True)
    if (folder / ".hydra").is_dir():
        (folder / ".hydra").rmdir()
    for place in (folder, *folder.parents):
        if not any(place.is_relative_to(made) for made in _made):
            break
        if [path.name for path in place.iterdir()] == [SWEEP]:
            (place / SWEEP).unlink()
        place.rmdir()

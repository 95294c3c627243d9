"""What a user sees when something is wrong with what they gave: one line and a non-zero exit.

Whether an error is a user's mistake or a bug of this package shows in the place where it arose, not in its class: a
ValueError that was raised on purpose speaks to the user, one that `a, b = c` caused does not.
"""

import dis
import functools
import os
import re
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, ParamSpec, TypeVar

import hydra
from hydra.errors import HydraException, InstantiationException
from omegaconf.errors import OmegaConfBaseException

from l2o.files import without_number

SPEAKING = ("Diverged", "MisconfigurationException", "OutOfMemoryError")
"""Errors of this package, Lightning and torch that speak to the user, by name: their modules are slow to import."""

SEE_ALL = "L2O_TRACEBACK=1 shows all of the way there"

OURS = Path(__file__).parents[1]
PLUGINS = OURS.parent / "hydra_plugins"
HYDRA = Path(hydra.__file__).parent
LIBRARIES = [Path(sysconfig.get_paths()[name]).resolve() for name in ("stdlib", "platstdlib", "purelib", "platlib")]

P = ParamSpec("P")
R = TypeVar("R")


def in_one_line(main: Callable[P, R]) -> Callable[P, R]:
    """Turn a user's mistake into one line on stderr and exit status 1. A bug keeps its traceback; L2O_TRACEBACK=1 shows
    that of a mistake, too."""

    @functools.wraps(main)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
        os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # Hydra hands the error over instead of printing it
        try:
            return main(*args, **kwargs)
        except Exception as error:
            line = None if os.environ.get("L2O_TRACEBACK") == "1" else one_line(error)
            if line is None:
                raise
            sys.exit(f"error: {line}")

    return guarded


def one_line(error: BaseException) -> str | None:
    """What to tell a user about an error; None where it is a bug of this package, which needs its traceback.

    An error that went through code of the user names its place there.
    """
    from l2o.runs.command_line.explanations import explain

    if explained := explain(error):
        return _joined(explained)
    cause = next((e for e in _causes(error) if not isinstance(e, InstantiationException)), error)
    message, own = _with_key(error, _joined(str(cause)) or type(cause).__name__), _in_users_code(error)
    if missing := re.search(r"Missing mandatory value: (\S+)$", str(cause).splitlines()[0] if str(cause) else ""):
        return f"{missing[1]} has no value yet: give {missing[1]}=VALUE"
    if absent := re.match(r"Interpolation key '(.+?)' not found\s+full_key: (\S+)", str(cause)):
        return f"{absent[2]} needs '{absent[1]}', which this command line or config leaves out or sets to null"
    if _speaks(cause):
        return message
    if own and not (_is_expected(cause) and _arose_in(OURS, cause)):
        return f"{own.place}: {own.what} ({SEE_ALL})"
    if _is_expected(cause):
        return f"{message} ({own.place}; {SEE_ALL})" if own else message
    if cause is not error and (_arose_in(HYDRA, cause) or _was_raised_on_purpose(cause)):  # by what a `_target_` names
        return message
    return None


def _speaks(error: BaseException) -> bool:
    """Whether an error is of a kind that is always meant for the user."""
    if isinstance(error, HydraException | OmegaConfBaseException):
        return True
    return any(kind.__name__ in SPEAKING for kind in type(error).__mro__)


def _is_expected(error: BaseException) -> bool:
    """Whether the message of an error was written for the user, unless it arose in the user's own code."""
    return isinstance(error, OSError) or (isinstance(error, ValueError) and _was_raised_on_purpose(error))


def _was_raised_on_purpose(error: BaseException) -> bool:
    """By a `raise`, in this package or in a library that it called; not by an expression or a built-in function."""
    frames = list(_frames(error.__traceback__))
    if not frames:
        return True  # made by hand, as from another process
    last = frames[-1]
    code = last.tb_frame.f_code.co_code
    return 0 <= last.tb_lasti < len(code) and dis.opname[code[last.tb_lasti]] == "RAISE_VARARGS"


class Own(NamedTuple):
    """A place in the user's own code, and what happened there."""

    place: str
    what: str


def _in_users_code(error: BaseException) -> Own | None:
    """Where in the user's own code an error came from; None where it met none."""
    for e in _causes(error):  # the last thing that happened comes first
        if isinstance(e, SyntaxError) and e.filename and _is_users(e.filename):
            return Own(f"{_near(e.filename)}:{e.lineno}", f"{type(e).__name__}: {e.msg}")
        met = [frame for frame in _frames(e.__traceback__) if _is_users(frame.tb_frame.f_code.co_filename)]
        if met:
            place = f"{_near(met[-1].tb_frame.f_code.co_filename)}:{met[-1].tb_lineno}"
            return Own(place, f"{type(e).__name__}: {_joined(str(e))}")
    return None


def _is_users(filename: str) -> bool:
    """Whether a file belongs neither to this package and its programs, nor to Python and what is installed."""
    path = Path(filename).resolve()
    if filename.startswith("<") or not path.is_file():
        return False
    programs = {OURS.parents[1] / name for name in ("train.py", "evaluate.py")}
    folders = [OURS, PLUGINS, *LIBRARIES]
    return path not in programs and "site-packages" not in path.parts and not any(map(path.is_relative_to, folders))


def _near(filename: str) -> str:
    """A file as seen from the folder that one works in, if it lies there."""
    path = Path(filename)
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else filename


def _arose_in(folder: Path, error: BaseException) -> bool:
    """Whether the last line of Python that an error came from belongs to a folder."""
    frames = list(_frames(error.__traceback__))
    return bool(frames) and Path(frames[-1].tb_frame.f_code.co_filename).is_relative_to(folder)


def _with_key(error: BaseException, message: str) -> str:
    """A message with the key of the part that could not be built, unless it names one by itself."""
    found = re.search(r"^full_key: (\S+)$", str(error), re.M) if isinstance(error, InstantiationException) else None
    key = found[1] if found else ""
    return f"{key}: {message}" if key and not any(part in message for part in key.split(".")) else message


def _joined(text: str) -> str:
    """Return a text in one line, without the number that the system's own messages begin with."""
    return "; ".join(line.strip() for line in without_number(text).splitlines() if line.strip())


def _frames(tb: TracebackType | None) -> Iterator[TracebackType]:
    while tb is not None:
        yield tb
        tb = tb.tb_next


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """From an error to what it was raised from, as far as the wrapping goes."""
    while error is not None:
        yield error
        error = error.__cause__


def exit_with(error: Exception) -> None:
    """End the program over an error where nobody would catch it, as in a callback of Hydra's: with one line for a
    mistake, with the traceback for a bug."""
    line = None if os.environ.get("L2O_TRACEBACK") == "1" else one_line(error)
    if line is None:
        traceback.print_exception(error)
        sys.exit(1)
    sys.exit(f"error: {line}")

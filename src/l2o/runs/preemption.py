"""A run that is told to stop: by the signals that a cluster sends before it takes the machine away, or by Ctrl-C.

This module imports nothing heavy, so that a program can listen before it imports anything else.
"""

import functools
import os
import re
import shlex
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType
from typing import Any, ParamSpec, TypeVar

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
"""What clusters send."""

STATUS = 75
"""The exit status of a run that one of `SIGNALS` has stopped, and that can go on: EX_TEMPFAIL of sysexits.h, "try again
later"."""

INTERRUPTED = 130
"""The exit status of a run that Ctrl-C has stopped, and that can go on: 128 plus the number of SIGINT."""

P = ParamSpec("P")
R = TypeVar("R")
Handler = Callable[[int, FrameType | None], None]

_received: set[int] = set()  # for this module's functions alone: launchers copy what `guarded` itself names


def status_of(number: int) -> int:
    """Return the exit status of a run that a signal has stopped."""
    return INTERRUPTED if number == signal.SIGINT else STATUS


def name_of(number: int) -> str:
    """Return a signal's name as its sender knows it."""
    return "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name


def listen_while_importing() -> None:
    """Let a signal end the program at once, with its documented status, until something else listens.

    A program calls this before its imports, which take seconds. Signals that are ignored, as Ctrl-C is in a shell's
    background job, and signals that somebody listens to already stay as they are.
    """
    silent = (signal.SIG_DFL, signal.default_int_handler)
    for number in (*SIGNALS, signal.SIGINT):
        if signal.getsignal(number) in silent:
            signal.signal(number, lambda number, _: os._exit(status_of(number)))


def resumable(main: Callable[P, R]) -> Callable[P, R]:
    """Give `main` its status wherever it has nothing to save: before training, in the final comparison.

    Slurm tells a job of submitit by SIGUSR2 that its time is over, and submitit's handler puts the job back into the
    queue at once, in the middle of a window. Here that happens when `main` has ended, and has saved what there was.
    """

    @functools.wraps(main)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
        requeues = _requeues()
        folder = getattr(args[0], "output_dir", None) if args else None

        def end(number: int, frame: FrameType | None) -> None:
            if is_rank_zero():
                say(f"stopped by {name_of(number)}, outside training: {_remedy(folder)}")
            sys.exit(status_of(number))

        before = listen(end)
        try:
            return main(*args, **kwargs)
        except SystemExit as end_of_run:
            if end_of_run.code == STATUS:
                _requeue(requeues)
            raise
        finally:
            restore(before)

    return guarded


class StopRequest:
    """Remembers a signal, so that the window in progress is finished first; when training is `over`, ends the run.

    After Ctrl-C the next one is the system's own again and ends the process at once.

    This takes the place of Lightning's handlers: those save, under Slurm, in the middle of a window, and on several
    ranks they start a collective inside the handler, where the other ranks are in another one. Lightning puts the
    former handlers back at the end.
    """

    number: int | None = None
    over = False

    @property
    def received(self) -> str | None:
        """The name of the signal, or None where there was none."""
        return None if self.number is None else name_of(self.number)

    def listen(self) -> None:
        listen(self._remember)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        if self.number != signal.SIGINT:  # of Ctrl-C and a signal that hands it on to other ranks, Ctrl-C counts
            self.number = number
        if self.over:
            sys.exit(status_of(self.number) if is_rank_zero() else 0)
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            if is_rank_zero():
                say("Ctrl-C: the run saves when this window is done, and stops; once more Ctrl-C stops it at once")


def listen(handler: Handler) -> dict[int, Any]:
    """Install a handler for every signal where Python allows it, in the main thread; return the handlers before.

    Ctrl-C stays ignored where it is, as in a shell's background job.
    """
    if threading.current_thread() is not threading.main_thread():
        return {}

    def heard(number: int, frame: FrameType | None) -> None:
        _received.add(number)
        handler(number, frame)

    numbers = [n for n in (*SIGNALS, signal.SIGINT) if n in SIGNALS or signal.getsignal(n) is not signal.SIG_IGN]
    return {number: signal.signal(number, heard) for number in numbers}


def restore(handlers: Mapping[int, Any]) -> None:
    """Put handlers back, but for those that are none of Python's."""
    for number, handler in handlers.items():
        if handler is not None:
            signal.signal(number, handler)


def is_rank_zero() -> bool:
    """Return whether this process is the only one, or rank zero."""
    from pytorch_lightning.utilities import rank_zero_only

    return getattr(rank_zero_only, "rank", 0) == 0


def say(line: str) -> None:
    """Write a line from within a signal handler, which may have interrupted a print."""
    os.write(2, f"{line}\n".encode())


def way_on(last: Path) -> str:
    """Return how a run goes on from a checkpoint: as a command for the shell, or, for one of several runs of a command,
    as what is to be added to its own."""
    path, given = str(last), sys.argv[1:]
    if not re.fullmatch(r"[A-Za-z0-9_./:@+-]+", path):  # Hydra's own quotes
        path = "'" + re.sub(r"(\\*)'", lambda found: 2 * found[1] + "\\'", path) + "'"
    word = f"ckpt_path={path}"
    several = any(one == "-m" or (one.startswith("--m") and "--multirun".startswith(one)) for one in given)
    several = several or "hydra.mode=MULTIRUN" in given
    launched = any(os.environ.get(name, "1") != "1" for name in ("WORLD_SIZE", "SLURM_NTASKS"))  # by another command
    if Path(sys.argv[0]).name != "train.py" or several or launched:
        return f"{word} goes on"
    others = [one for one in given if not one.lstrip("+").startswith("ckpt_path=")]
    return f"to go on: {shlex.join(['python', sys.argv[0], *others, word])}"


def _remedy(folder: str | None) -> str:
    """Return how a run goes on that was stopped where there was nothing to save."""
    last = Path(folder or ".") / "last.ckpt"
    return way_on(last) if folder and last.exists() else "there is no checkpoint yet, start it anew"


def _requeues() -> dict[int, Handler]:
    """Return what submitit does by itself on its signal, in one of its jobs, and forget all signals of earlier runs."""
    _received.clear()
    handlers: dict[int, Any] = {number: signal.getsignal(number) for number in SIGNALS}
    return {n: h for n, h in handlers.items() if getattr(h, "__name__", "") == "checkpoint_and_try_requeue"}


def _requeue(requeues: Mapping[int, Handler]) -> None:
    """Let submitit put the job back into the queue, which exits, if submitit's signal has been received."""
    for number in _received & requeues.keys():
        requeues[number](number, None)

"""Told to stop: SIGTERM, SIGUSR1 or SIGUSR2, as a cluster sends before it takes the machine away."""

import functools
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from typing import Any, ParamSpec, TypeVar

from pytorch_lightning.utilities import rank_zero_only

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)

STATUS = 75
"""The exit status of a run that was told to stop and can go on: EX_TEMPFAIL of sysexits.h, "try again later"."""

P = ParamSpec("P")
R = TypeVar("R")

_received: set[int] = set()  # for this module's functions alone: launchers copy what `guarded` itself names


def resumable(main: Callable[P, R]) -> Callable[P, R]:
    """Give `main` that exit status wherever it has nothing to save: before training, in the final comparison.

    Slurm tells a job of submitit by SIGUSR2 that its time is over, and submitit's handler puts it back into the queue
    at once, in the middle of a window. Here it does so when `main` has ended, and has saved what there was.
    """

    @functools.wraps(main)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
        requeues = _requeues()
        before = listen(lambda number, _: sys.exit(STATUS))
        try:
            return main(*args, **kwargs)
        except SystemExit as end:
            if end.code == STATUS:
                _requeue(requeues)
            raise
        finally:
            restore(before)

    return guarded


class StopRequest:
    """Remembers the signal, so that the window in progress is finished first; when training is `over`, ends the run.

    It takes the place of Lightning's handlers: those save, under Slurm, in the middle of a window, and on several ranks
    start a collective inside the handler, where the other ranks are in another one. Lightning puts the former handlers
    back at the end.
    """

    received: str | None = None
    over = False

    def listen(self) -> None:
        listen(self._remember)

    def _remember(self, number: int, _: Any) -> None:
        self.received = signal.Signals(number).name
        if self.over:
            sys.exit(STATUS if getattr(rank_zero_only, "rank", 0) == 0 else 0)


def listen(handler: Callable[[int, Any], None]) -> dict[int, Any]:
    """Install a handler where Python allows it, in the main thread; returns the ones before."""
    if threading.current_thread() is not threading.main_thread():
        return {}

    def heard(number: int, frame: Any) -> None:
        _received.add(number)
        handler(number, frame)

    return {number: signal.signal(number, heard) for number in SIGNALS}


def restore(handlers: Mapping[int, Any]) -> None:
    """Put handlers back, but for those that are none of Python's."""
    for number, handler in handlers.items():
        if handler is not None:
            signal.signal(number, handler)


def _requeues() -> dict[int, Callable[[int, Any], None]]:
    """What submitit does by itself on its signal, in one of its jobs. A run begins: no signal has been received."""
    _received.clear()
    handlers: dict[int, Any] = {number: signal.getsignal(number) for number in SIGNALS}
    return {n: h for n, h in handlers.items() if getattr(h, "__name__", "") == "checkpoint_and_try_requeue"}


def _requeue(requeues: Mapping[int, Callable[[int, Any], None]]) -> None:
    """Let submitit do it, which exits, if its signal has been received."""
    for number in _received & requeues.keys():
        requeues[number](number, None)

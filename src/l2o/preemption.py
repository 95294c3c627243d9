"""Told to stop: SIGTERM or SIGUSR1, as a cluster sends before it takes the machine away."""

import functools
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)

STATUS = 75
"""The exit status of a run that was told to stop and can go on: EX_TEMPFAIL of sysexits.h, "try again later"."""

P = ParamSpec("P")
R = TypeVar("R")


def resumable(main: Callable[P, R]) -> Callable[P, R]:
    """Give `main` that exit status wherever it has nothing to save: before training, in the final comparison."""

    @functools.wraps(main)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
        before = _listen(lambda number, _: sys.exit(STATUS))
        try:
            return main(*args, **kwargs)
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    return guarded


class StopRequest:
    """Remembers the signal, so that the window in progress is finished first.

    It takes the place of Lightning's handlers: those save, under Slurm, in the middle of a window, and on several ranks
    start a collective inside the handler, where the other ranks are in another one. Lightning puts the former handlers
    back at the end.
    """

    received: str | None = None

    def listen(self) -> None:
        _listen(self._remember)

    def _remember(self, number: int, _: Any) -> None:
        self.received = signal.Signals(number).name


def _listen(handler: Callable[[int, Any], None]) -> dict[signal.Signals, Any]:
    """Install a handler, where Python allows it; returns the ones before."""
    if threading.current_thread() is not threading.main_thread():
        return {}
    return {number: signal.signal(number, handler) for number in SIGNALS}

"""How long threads wait awake: long enough for the next operation, and no longer where other work wants the core."""

import os

SPINS = "20000"
"""Turns of a loop. GNU's OpenMP, which torch uses, makes 300 000 by default, in which a thread beside other work keeps
the very core that it waits for. What that costs is in docs/performance.md."""


def wait_briefly() -> None:
    """Let threads sleep soon, unless the user has said how they wait. It has to be called before torch is imported."""
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)

"""How long threads wait awake: long enough for the next operation, and no longer where other work wants the core."""

import os

SPINS = "20000"
"""Some tens of microseconds. GNU's OpenMP, which torch uses, would wait fifteen times as long, in which a thread beside
other work keeps the very core that it waits for: a training beside one busy process then takes two to three times as
long. On a quiet machine the difference is within two to three percent."""


def wait_briefly() -> None:
    """Let threads sleep soon, unless the user has said how they wait. It has to be called before torch is imported."""
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)

"""The reason of another library's error, fit for one line of ours."""

import re

ESCAPES = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")
"""What colours a terminal."""


def reason(error: BaseException) -> str:
    """Return the first line of an error's message without terminal escapes; the error's class where it says nothing."""
    lines = [line.strip() for line in ESCAPES.sub("", str(error)).splitlines() if line.strip()]
    printable = "".join(letter for letter in (lines or [""])[0] if letter.isprintable())
    return printable or type(error).__name__

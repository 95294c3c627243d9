"""The settings of a sweep itself. Grids need them without Optuna, which only searches need."""

import re

from hydra.core.override_parser.types import Override


def is_setting(override: Override) -> bool:
    """Say whether an override concerns the sweep and where its jobs run, not the program."""
    return re.split("[./@]", override.key_or_group)[0] in ("sweep", "launcher")

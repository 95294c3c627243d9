"""What people write and Hydra refuses."""

import sys
from pathlib import Path

import pytest
from hydra._internal.utils import get_args_parser

from l2o.runs.command_line.null_groups import leave_out_null_groups

CONF = Path(__file__).parents[3] / "conf"


@pytest.mark.parametrize(
    ("words", "overrides", "options"),
    [
        ("seed=1 --config-dir my=conf name=x", ["seed=1", "name=x"], {"config_dir": "my=conf"}),
        ("seed=1,2 -m launcher=joblib seed=3", ["seed=1,2", "launcher=joblib", "seed=3"], {"multirun": True}),
        ("seed=1 --cfg job name=x --resolve +a.b=3", ["seed=1", "name=x", "+a.b=3"], {"cfg": "job", "resolve": True}),
        ("evaluation=null --config-dir=c seed=1 -cn best sweep=null", ["~evaluation", "seed=1"], {"config_dir": "c"}),
        ("seed=1 --config-dir name=x name=x", ["seed=1", "name=x"], {"config_dir": "name=x"}),
        ("name=x -cn best seed=1", ["name=x", "seed=1"], {"config_name": "best"}),
    ],
)
def test_options_may_stand_between_overrides(
    monkeypatch: pytest.MonkeyPatch, words: str, overrides: list[str], options: dict[str, object]
) -> None:
    monkeypatch.setattr(sys, "argv", ["train.py", *words.split()])
    leave_out_null_groups(CONF)
    assert {type(word) for word in sys.argv} == {str}  # spawned processes are sent them before they know of l2o
    read = vars(get_args_parser().parse_args(sys.argv[1:]))
    assert read["overrides"] == overrides
    assert {name: read[name] for name in options} == options

"""A map of where a rule holds, through evaluate.py and by its parts."""

import json
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from matplotlib.figure import Figure
from programs import ROOT

from l2o.figures.heat_maps import HeatMap, plot_heat_maps
from l2o.optimizers import LSTM
from l2o.runs import mapping, scoring
from l2o.runs.command_line.modes import refuse_other_mode

SMALL = [
    *("map=mlp", "map.values.width=[3,4]", "map.values.depth=[1,2]", "map.values.horizon=[2,3,4]"),
    *("map.values.init_std=[0.01,0.1]", "map.point={width:3,depth:1,horizon:3,init_std:0.01,hidden:[3]}"),
    *("scoreboard.seeds=1", "scoreboard.rates_count=2", "logger=csv"),
]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def config(*words: str):
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return compose("evaluate", [*SMALL, "learned.LSTM=digits", *words])


def test_a_map_has_every_point_of_its_panels_and_one_figure(tmp_path, monkeypatch):
    drawn, savefig = [], Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *a, **k: (drawn.append(self), savefig(self, *a, **k)))
    cfg = config(f"output_dir={tmp_path}")
    suite = mapping.open_map(cfg)
    assert set(suite.contestants) == {"LSTM", "Adam"}
    horizons = {name: task.horizons for name, (task, _) in suite.tasks.items()}
    assert horizons == {
        "width 3, depth 1, init_std 0.01": (2, 3, 4),
        "width 4, depth 1, init_std 0.01": (3,),
        "width 3, depth 2, init_std 0.01": (3,),
        "width 4, depth 2, init_std 0.01": (3,),
        "width 3, depth 1, init_std 0.1": (2, 3, 4),
    }
    assert "hidden:\n  - 4\n  - 4\n" in suite.tasks["width 4, depth 2, init_std 0.01"][1]
    board = scoring.score(suite)
    mapping.report_map(suite, board)
    assert (tmp_path / "map.png").stat().st_size > 0
    titles = [axes.get_title() for axes in drawn[0].axes[:2]]
    assert titles == ["LSTM\nat steps = 3, std of the start = 0.01", "LSTM\nat hidden units = 3, hidden layers = 1"]
    assert drawn[0].get_suptitle() == "MLP (sigmoid) on digits"
    found = json.loads((tmp_path / "map.json").read_text())
    assert found["provenance"].keys() == {"version", "commit", "date"}, "no program of Hydra has made it"
    assert found["tasks"]["width 4, depth 2, init_std 0.01"]["horizons"]["3"]["LSTM"]["rates"] == [1.0]


def test_a_map_without_a_learned_rule_or_of_another_property_is_refused():
    with pytest.raises(ValueError, match=r"learned\.NAME=PATH"):
        mapping.open_map(config("learned.LSTM=null"))
    with pytest.raises(ValueError, match="colour must be one of width"):
        mapping.open_map(config("map.panels=[{x: width, y: colour}]"))


WRONG = {
    "map.panels=[]": "map.panels is empty",
    "map.panels=3": "map.panels must be a list, got 3",
    "map.panels=[3]": r"map.panels\[0\] must be a table of keys, got 3",
    "map.panels=[{x: width}]": r"map.panels\[0\].y is missing",
    "map.panels=[{x: width, y: width}]": "has width on both axes",
    "map.panels=[{x: width, y: depth, z: horizon}]": "z has no effect",
    "map.values.width=[]": "map.values.width must be different values, at least one",
    "map.values.width=[2, 2]": "map.values.width must be different values",
    "map.values.width=3": "map.values.width must be a list, got 3",
    "map.values.width=[a]": "map.values.width must be an integer, got 'a'",
    "map.values.depth=[0]": "map.values.depth must be at least 1, got 0",
    "map.values.horizon=[2.5]": "map.values.horizon must be an integer, got 2.5",
    "map.values.init_std=[-1.0]": "map.values.init_std must be more than 0",
    "map.point.width=0": "map.point.width must be at least 1",
    "map.point.horizon=null": "map.point.horizon must be an integer, got null",
    "map.trained={width: 3}": "map.trained.width must be the lowest and the highest value, got 3",
    "map.trained={width: [3, 1]}": "map.trained.width must be the lowest and the highest",
    "map.trained={colour: [1, 3]}": "map.trained.colour has no effect",
    "map.optimizee=null": "map.optimizee must be a table of keys",
    "map.name=a/b": "map.name must be a name of letters",
    "+learned.Adam=digits": r"learned\.Adam has the name of a baseline",
}
"""Values of a map's keys that could only go wrong."""


@pytest.mark.parametrize(("word", "message"), WRONG.items())
def test_a_wrong_value_of_a_map_is_named(word: str, message: str):
    with pytest.raises(ValueError, match=message):
        mapping.open_map(config(word))


@pytest.mark.parametrize(
    "word",
    [
        "adam_envelopes=e.json",
        "scoreboard.scales=[1.0]",
        "scoreboard.baselines.Muon.centre=0.1",
        "map.point.hidden=[3]",
    ],
)
def test_what_a_map_does_not_read_is_refused(word: str):
    with pytest.raises(ValueError, match="has no effect"):
        refuse_other_mode(config(), [word])
    refuse_other_mode(config(), ["scoreboard.baselines.Adam.centre=0.1", "scoreboard.seeds=2", "map.point.width=4"])


def test_what_a_rule_was_trained_on_comes_from_its_card():
    rule = LSTM(hidden_size=3)
    assert mapping.trained_ranges(rule) == {}
    network = {"hidden": [20, 40]}
    rule.card = {"horizon": 100, "optimizee": {"network": network, "init_std": 0.01}}
    expected = {"horizon": (100, 100), "width": (20, 40), "depth": (2, 2), "init_std": (0.01, 0.01)}
    assert mapping.trained_ranges(rule) == expected
    rule.card = {"horizon": "unknown", "optimizee": {"dim": 10}}
    assert mapping.trained_ranges(rule) == {}


@pytest.mark.parametrize("trained", [{}, {"width": (2.0, 3.0), "depth": (1.0, 1.0)}, {"width": (9.0, 9.0)}])
def test_a_map_is_drawn_whatever_diverged(tmp_path, trained):
    losses = [[0.0, 1.0, float("inf")], [0.1, 100.0, float("nan")]]
    shown = HeatMap("X", "width", "depth", [1, 2, 3], [1, 2], losses, trained, {"horizon": 3, "init_std": 0.01})
    assert plot_heat_maps([shown, shown], 2, tmp_path / "map.png").stat().st_size > 0

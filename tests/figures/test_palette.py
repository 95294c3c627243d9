"""One style for an optimizer in every figure, which people who confuse colours can tell apart."""

import itertools
from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_hex, to_rgb
from omegaconf import OmegaConf

from l2o.figures.palette import BASELINES, series, styles

ROOT = Path(__file__).parents[2]

DEUTERANOPIA = np.array(
    [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]]
)
"""How people without green cones see linear colours, Machado, Oliveira and Fernandes (2009)."""

XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])


def lab(colour: str, seen: np.ndarray) -> np.ndarray:
    """A colour in CIE Lab, in which distances are those that people see, as an eye sees it."""
    linear = np.clip(seen @ (np.array(to_rgb(colour)) ** 2.2), 0, 1)
    f = np.cbrt(np.maximum(XYZ @ linear / (XYZ @ np.ones(3)), 0.008856))
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("eye", [np.eye(3), DEUTERANOPIA], ids=["all cones", "no green cones"])
@pytest.mark.parametrize(
    "names",
    [["SGD", "NAG", "RMSprop", "ADAM"], ["Momentum", "Adam", "AdamW-cosine", "Muon", "ScheduleFree"]],
    ids=["comparison", "scoreboard"],
)
def test_colours_of_one_figure_differ_to_every_eye(names, eye):
    found = styles({"LSTM": False, "Celo": False, "general": False} | dict.fromkeys(names, True))
    for one, other in itertools.combinations(found.values(), 2):
        difference = np.linalg.norm(lab(one["color"], eye) - lab(other["color"], eye))
        assert difference > 12 or one["linestyle"] != other["linestyle"]
    dashes = [str(found[name]["linestyle"]) for name in names]
    assert len(set(dashes)) >= len(names) - 1, "without any colours, too"


def test_a_name_has_its_style_in_every_figure_however_it_is_written():
    board = styles({"Momentum": True, "Adam": True, "mine": False})
    comparison = styles({"mine": False, "LSTM": False, "NAG": True, "ADAM": True, "adam": True})
    assert board["Adam"] == comparison["ADAM"] == comparison["adam"]
    assert styles({"Nesterov": True})["Nesterov"] == comparison["NAG"]
    assert to_hex(comparison["LSTM"]["color"]) == "#000000" and comparison["LSTM"]["linestyle"] == "-"
    assert comparison["mine"]["color"] != "#000000", "LSTM's, although it comes later"
    assert board["mine"]["color"] == "#000000", "the first free one"


def test_a_learned_optimizer_with_a_baseline_s_name_is_drawn_as_a_learned_one():
    assert styles({"Adam": False})["Adam"] == {"color": "#000000", "linestyle": "-"}


def test_no_two_of_many_optimizers_look_alike():
    many = styles({f"{kind} {i}": kind == "b" for i in range(30) for kind in "ab"} | {"Adam": True, "LSTM": False})
    assert len({str(style) for style in many.values()}) == len(many)


def test_every_baseline_that_the_programs_know_has_a_style_of_its_own():
    board = OmegaConf.load(ROOT / "conf/scoreboard/default.yaml").baselines
    problem = (ROOT / "conf/problem.yaml").read_text()
    names = [
        *board,
        *(line.split("baselines.")[1].split(":")[0] for line in problem.splitlines() if "@baselines." in line),
    ]
    assert {"SGD", "Muon"} <= set(names)
    known = {style.color for style in BASELINES.values()}
    found = [styles({name: True})[name]["color"] for name in names]
    assert set(found) <= known and len(set(found)) == len(set(map(str.lower, names)))


def test_a_series_has_different_colours():
    assert len(set(series(map(str, range(10))).values())) == 10
    assert series(["a", "b", "a"]).keys() == {"a", "b"}

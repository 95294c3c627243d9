"""The figure: a PNG whose lines are the bands."""

import math

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from l2o.evaluation.comparison import Comparison, Entry
from l2o.figures.curves import plot_curves


def entry(losses, baseline=True, lr=None):
    return Entry(losses, {}, baseline, lr)


def falling(start, steps=30):
    return start * torch.logspace(0, -2, steps)[:, None] * (1 + 0.3 * torch.rand(steps, 5))


@pytest.fixture
def axes(monkeypatch):
    """A function: the axes that a comparison is drawn into."""
    drawn = []
    savefig = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *a, **k: (drawn.append(self), savefig(self, *a, **k)))

    def plot(path, comparison):
        assert plot_curves(comparison, path, "a title") == path
        return drawn[-1].axes[0]

    return plot


def test_lines_are_the_means_and_two_bands_the_quantiles(tmp_path, axes):
    """The first learned optimizer and the best baseline have a band."""
    adam, sgd = entry(falling(2.0), lr=0.01), entry(falling(9.0), lr=0.1)
    entries = {"SGD": sgd, "Adam": adam, "LSTM": entry(falling(3.0), False), "other": entry(falling(1.0), False)}
    drawn = axes(tmp_path / "curves.png", Comparison(entries))
    assert drawn.get_yscale() == "log" and drawn.get_title() == "a title"
    labels = ["SGD (lr 0.1)", "Adam (lr 0.01)", "LSTM", "other"]
    assert [text.get_text() for text in drawn.figure.legends[0].get_texts()] == labels
    assert drawn.figure.legends[0].get_title().get_text() == "band: 10–90 % of the problems"
    for line, (name, given) in zip(drawn.lines, entries.items(), strict=True):
        assert line.get_xdata().tolist() == list(range(1, 31))
        np.testing.assert_allclose(line.get_ydata(), given.band()["mean"].numpy())
        assert (line.get_linestyle() == "-") is (name in ("LSTM", "other"))
    areas, edges = drawn.collections[::2], drawn.collections[1::2]
    for area, pair, given in zip(areas, edges, (adam, entries["LSTM"]), strict=True):
        heights = area.get_paths()[0].vertices[:, 1]
        assert heights.max() == pytest.approx(given.band()["p90"].max().item())
        assert heights.min() == pytest.approx(given.band()["p10"].min().item())
        for path, name in zip(pair.get_paths(), ("p10", "p90"), strict=True):
            np.testing.assert_allclose(path.vertices[:, 1], given.band()[name].numpy())
    assert drawn.get_ylabel() == "Loss"


def test_bands_that_lie_over_each_other_keep_their_colours(tmp_path, axes):
    """Every pixel of an area is of one optimizer's tint: the learned one's where both lie."""
    wide = torch.linspace(2.0, 1.5, 30)[:, None] * torch.tensor([0.3, 1.0, 3.0])
    drawn = axes(tmp_path / "c.png", Comparison({"LSTM": entry(wide, False), "NAG": entry(1.5 * wide, lr=0.1)}))
    learned, baseline = drawn.collections[0], drawn.collections[2]
    assert learned.get_zorder() > baseline.get_zorder()
    colours = [tuple(int(255 * part + 0.5) for part in area.get_facecolor()[0]) for area in (learned, baseline)]
    assert [colour[3] for colour in colours] == [255, 255], "nothing shines through"
    with Image.open(tmp_path / "c.png") as image:
        found, counts = np.unique(np.asarray(image.convert("RGB")).reshape(-1, 3), axis=0, return_counts=True)
    shown = {tuple(colour) for colour in found[counts.argsort()[-3:]].tolist()}
    assert shown == {(255, 255, 255), *(colour[:3] for colour in colours)}


def test_noisy_lines_are_averaged_and_the_axis_says_so(tmp_path, axes):
    losses = torch.logspace(0, -2, 400)[:, None] * (1 + 0.5 * torch.rand(400, 1))
    comparison = Comparison({"LSTM": entry(losses, baseline=False)})
    drawn = axes(tmp_path / "curves.png", comparison)
    assert drawn.get_ylabel() == "Loss (moving average of 11 steps)"
    shown = drawn.lines[0].get_ydata()
    assert shown[200] == pytest.approx(losses[195:206].mean().item(), rel=1e-5)
    comparison.save(tmp_path)
    raw = [float(row.split(",")[2]) for row in (tmp_path / "curves.csv").read_text().splitlines()[1:]]
    np.testing.assert_allclose(raw, losses[:, 0].numpy(), rtol=1e-5)


@pytest.mark.parametrize(("horizon", "marked"), [(10, True), (29, True), (30, False), (100, False), (None, False)])
def test_the_horizon_is_marked_where_a_curve_goes_beyond_it(tmp_path, axes, horizon, marked):
    entries = {"Adam": entry(falling(2.0)), "LSTM": entry(falling(3.0), False)._replace(horizon=horizon)}
    drawn = axes(tmp_path / "curves.png", Comparison(entries))
    assert [text.get_text() for text in drawn.texts] == [f"trained for {horizon} steps"] * marked
    assert [list(line.get_xdata()) for line in drawn.lines[2:]] == [[horizon, horizon]] * marked


def test_two_horizons_say_whose_they_are(tmp_path, axes):
    entries = {name: entry(falling(3.0), False)._replace(horizon=steps) for name, steps in {"a": 20, "b": 10}.items()}
    drawn = axes(tmp_path / "curves.png", Comparison(entries))
    assert [text.get_text() for text in drawn.texts] == ["b: trained for 10 steps", "a: trained for 20 steps"]
    low, high = (text.get_position()[1] for text in drawn.texts)
    assert low < high, "one above the other"


def test_an_axis_is_logarithmic_where_losses_spread(tmp_path, axes):
    near, far = torch.linspace(2.0, 1.5, 30)[:, None], torch.linspace(2.0, 0.1, 30)[:, None]
    scale = lambda losses: axes(tmp_path / "c.png", Comparison({"LSTM": entry(losses, False)})).get_yscale()  # noqa: E731
    assert (scale(near), scale(far), scale(-near)) == ("linear", "log", "linear")


def test_the_file_is_a_png_with_curves_on_it(tmp_path):
    path = plot_curves(Comparison({"LSTM": entry(falling(2.0), baseline=False)}), tmp_path / "curves.png")
    assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    with Image.open(path) as image:
        image.load()
        dark = (np.asarray(image.convert("L")) < 50).sum()
    assert dark > 1000


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_diverging_optimizer_does_not_flatten_the_others(tmp_path, axes, value):
    broken = falling(2.0)
    broken[10:, 1] = value
    exploding = torch.logspace(0, 30, 30)[:, None].expand(-1, 5)
    entries = {"a": entry(broken), "b": entry(exploding), "LSTM": entry(falling(3.0), baseline=False)}
    drawn = axes(tmp_path / "curves.png", Comparison(entries))
    low, high = drawn.get_ylim()
    assert 3e-3 < low < 0.03 and 3 < high < 10  # the others' lowest is 0.02, their highest about 4
    assert np.isnan(drawn.lines[0].get_ydata()).tolist() == [False] * 10 + [True] * 20  # a gap where the mean is none
    assert np.isfinite(drawn.lines[2].get_ydata()).all()


@pytest.mark.parametrize(
    "losses",
    [
        torch.full((30, 5), math.nan),
        torch.full((30, 5), math.inf),
        torch.zeros(30, 5),
        -torch.ones(30, 5),
        torch.ones(30, 1),
        torch.ones(1, 3),
    ],
    ids=["nan", "inf", "zero", "negative", "one task", "one step"],
)
@pytest.mark.parametrize("alone", [True, False])
def test_odd_curves_are_drawn_without_a_warning(tmp_path, losses, alone):
    others = {} if alone else {"LSTM": entry(falling(3.0, len(losses)), baseline=False)}
    path = plot_curves(Comparison({"SGD": entry(losses)} | others), tmp_path / "curves.png")
    assert path.read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize("lowest", [0.5, 0.1, 1e-3, 1e-6, 1e-10])
def test_tick_labels_say_where_the_ticks_are(tmp_path, axes, lowest):
    losses = torch.logspace(1, math.log10(lowest), 30)[:, None].expand(-1, 3)
    drawn = axes(tmp_path / "curves.png", Comparison({"LSTM": entry(losses, baseline=False)}))
    low, high = drawn.get_ylim()
    labelled = 0
    for tick in drawn.yaxis.get_major_ticks() + drawn.yaxis.get_minor_ticks():
        place, text = tick.get_loc(), tick.label1.get_text()
        if low <= place <= high and text:
            assert float(text) == pytest.approx(place, rel=0.01)
            labelled += 1
    assert labelled >= 2


def test_more_optimizers_than_colours(tmp_path, axes):
    entries = {f"{kind} {i}": entry(falling(2.0), kind == "baseline") for i in range(9) for kind in ("baseline", "l")}
    assert len(axes(tmp_path / "curves.png", Comparison(entries)).lines) == 18

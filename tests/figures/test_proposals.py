"""The figure of proposed updates.

Shapes: T steps.
"""

import torch
from matplotlib.figure import Figure

from l2o.evaluation.proposals import Proposals
from l2o.figures.proposals import plot_proposals

T = 12


def test_the_figure_shows_gradients_above_updates(tmp_path, monkeypatch):
    drawn, savefig = [], Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *a, **k: (drawn.append(self), savefig(self, *a, **k)))
    updates = {name: torch.randn(T, 2) for name in ("LSTM", "SGD", "ADAM")}
    shown = Proposals(["w[0]", "b[1]"], torch.randn(T, 2), updates)
    assert plot_proposals(shown, tmp_path / "proposals.png", "a title").read_bytes()[:4] == b"\x89PNG"
    above, below = drawn[0].axes[:2], drawn[0].axes[2:]
    for n in range(2):
        assert above[n].get_title() == shown.coordinates[n]
        assert above[n].lines[0].get_ydata().tolist() == shown.gradients[:, n].tolist()
        for line, values in zip(below[n].lines, updates.values(), strict=False):  # then the axis
            assert line.get_ydata().tolist() == values[:, n].tolist()
    assert [text.get_text() for text in drawn[0].legends[0].get_texts()] == list(updates)

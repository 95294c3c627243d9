"""All figures of a comparison."""

from pathlib import Path

from l2o.evaluation.comparison import Comparison
from l2o.figures.curves import plot_curves
from l2o.figures.panels import plot_panels, save_pictures


def draw(comparison: Comparison, folder: str | Path, title: str = "") -> dict[str, Path]:
    """Write curves.png and, where the optimizee has pictures, panels.png and pictures/. Return the figures by name."""
    folder = Path(folder)
    figures = {"figure": plot_curves(comparison, folder / "curves.png", title)}
    if all(entry.pictures for entry in comparison.entries.values()):
        figures["panels"] = plot_panels(comparison, folder / "panels.png", title)
        save_pictures(comparison, folder / "pictures")
    return figures

"""Pictures that optimizers have painted, side by side: Figure 9 of the paper.

Shapes: a picture is (3, H, W) in [0, 1].
"""

import re
from pathlib import Path

from matplotlib.figure import Figure
from torch import Tensor

from l2o.data import images
from l2o.evaluation.comparison import Comparison
from l2o.figures.palette import readable

RESULT = "theta"
START = "start"


@readable
def plot_panels(comparison: Comparison, path: str | Path, title: str = "") -> Path:
    """Draw a row of pictures for each task that is shown, and return `path`, a PNG.

    A row has what the task came with, the start, and the results of every learned optimizer and of the best baseline,
    all at the same step.
    """
    columns = _columns(comparison)
    rows = min(len(pictures) for pictures in columns.values())
    figure = Figure(figsize=(1.6 * len(columns), 1.7 * rows + 0.4), layout="constrained")
    grid = figure.subplots(rows, len(columns), squeeze=False)
    for place, (name, pictures) in enumerate(columns.items()):
        grid[0, place].set_title(name, fontsize="medium")
        for row in range(rows):
            grid[row, place].imshow(_finite(pictures[row]).permute(1, 2, 0).numpy(), interpolation="nearest")
            grid[row, place].set_axis_off()
    steps = max(len(entry.losses) for entry in comparison.entries.values())
    figure.suptitle(f"{title}, step {steps}".lstrip(", "))
    figure.savefig(path, dpi=160)
    return Path(path)


def save_pictures(comparison: Comparison, folder: str | Path) -> None:
    """Write every picture of the panels, and the results of the other baselines, at full size as `TASK_NAME.png`."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name, pictures in (_given(comparison) | _results(comparison)).items():
        file_name = re.sub(r"[^\w.-]", "_", name)
        for number, picture in enumerate(pictures):
            images.save(_finite(picture), folder / f"{number}_{file_name}.png")


def _columns(comparison: Comparison) -> dict[str, list[Tensor]]:
    hidden = [name for name, entry in comparison.entries.items() if entry.baseline and name != comparison.best_baseline]
    results = {name: pictures for name, pictures in _results(comparison).items() if name not in hidden}
    return _given(comparison) | results


def _given(comparison: Comparison) -> dict[str, list[Tensor]]:
    """Return the pictures that do not depend on the optimizer, the start as the last."""
    pictures = next(iter(comparison.entries.values())).pictures
    given = {name: value for name, value in pictures.items() if name not in (RESULT, START)}
    return given | {START: pictures[START]}


def _results(comparison: Comparison) -> dict[str, list[Tensor]]:
    return {name: entry.pictures[RESULT] for name, entry in comparison.entries.items()}


def _finite(picture: Tensor) -> Tensor:
    """Return a picture that can be shown: nan, which a diverged optimizer leaves, becomes black."""
    return picture.nan_to_num(nan=0.0).clamp(0, 1)

"""Panels of pictures: which columns, which rows, what colours."""

from pathlib import Path
from unittest.mock import MagicMock

import torch
from pytorch_lightning.loggers import TensorBoardLogger, WandbLogger
from torch import Generator
from torch.testing import assert_close

from l2o import figures
from l2o.data import images
from l2o.evaluation.comparison import Comparison, Entry
from l2o.evaluation.curves import learning_curves
from l2o.evaluation.evaluation import SHOWN, Evaluation
from l2o.figures import panels
from l2o.optimizees import Layout, Optimizee
from l2o.optimizers import SGD
from l2o.runs.loggers import log_comparison


class Canvas(Optimizee):
    """f(θ) = ‖θ − c‖²/2, to be seen: SGD with lr paints θ_T = c (1 − (1 − lr)^T) from θ_0 = 0."""

    layout = Layout({"pixels": (3, 2, 4)})

    def sample(self, num_tasks, generator):
        colour = torch.rand(num_tasks, 1, generator=generator).expand(num_tasks, 24)
        return torch.zeros(num_tasks, 24), {"colour": colour}

    def loss(self, theta, batch):
        return (theta - batch["colour"]).square().sum() / 2

    def pictures(self, theta, task):
        return {"colour": list(task["colour"].view(-1, 3, 2, 4)), "theta": list(theta.view(-1, 3, 2, 4))}


def painted(lr: float, num_tasks: int = 2) -> Comparison:
    evaluation = Evaluation(num_tasks=num_tasks, num_steps=3)
    return evaluation({"SGD": SGD(lr), "slow": SGD(lr / 10), "a/b": SGD(lr / 2)}, Canvas())


def test_curves_carry_pictures_of_the_start_and_the_end() -> None:
    curves = learning_curves(SGD(0.5), Canvas(), 2, 3, Generator().manual_seed(0))
    colour = torch.stack(curves.pictures["colour"])
    assert_close(torch.stack(curves.pictures["start"]), torch.zeros(2, 3, 2, 4))
    assert_close(torch.stack(curves.pictures["theta"]), colour * (1 - 0.5**3))


def test_only_the_first_pictures_are_kept() -> None:
    entry = painted(0.5, num_tasks=SHOWN + 3).entries["SGD"]
    assert entry.losses.shape[1] == SHOWN + 3
    assert {len(pictures) for pictures in entry.pictures.values()} == {SHOWN}


def test_columns_are_the_task_the_start_learned_optimizers_and_the_best_baseline() -> None:
    comparison = painted(0.5)
    learned = comparison.entries["slow"]._replace(baseline=False)
    columns = panels._columns(Comparison({**comparison.entries, "LSTM": learned}))
    assert list(columns) == ["colour", "start", "SGD", "LSTM"]
    assert torch.equal(columns["LSTM"][1], comparison.entries["slow"].pictures["theta"][1])


def test_every_picture_is_saved_at_its_full_size(tmp_path: Path) -> None:
    comparison = painted(0.5)
    drawn = figures.draw(comparison, tmp_path, "canvas")
    assert {name: path.name for name, path in drawn.items()} == {"figure": "curves.png", "panels": "panels.png"}
    names = {f"{task}_{name}.png" for task in (0, 1) for name in ("colour", "start", "SGD", "slow", "a_b")}
    assert {path.name for path in (tmp_path / "pictures").iterdir()} == names
    saved = images.read(tmp_path / "pictures/1_SGD.png") / 255
    assert_close(saved, comparison.entries["SGD"].pictures["theta"][1], rtol=0, atol=0.5 / 255)
    assert images.read(drawn["panels"]).shape[2] > images.read(drawn["panels"]).shape[1]  # 5 columns, 2 rows


def test_a_diverged_picture_is_drawn_black(tmp_path: Path) -> None:
    broken = Entry(torch.ones(2, 1), {}, baseline=True, pictures={
        "theta": [torch.full((3, 2, 2), torch.nan)], "start": [torch.ones(3, 2, 2)]})  # fmt: skip
    figures.draw(Comparison({"SGD": broken}), tmp_path)
    assert images.read(tmp_path / "pictures/0_SGD.png").max() == 0


def test_without_pictures_there_are_curves_alone(tmp_path: Path) -> None:
    entry = Entry(torch.ones(2, 1), {}, baseline=True)
    assert list(figures.draw(Comparison({"SGD": entry}), tmp_path)) == ["figure"]
    assert not (tmp_path / "pictures").exists()


def test_panels_go_to_the_loggers(tmp_path: Path) -> None:
    comparison = painted(0.5)
    drawn = figures.draw(comparison, tmp_path)
    board, wandb = MagicMock(spec=TensorBoardLogger), MagicMock(spec=WandbLogger)
    log_comparison([board, wandb], comparison, drawn)
    for shown in (board.experiment.add_image, wandb.log_image):
        assert [call.args[0] for call in shown.call_args_list] == ["figure", "panels"]

"""Exported folders, checkpoints and published weights that are damaged at random: one line, never a traceback."""

import json
import random

import numpy as np
import pytest
import torch

from l2o.deploy import export
from l2o.deploy.import_published import from_published
from l2o.optimizers import LSTM, SGD, LogAndSign, Partitioned

VALUES = (
    None,
    True,
    -1,
    0,
    1e308,
    float("nan"),
    "",
    "\x1b[2J",
    "LSTM",
    [],
    [[]],
    {},
    {"class": "LSTM"},
    {"float": "x"},
)


def damaged(content: bytes, draw: random.Random) -> bytes:
    """Cut off, with bytes changed, with a piece left out or repeated."""
    start, stop = sorted(draw.randrange(len(content) + 1) for _ in range(2))
    kind = draw.randrange(4)
    if kind == 0:
        return content[:start]
    if kind == 1:
        return content[:start] + content[stop:]
    if kind == 2:
        return content[:stop] + content[start:]
    return bytes(draw.randrange(256) if draw.random() < 0.02 else byte for byte in content)


def changed(value, draw: random.Random):
    """A JSON value with something else in one place of it."""
    if draw.random() < 0.2 or not isinstance(value, dict | list) or not value:
        return draw.choice(VALUES)
    if isinstance(value, list):
        index = draw.randrange(len(value))
        return [changed(item, draw) if i == index else item for i, item in enumerate(value)]
    key = draw.choice(list(value))
    return {
        ("\x1b[2J" if k == key and draw.random() < 0.1 else k): (changed(v, draw) if k == key else v)
        for k, v in value.items()
    }


def answered(read, path) -> None:
    """It is read, or refused by a ValueError of one printable line."""
    try:
        read(path)
    except ValueError as error:
        assert str(error).isprintable() and str(error), repr(str(error))


@pytest.mark.parametrize("seed", range(60))
def test_every_damage_is_answered_in_one_line(tmp_path, seed):
    draw = random.Random(seed)
    rule = Partitioned({"conv": LSTM(LogAndSign(3), hidden_size=2), "fc": SGD(0.1)}, {"conv": "c", "fc": "f"})
    folder = export.save(rule, tmp_path / "it", {"name": "it"})
    for name in ("config.json", "model.safetensors"):
        intact = (folder / name).read_bytes()
        (folder / name).write_bytes(damaged(intact, draw))
        answered(export.load, folder)
        (folder / name).write_bytes(intact)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(changed(config, draw)))
    answered(export.load, folder)
    saved = {"rule": json.dumps(changed(config["rule"], draw)), "best_phi": rule.state_dict()}
    torch.save({"l2o": saved}, tmp_path / "a.ckpt")
    answered(export.load, tmp_path / "a.ckpt")
    (tmp_path / "a.ckpt").write_bytes(damaged((tmp_path / "a.ckpt").read_bytes(), draw))
    answered(export.load, tmp_path / "a.ckpt")


@pytest.mark.parametrize("seed", range(40))
def test_every_damage_of_published_weights_is_answered_in_one_line(tmp_path, seed):
    draw = random.Random(seed)
    shapes = {"linear/w": (3, 1), "linear/b": (1,), "lstm_1/w_gates": (5, 12), "lstm_1/b_gates": (12,)}
    arrays = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    victim = draw.choice(list(arrays))
    shape = tuple(draw.randrange(4) for _ in range(draw.randrange(4)))
    arrays[victim] = draw.choice(
        [np.zeros(shape), np.full(shape, "a"), np.zeros(shape, bool), np.zeros(shape, complex)]
    )
    np.savez(tmp_path / "a.npz", **arrays)
    answered(from_published, tmp_path / "a.npz")
    (tmp_path / "a.npz").write_bytes(damaged((tmp_path / "a.npz").read_bytes(), draw))
    answered(from_published, tmp_path / "a.npz")

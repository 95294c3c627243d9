"""Datasets in other sizes, and texts."""

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from l2o.data import Dataset, averaged, digits, images_or_digits, text
from l2o.data.texts import SONNETS


def dataset(x):
    return Dataset(x, torch.zeros(len(x), dtype=torch.long), x[:1], torch.zeros(1, dtype=torch.long))


def test_a_side_that_divides_gives_means_of_squares():
    x = torch.rand(5, 6, 6)
    expected = x.reshape(5, 3, 2, 3, 2).mean((2, 4))
    found = averaged(dataset(x), 3)
    assert_close(found.x_train, expected)
    assert_close(found.x_test, expected[:1])


def test_colours_are_averaged_each_for_itself():
    x = torch.rand(5, 4, 4, 3)
    found = averaged(dataset(x), 2).x_train
    assert found.shape == (5, 2, 2, 3)
    assert_close(found[..., 1], averaged(dataset(x[..., 1]), 2).x_train)


def test_a_side_that_does_not_divide_shares_pixels():
    found = averaged(dataset(torch.arange(9.0).reshape(1, 3, 3)), 2).x_train
    assert_close(found, torch.tensor([[[2.0, 3.0], [5.0, 6.0]]]))


def test_bytes_stay_bytes_and_are_rounded():
    found = averaged(dataset(torch.tensor([[[0, 255], [255, 0]]], dtype=torch.uint8)), 1).x_train
    assert found.dtype == torch.uint8 and found.item() == 128


def test_more_images_than_are_averaged_at_once(monkeypatch):
    x = torch.rand(5, 4, 4)
    whole = averaged(dataset(x), 2)
    monkeypatch.setattr("l2o.data.sizes.AT_ONCE", 2)
    assert torch.equal(averaged(dataset(x), 2).x_train, whole.x_train)


@pytest.mark.parametrize(("shape", "side"), [((3, 4, 4), 5), ((3, 4, 4), 0), ((3, 16), 2)], ids=str)
def test_sides_that_cannot_be_are_refused(shape, side):
    with pytest.raises(ValueError, match="cannot be averaged to"):
        averaged(dataset(torch.rand(shape)), side)


def test_without_a_path_the_digits_are_read():
    found = images_or_digits()
    assert all(torch.equal(*pair) for pair in zip(found, digits(), strict=True))
    assert images_or_digits(side=4).x_train.shape[1:] == (4, 4)


def test_the_first_images_of_a_file_are_kept(tmp_path):
    x = np.arange(40, dtype=np.uint8).reshape(10, 2, 2)
    np.savez(tmp_path / "data.npz", x_train=x, y_train=np.arange(10) % 2, x_test=x, y_test=np.arange(10) % 2)
    found = images_or_digits(str(tmp_path / "data.npz"), train_fraction=0.8)
    assert found.x_train.flatten().tolist() == [*range(32)] and len(found.y_train) == 8
    assert len(found.x_test) == len(found.y_test) == 10
    for fraction in (0.0, 0.01, 1.5):
        with pytest.raises(ValueError, match="train_fraction must keep at least one"):
            images_or_digits(str(tmp_path / "data.npz"), train_fraction=fraction)


def test_the_text_of_the_package_is_twenty_kilobytes_of_plain_verse():
    read = SONNETS.read_bytes()
    assert len(read) > 20_000 and max(read) < 128
    found = text()
    assert bytes(torch.cat(found).tolist()) == read
    assert len(found.test) / len(read) == pytest.approx(0.1, abs=1e-3)


def test_any_file_is_read_as_bytes(tmp_path):
    (tmp_path / "text.txt").write_text("θ ist ein Buchstabe. " * 60, encoding="utf-8")
    found = text(str(tmp_path / "text.txt"), test_fraction=0.25)
    assert bytes(found.train[:3].tolist()).decode() == "θ "
    assert found.train.dtype == torch.int64 and len(found.test) == round(0.25 * 22 * 60)


@pytest.mark.parametrize(
    ("content", "arguments", "says"),
    [
        (None, {}, "no text at"),
        (b"short", {}, "holds 5 bytes: .* at least 1000"),
        (b"x" * 2000, {"test_fraction": 1.0}, "between 0 and 1, got 1.0"),
    ],
)
def test_texts_that_cannot_be_are_refused(tmp_path, content, arguments, says):
    if content is not None:
        (tmp_path / "text.txt").write_bytes(content)
    with pytest.raises(ValueError, match=says):
        text(str(tmp_path / "text.txt"), **arguments)
    with pytest.raises(ValueError, match="which is a folder"):
        text(str(tmp_path))

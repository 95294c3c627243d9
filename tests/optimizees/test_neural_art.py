"""Neural art, against its definition written out in loops.

Shapes: B tasks, P = 3·H·W coordinates.
"""

import re

import pytest
import torch
from PIL import Image
from torch import Generator
from torch.testing import assert_close

from l2o.data import memory
from l2o.optimizees import NeuralArt
from l2o.optimizees.features import MEAN, STD

pytestmark = pytest.mark.usefixtures("float64")

LAYERS = {"content_layers": ["fire2"], "style_layers": ["conv1_1", "fire3"]}


@pytest.fixture
def folder(tmp_path):
    """Six pictures of 18×20, each of one grey by which it is known: 40, 41, …; styles of 24×24."""
    for place, count, size in (("contents", 6, (20, 18)), ("styles", 2, (24, 24))):
        (tmp_path / place).mkdir()
        for number in range(count):
            Image.new("RGB", size, (40 + number,) * 3).save(tmp_path / place / f"{number}.png")
    return tmp_path


@pytest.fixture
def art():
    """scikit-learn's photographs."""
    return NeuralArt(**LAYERS, size=16, content_side=24, style_side=20, init_std=0.3)


def art_of(folder, **changes):
    given = {"content": str(folder / "contents"), "style": str(folder / "styles" / "0.png"), "size": 16}
    return NeuralArt(**LAYERS | given | {"style_side": 16} | changes)


def problem(art, num_tasks, seed=0):
    return art.sample(num_tasks, Generator().manual_seed(seed))


def oracle(art, theta, content, style):
    """f(θ) of one task from its definition: θ (P,), content (3, H, W) and style (3, H', W') in [0, 1]."""
    mean, std = torch.tensor(MEAN).view(3, 1, 1), torch.tensor(STD).view(3, 1, 1)
    picture = theta.view(3, art.height, art.width)
    found, wanted, painted = (art.features(x[None]) for x in (picture, (content - mean) / std, (style - mean) / std))
    content_loss = 0.0
    for name in art.content_layers:
        difference = (found[name] - wanted[name]).flatten()
        content_loss += difference.dot(difference) / wanted[name].flatten().dot(wanted[name].flatten())
    style_loss = 0.0
    for name in art.style_layers:
        error, size = 0.0, 0.0
        mine, theirs = found[name][0], painted[name][0]
        for channel in range(len(mine)):
            row, wanted_row = ((x[channel] * x).mean((1, 2)) for x in (mine, theirs))
            error, size = error + ((row - wanted_row) ** 2).sum(), size + (wanted_row**2).sum()
        style_loss += error / size
    down = sum(((picture[:, i + 1] - picture[:, i]) ** 2).sum() for i in range(art.height - 1))
    right = sum(((picture[:, :, j + 1] - picture[:, :, j]) ** 2).sum() for j in range(art.width - 1))
    smoothness = down / (3 * (art.height - 1) * art.width) + right / (3 * art.height * (art.width - 1))
    loss = art.content_weight * content_loss / len(art.content_layers)
    loss += art.style_weight * style_loss / len(art.style_layers) + art.smoothness_weight * smoothness
    return loss * art.height * art.width / 4096


def test_losses_are_those_of_the_definition(art):
    theta, task = problem(art, 2)
    shown = art.pictures(theta, task)
    with torch.no_grad():
        expected = [oracle(art, *each) for each in zip(theta, shown["content"], shown["style"], strict=True)]
    assert_close(art.losses(theta, task), torch.stack(expected))


def test_every_task_is_judged_by_its_own_style(folder):
    for number, colour in enumerate(("red", "blue")):
        Image.new("RGB", (16, 16), colour).save(folder / "styles" / f"{number}.png")
    art = art_of(folder, style=str(folder / "styles"))
    theta, task = problem(art, 6)
    assert set(task["style"].tolist()) == {0, 1}
    shown = art.pictures(theta, task)
    expected = [oracle(art, *each) for each in zip(theta, shown["content"], shown["style"], strict=True)]
    assert_close(art.losses(theta, task), torch.stack(expected))


def test_a_batch_equals_the_loop_over_tasks(art):
    theta, task = problem(art, 3)
    losses, grads = art.loss_and_grad(theta, task)
    for number in range(3):
        one = {key: value[number] for key, value in task.items()}
        theta_i = theta[number].clone().requires_grad_()
        loss = art.loss(theta_i, one)
        (grad,) = torch.autograd.grad(loss, theta_i)
        assert_close(losses[number], loss.detach())
        assert_close(grads[number], grad)


def test_the_gradient_is_that_of_finite_differences(art):
    theta, task = problem(art, 2)
    _, grad = art.loss_and_grad(theta, task)
    direction = torch.randn(theta.shape)
    step = 1e-6 * direction
    slope = (art.losses(theta + step, task) - art.losses(theta - step, task)) / 2e-6
    assert_close((grad * direction).sum(1), slope, rtol=1e-5, atol=0)


def test_the_losses_vanish_where_they_should(folder):
    """L_content at the content, L_style at the style, L_reg on a flat picture: all three at a flat style of itself."""
    art = art_of(folder, content=str(folder / "styles" / "0.png"), init_std=0.0)
    theta, task = problem(art, 1)
    assert_close(art.losses(theta, task), torch.zeros(1), rtol=0, atol=1e-20)
    assert art.losses(theta + 0.1, task) > 0


def test_a_pixels_gradient_does_not_depend_on_the_pictures_size(folder):
    """A picture tiled twice: far from the border, every pixel has the gradient that it had."""
    stripes = torch.arange(64).remainder(8).mul(30).byte().expand(64, 64)
    Image.fromarray(stripes.numpy()).convert("RGB").save(folder / "stripes.png")
    middles = []
    for size in (32, 64):
        art = art_of(folder, content=str(folder / "stripes.png"), size=size, init_std=0.0, style_layers=["conv1_1"])
        _, task = problem(art, 1)
        aligned = art._normalised(torch.as_tensor(stripes[:size, :size]).expand(1, 3, size, size))
        found = art.features(aligned)
        _, grad = art.loss_and_grad(aligned.flatten(1), task | {"fire2": found["fire2"]})
        middles.append(grad.view(3, size, size)[:, 12:20, 12:20].norm())
    assert_close(middles[0], middles[1], rtol=0.1, atol=0)


# ----------------------------------------------------------------------------------------------------------- tasks


def greys(art, num_tasks, seed=0):
    theta, task = problem(art, num_tasks, seed)
    return [round(255 * picture[0, 0, 0].item()) for picture in art.pictures(theta, task)["content"]]


def test_splits_share_no_content_and_all_contents_come(folder):
    art = art_of(folder, validation=1, test=2)
    found = {name: greys(art.split(name), 12) for name in ("train", "validation", "test")}
    assert sorted(grey for part in found.values() for grey in set(part)) == [40, 41, 42, 43, 44, 45]
    assert {name: len(set(part)) for name, part in found.items()} == {"train": 3, "validation": 1, "test": 2}
    assert greys(art, 12) == found["train"], "by itself it gives the train split"


def test_no_content_comes_twice_before_all_have_come_once(folder):
    art = art_of(folder, validation=1, test=2)
    for seed in range(5):
        drawn = greys(art, 6, seed)
        assert len(set(drawn[:3])) == len(set(drawn[3:])) == 3


def test_theta_0_is_the_content_with_noise(folder):
    art = art_of(folder, init_content=0.5, init_std=0.2)
    theta, task = problem(art, 40)
    noise = theta - 0.5 * task["content"].flatten(1)
    assert_close(noise.std(), torch.tensor(0.2), rtol=0.02, atol=0)
    assert abs(noise.mean()) < 0.01


def test_a_task_depends_on_the_generator_alone(art):
    first, again, other = problem(art, 2, 7), problem(art, 2, 7), problem(art, 2, 8)
    assert torch.equal(first[0], again[0])
    assert not torch.equal(first[1]["content"], other[1]["content"])


def test_a_whole_picture_of_any_size_is_taken(folder):
    art = art_of(folder, content=str(folder / "contents" / "3.png"), size=None, content_side=None)
    theta, task = problem(art, 1)
    assert theta.shape == (1, 3 * 18 * 20)
    assert art.pictures(theta, task)["theta"][0].shape == (3, 18, 20)
    assert art_of(folder, size=[16, 18]).layout.shapes == {"pixels": (3, 16, 18)}


def test_pictures_show_theta_within_what_a_screen_can(art):
    theta, task = problem(art, 2)
    shown = art.pictures(theta, task)["theta"]
    colours = theta.view(2, 3, 16, 16) * torch.tensor(STD).view(3, 1, 1) + torch.tensor(MEAN).view(3, 1, 1)
    assert_close(torch.stack(shown), colours.clamp(0, 1))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"size": 32}, "0.png' of 18×20 is smaller than the crop of 32×32"),
        ({"style_side": 32}, "0.png' of 24×24 is smaller than optimizee.style_side=32"),
        ({"validation": 20, "test": 100}, "6 pictures do not split"),
        ({"content": "missing.png"}, "no picture at 'missing.png'"),
        ({"content": "{folder}"}, "no pictures in the folder"),
        ({"style": "{folder}/text.png"}, "no intact picture"),
        ({"weights": "missing.pth"}, "no weights at 'missing.pth'"),
        ({"content_layers": ["fire99"]}, "no layer fire99"),
        (
            {"size": [3, 16]},
            "a picture of 3×16 is too small: the layers of squeezenet1_1 need pictures of at least",
        ),
        ({"style_side": 4}, "of 4×4 is too small: the layers of squeezenet1_1 need pictures of at least 5×5 pixels"),
        ({"style_side": None, "style": "{folder}/strip.png"}, "'{folder}/strip.png' of 3×400 is too small: the layers"),
        (
            {"size": None, "content": "{folder}/strip.png"},
            "a picture of 3×400 is too small: the layers of squeeze",
        ),
        ({"size": [16, 16, 3]}, "optimizee.size must be a positive number, [height, width] or null, got [16, 16, 3]"),
        ({"size": 0}, "optimizee.size must be a positive number"),
        ({"content_side": 0}, "optimizee.content_side must be at least 1, got 0"),
        ({"style_side": -1}, "optimizee.style_side must be at least 1, got -1"),
        ({"size": None, "content": ["{folder}/contents", "{folder}/styles"]}, "of 2 different sizes"),
    ],
)
def test_a_mistake_is_answered_in_one_line(folder, changes, says):
    (folder / "text.png").write_text("no picture")
    Image.new("RGB", (400, 3)).save(folder / "strip.png")
    if says.startswith("no pictures in"):
        (folder / "text.png").unlink()
        (folder / "strip.png").unlink()
    fill = lambda value: value.format(folder=folder) if isinstance(value, str) else value  # noqa: E731
    given = {
        key: [fill(v) for v in value] if isinstance(value, list) else fill(value) for key, value in changes.items()
    }
    with pytest.raises(ValueError, match=re.escape(fill(says))) as error:
        art_of(folder, **given)
    assert "\n" not in str(error.value)


GB = 10**9


@pytest.fixture
def large(folder):
    """A content and a style of four megapixels each."""
    Image.new("RGB", (2000, 2000), "red").save(folder / "large.png")
    return folder


def test_a_content_too_large_to_be_optimized_is_refused_with_the_remedy(large, monkeypatch):
    """The whole picture takes some 11 GB in float32 (measured: 2.9 for each megapixel); reduced, it is taken."""
    torch.set_default_dtype(torch.float32)
    monkeypatch.setattr(memory, "free", lambda: 5 * GB)
    given = {"content": str(large / "large.png"), "size": None}
    says = (
        r"optimizing a picture of 2000×2000 needs some 1[0-3]\.\d GB of memory, and 5\.0 GB are free: reduce it, with"
    )
    with pytest.raises(ValueError, match=says + " optimizee.content_side=1000 or less$"):
        art_of(large, **given, content_side=None)
    assert art_of(large, **given, content_side=200).layout.size == 3 * 200 * 200
    assert art_of(large, **given | {"size": 64}, content_side=None).layout.size == 3 * 64 * 64, "a crop is what counts"


def test_a_style_too_large_for_the_network_is_refused_with_the_remedy(large, monkeypatch):
    monkeypatch.setattr(memory, "free", lambda: GB // 2)
    says = r"the style '.*large\.png' of 2000×2000 needs some .* GB .*: set optimizee\.style_side=256$"
    with pytest.raises(ValueError, match=says):
        art_of(large, style=str(large / "large.png"), style_side=None)
    assert art_of(large, style=str(large / "large.png"), style_side=64).layout.size == 3 * 16 * 16


def test_the_free_memory_is_asked_again_on_the_device(folder, monkeypatch):
    art = art_of(folder)
    monkeypatch.setattr(memory, "free", lambda: 10**4)
    with pytest.raises(ValueError, match=r"optimizing a picture of 16×16 needs some .*content_side=1000"):
        art.to("cpu")

"""Autoencoders and models of characters: their losses by hand, their minibatches, and what does not fit.

Shapes: N examples of a minibatch, T letters of a piece.
"""

import pytest
import torch
from torch import Generator, nn
from torch.nn import functional as F
from torch.testing import assert_close

from l2o.data import Dataset, Text
from l2o.optimizees import Autoencoder, CharGRU, CharTransformer, LanguageModel, mlp

pytestmark = pytest.mark.usefixtures("float64")

ALPHABET = Text(torch.arange(100) % 50, 60 + torch.arange(40) % 20)


def loaded(optimizee, theta):
    nn.utils.vector_to_parameters(theta, optimizee.network.parameters())
    return optimizee.network


def test_an_autoencoder_s_loss_is_that_of_sigmoid_and_mean_square(dataset):
    optimizee = Autoencoder(mlp(16, [3], 16, "relu"), dataset, batch_size=6)
    generator = Generator().manual_seed(0)
    theta, task = optimizee.sample(3, generator)
    batch = optimizee.sample_batch(task, 3, generator)
    losses = optimizee.losses(theta, batch)
    metrics = optimizee.metrics(theta, task)["test_loss"]
    for b in range(3):
        with torch.no_grad():
            network = loaded(optimizee, theta[b])
            x, x_test = batch["x"][b], dataset.x_test.double() / 255
            assert_close(losses[b], F.mse_loss(network(x).sigmoid(), x.flatten(1)))
            assert_close(metrics[b], F.mse_loss(network(x_test).sigmoid(), x_test.flatten(1)))
    pixels = (optimizee.sample_test_batch(task, 3, generator)["x"] * 255).round()
    assert (pixels % 2 == 1).all(), "test pixels are odd"


def test_a_large_test_split_of_an_autoencoder_is_measured_in_pieces(dataset, monkeypatch):
    optimizee = Autoencoder(mlp(16, [3], 16), dataset)
    theta, task = optimizee.sample(2, Generator().manual_seed(0))
    whole = optimizee.metrics(theta, task)
    monkeypatch.setattr("l2o.optimizees.autoencoder.TEST_IMAGES", 7)
    assert_close(optimizee.metrics(theta, task), whole)


def test_pieces_of_a_text_and_the_letters_that_follow():
    optimizee = LanguageModel(CharGRU(3, 2, letters=80), ALPHABET, batch_size=500, length=5)
    generator = Generator().manual_seed(0)
    batch = optimizee.sample_batch({}, 2, generator)
    assert batch["x"].shape == batch["y"].shape == (2, 500, 5)
    assert torch.equal(batch["y"], (batch["x"] + 1) % 50)
    assert {*batch["x"][..., 0].flatten().tolist()} == {*range(50)}, "every start is drawn, and the test split never"
    assert (optimizee.sample_test_batch({}, 2, generator)["x"] >= 60).all()


def test_the_loss_of_a_text_is_the_mean_over_all_letters():
    optimizee = LanguageModel(CharTransformer(4, 1, 2, 5, letters=80), ALPHABET, batch_size=3, length=5)
    generator = Generator().manual_seed(0)
    theta, task = optimizee.sample(2, generator)
    batch = optimizee.sample_batch(task, 2, generator)
    losses = optimizee.losses(theta, batch)
    for b in range(2):
        with torch.no_grad():
            chances = loaded(optimizee, theta[b])(batch["x"][b]).log_softmax(-1)
            assert_close(losses[b], -chances.gather(-1, batch["y"][b][..., None]).mean())
    assert_close(optimizee.losses(torch.zeros_like(theta), batch), torch.full((2,), 80.0).log())
    pieces = ALPHABET.test.unfold(0, 6, 1)
    with torch.no_grad():
        expected = F.cross_entropy(optimizee.network(pieces[:, :-1]).flatten(0, 1), pieces[:, 1:].flatten())
    assert_close(optimizee.metrics(theta, task)["test_loss"][1], expected)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (
            lambda data: Autoencoder(mlp(16, [3], 15), data),
            r"gives \(15,\) outputs .*out_features to 16",
        ),
        (lambda data: Autoencoder(mlp(9, [3], 16), data), "does not take this dataset's images.* to match: 16"),
        (lambda data: LanguageModel(CharGRU(3, 2, letters=70), ALPHABET, length=5), "need .5, 80. or more"),
        (lambda data: LanguageModel(CharGRU(3, 2), ALPHABET, length=40), "below the 40 letters of a split, got 40"),
        (lambda data: LanguageModel(CharGRU(3, 2), ALPHABET, length=0), "at least 1"),
        (lambda data: LanguageModel(CharTransformer(4, 1, 2, 4), ALPHABET, length=5), "has 4 positions, got 5 letters"),
        (lambda data: LanguageModel(CharGRU(3, 2), data), "learns a text, got Dataset: choose dataset=text"),
        (lambda data: Autoencoder(mlp(16, [3], 16), ALPHABET), "learns a Dataset, got Text: choose dataset=digits"),
        (lambda data: LanguageModel(CharGRU(3, 2), ALPHABET, batch_size=0), "batch_size must be >= 1"),
    ],
)
def test_what_does_not_fit_is_refused(make, says, dataset):
    with pytest.raises(ValueError, match=says):
        make(dataset)


def test_an_autoencoder_wants_images_between_zero_and_one():
    x = torch.linspace(-1, 1, 16).expand(4, 16)
    y = torch.zeros(4, dtype=torch.long)
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\]"):
        Autoencoder(mlp(16, [2], 16), Dataset(x, y, x, y))

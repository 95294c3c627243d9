"""Distributions of optimizees: what is drawn lies in the ranges, differs, and is decided by the seed alone."""

from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from torch import Generator, nn

from l2o.data import Dataset, digits, text
from l2o.optimizees import (
    Autoencoder,
    Classifier,
    LanguageModel,
    LeastSquares,
    MatrixFactorisation,
    NoisyQuadratic,
    Optimizee,
)
from l2o.optimizees.distributions import AutoencoderImages, ConvImages, MLPImages, drawn, log_uniform, uniform
from l2o.optimizees.generated_distributions import CharGRUs, LogisticRegressions, Quadratics, Regressions
from l2o.optimizees.held_out import refuse_held_out

CONF = Path(__file__).parents[2] / "conf"


@pytest.fixture(scope="module")
def images() -> Dataset:
    return digits()


def distribution(name: str, images: Dataset):
    """A family's distribution, as its file in conf/family describes it."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose(overrides=["+dataset=digits", f"+family={name}"])
    assert cfg.family.sample_optimizee.count == 16
    return instantiate(cfg.family.sample_optimizee.make)


FAMILIES = sorted(path.stem for path in (CONF / "family").glob("*.yaml") if "distributions." in path.read_text())


def architecture(optimizee: Optimizee) -> tuple:
    network = vars(optimizee).get("network")
    kinds = [type(module).__name__ for module in network.modules()] if network else []
    settings = (getattr(optimizee, name, None) for name in ("batch_size", "init", "length", "num_points", "noise"))
    return str(optimizee.layout.shapes), tuple(kinds), tuple(settings)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_shipped_family_draws_sixteen_that_work_and_are_not_held_out(name: str, images: Dataset) -> None:
    """They differ, the seed alone decides, the first loss is that of a start, and none is held out of training."""
    make = distribution(name, images)
    optimizees, again, others = drawn(make), drawn(make), drawn(make, seed=1)
    found = [architecture(optimizee) for optimizee in optimizees]
    assert len(found) == 16 and len(set(found)) >= 14
    assert found == [architecture(optimizee) for optimizee in again]
    assert found != [architecture(optimizee) for optimizee in others]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        held_out = compose(overrides=["+suite=held_out"]).suite.held_out
    refuse_held_out({name: optimizees}, held_out)
    for optimizee in optimizees[:5]:
        generator = Generator().manual_seed(0)
        theta, task = optimizee.sample(2, generator)
        losses, grads = optimizee.loss_and_grad(theta, optimizee.sample_batch(task, 2, generator))
        assert losses.isfinite().all() and (grads.abs().sum(1) > 0).all()


def test_mlps_lie_in_their_ranges(images: Dataset) -> None:
    optimizees = drawn(MLPImages(images, widths=(8, 16), depths=(0, 2), sides=(4, 14), batch_sizes=(32, 40)), 60)
    depths, sides = set(), set()
    for optimizee in optimizees:
        assert isinstance(optimizee, Classifier)
        linear = [module for module in optimizee.network.modules() if isinstance(module, nn.Linear)]
        depths.add(len(linear) - 1)
        sides.add(round(linear[0].in_features ** 0.5))
        assert all(8 <= layer.out_features <= 16 for layer in linear[:-1]) and linear[-1].out_features == 10
        assert 32 <= optimizee.batch_size <= 40 and optimizee.init_std == (0.01, 0.2)
    assert depths == {0, 1, 2}
    assert sides == {4, 5, 6, 7, 8}, "digits have 8 pixels a side"
    assert {optimizee.init for optimizee in optimizees} == {"torch", "normal", "orthogonal"}  # type: ignore[attr-defined]


def test_images_of_one_side_are_shared(images: Dataset) -> None:
    optimizees = drawn(MLPImages(images, sides=(4, 5)), 20)
    assert len({optimizee.dataset.x_train.data_ptr() for optimizee in optimizees}) == 2  # type: ignore[attr-defined]


def test_autoencoders_are_symmetric(images: Dataset) -> None:
    for optimizee in drawn(AutoencoderImages(images), 8):
        assert isinstance(optimizee, Autoencoder)
        linear = [module for module in optimizee.network.modules() if isinstance(module, nn.Linear)]
        sizes = [linear[0].in_features, *(layer.out_features for layer in linear)]
        assert sizes == sizes[::-1] and len(sizes) in (3, 5) and min(sizes) == sizes[len(sizes) // 2]


def test_regressions_differ_in_size_noise_and_batch(images: Dataset) -> None:
    found = drawn(Regressions(dims=(5, 100), condition=(1, 1e4), noise=(0.03, 0.3), batch_sizes=(16, 128)), 40)
    assert all(isinstance(one, LeastSquares) and one.condition == (1, 1e4) for one in found)
    assert {one.noise for one in found} == {0.03, 0.3}
    assert all(5 <= one.dim <= 100 and 16 <= one.batch_size <= 128 for one in found)
    assert len({one.dim for one in found}) > 15 and len({one.batch_size for one in found}) > 15


def test_numbers_are_drawn_to_both_ends() -> None:
    generator = Generator().manual_seed(0)
    assert {uniform((3, 5), generator) for _ in range(100)} == {3, 4, 5}
    values = torch.tensor([log_uniform((8, 128), generator) for _ in range(2000)])
    assert values.min() == 8 and values.max() in (126, 127, 128)
    assert abs((values <= 32).double().mean() - 0.5) < 0.04, "half of them below the geometric mean"


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda images: MLPImages(images, widths=(16, 8)), r"widths must be \[low, high\].*got \[16, 8\]"),
        (lambda images: MLPImages(images, depths=(-1, 2)), "depths must be"),
        (lambda images: ConvImages(images, batch_sizes=(0, 2)), "batch_sizes must be"),
        (lambda images: AutoencoderImages(images, sides=(9, 14)), "have 8 pixels a side.*wants 9 or more"),
        (lambda images: Quadratics(dims=(0, 2)), "dims must be"),
        (lambda images: Regressions(batch_sizes=(0, 2)), "batch_sizes must be"),
        (lambda images: Regressions(noise=()), "noise must be a list of at least one value"),
        (lambda images: LogisticRegressions(classes=(1, 2)), "classes must be .* from 2 on"),
        (lambda images: CharGRUs(text(), lengths=(1.5, 2)), "lengths must be"),
        (lambda images: CharGRUs(text(), inits=()), r"inits must be a list of at least one value .* got \(\)"),
        (lambda images: LogisticRegressions(margins=()), "margins must be a list"),
        (lambda images: MLPImages(images, inits="normal"), "inits must be a list .* got 'normal'"),
        (lambda images: MLPImages(images, activations=[]), "activations must be a list"),
        (lambda images: ConvImages(images, width=(4, 8)), "ConvImages has no setting width; .* sides, batch_sizes"),
        (
            lambda images: drawn(MLPImages(images, init_std=[0.1])),
            r"init_std must be a number or a range \[low",
        ),
    ],
)
def test_bad_ranges_are_refused(make, says: str, images: Dataset) -> None:
    with pytest.raises(ValueError, match=says):
        make(images)


@pytest.mark.parametrize("experiment", ["general", "families_small"])
def test_the_runs_of_general_optimizers_refuse_what_the_suites_hold_out(experiment: str) -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        held_out = compose(overrides=["+suite=held_out"]).suite.held_out
        assert compose("train", overrides=[f"experiment={experiment}"]).learner.held_out == held_out


def test_a_family_with_something_held_out_is_refused() -> None:
    held_out = [["matrix factorisation"], ["embedding", "recurrence"]]
    good = [NoisyQuadratic(3)]
    refuse_held_out({"quadratics": good}, held_out)
    with pytest.raises(ValueError, match=r"family 'q' .* optimizee 1 \(MatrixFactorisation\) has matrix factor"):
        refuse_held_out({"q": [*good, MatrixFactorisation()]}, held_out)
    with pytest.raises(ValueError, match=r"LanguageModel.*embedding with recurrence"):
        refuse_held_out({"harmless name": drawn(CharGRUs(text()), 1)}, held_out)
    assert isinstance(drawn(CharGRUs(text()), 1)[0], LanguageModel)

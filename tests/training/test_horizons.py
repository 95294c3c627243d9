"""How long episodes are: what is drawn, the curriculum's stages, whole windows, refusals."""

import math

import pytest
import torch

from l2o.training.horizons import Curriculum, Fixed, Horizon, LogUniform, Progress, Uniform, as_horizon, in_windows

START = Progress(0, 0.0, 0)


def draws(horizon: Horizon, count: int = 4000) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.tensor([horizon(generator, START) for _ in range(count)], dtype=torch.float64)


def test_uniform_is_uniform() -> None:
    found = draws(Uniform(20, 29))
    assert set(found.tolist()) == set(range(20, 30))
    assert found.mean().item() == pytest.approx(24.5, abs=0.2)


def test_log_uniform_has_a_uniform_logarithm() -> None:
    logs = draws(LogUniform(100, 10_000)).log10()
    assert 2 <= logs.min() < 2.01 and 3.99 < logs.max() <= 4
    assert logs.mean().item() == pytest.approx(3, abs=0.03)
    assert (logs < 2.5).double().mean().item() == pytest.approx(0.25, abs=0.03)


def test_log_uniform_of_steps_shares_the_steps_out_evenly() -> None:
    steps = draws(LogUniform(100, 10_000, of="steps"), 40_000)
    assert 100 <= steps.min() < 101 and 7000 < steps.max() <= 10_000
    assert steps.mean().item() == pytest.approx(100 * math.log(100) / 0.99, rel=0.03)  # of the density ~ 1/T²
    for border, part in ((10**2.5, 0.25), (1000, 0.5), (10**3.5, 0.75)):
        assert (steps[steps < border].sum() / steps.sum()).item() == pytest.approx(part, abs=0.04)


def test_draws_depend_on_the_generator_alone() -> None:
    for horizon in (Uniform(1, 1000), LogUniform(1, 1000)):
        assert torch.equal(draws(horizon, 20), draws(horizon, 20))


@pytest.mark.parametrize(
    ("fraction", "expected"), [(0.0, 10), (0.24, 10), (0.25, 20), (0.49, 20), (0.5, 30), (1.0, 30)]
)
def test_a_curriculum_goes_through_its_stages(fraction: float, expected: int) -> None:
    horizon = Curriculum([10, Fixed(20), Uniform(30, 30)], until=0.5)
    assert horizon(torch.Generator(), Progress(7, fraction, 0)) == expected


def test_a_curriculum_of_one_stage_and_one_that_ends_at_once() -> None:
    assert Curriculum([10])(torch.Generator(), START) == 10
    assert Curriculum([10, 20], until=0.0)(torch.Generator(), START) == 20


@pytest.mark.parametrize(("steps", "expected"), [(1, 20), (20, 20), (29, 20), (31, 40), (100.4, 100), (1999, 2000)])
def test_an_episode_is_whole_windows(steps: float, expected: int) -> None:
    assert in_windows(steps, 20) == expected


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Fixed(0), "horizon must be at least 1, got steps=0"),
        (lambda: Uniform(0, 5), "at least 1, got low=0"),
        (lambda: LogUniform(10, 5), "low=10 and high=5"),
        (lambda: LogUniform(10, 50, of="windows"), "of must be one of them, got 'windows'"),
        (lambda: Curriculum([]), "at least one stage"),
        (lambda: Curriculum(20), r"as stages=\[100, 1000\], got 20"),  # type: ignore[arg-type]
        (lambda: Uniform(20.5, 60), "a whole number of steps, got low=20.5"),  # type: ignore[arg-type]
        (lambda: LogUniform(20, 60.0), "a whole number of steps, got high=60.0"),  # type: ignore[arg-type]
        (lambda: Fixed(True), "a whole number of steps, got steps=True"),
        (lambda: Curriculum([10], until=1.5), "from 0 to 1, got until=1.5"),
        (lambda: Curriculum([math.pi]), "a horizon is a number of steps, or a .* got 3.14"),  # type: ignore[list-item]
        (lambda: as_horizon(True), "got True"),
        (lambda: Fixed(30).refuse(20), "20 does not divide 30. Set learner.window to 10"),
        (lambda: LogUniform(5, 15).refuse(20), "longest horizon, 15, is shorter than a window of 20"),
        (lambda: Curriculum([20, 30]).refuse(20), "20 does not divide 30"),
    ],
)
def test_what_makes_no_sense_is_refused(make: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()  # type: ignore[operator]

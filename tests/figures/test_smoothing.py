"""Noise is measured and averaged; a descent is neither taken for noise nor moved.

Shapes: T steps.
"""

import numpy as np
import pytest

from l2o.figures.smoothing import noise, smoothed, width_for

STEPS = np.arange(400)
RNG = np.random.default_rng(0)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize("std", [0.01, 0.1])
def test_noise_is_that_of_a_step_whatever_the_descent(scale, std):
    curve = scale * np.exp(-STEPS / 20 + std * RNG.standard_normal(400))
    assert noise(curve) == pytest.approx(std, rel=0.2)


def test_a_smooth_descent_has_no_noise_and_a_few_jumps_are_none():
    steep = np.exp(-STEPS / 3.0)
    jumps = np.where(STEPS % 40 == 0, 2.0, 1.0) * steep
    assert noise(steep) < 1e-9 and noise(jumps) < 1e-9
    assert noise(np.full(400, np.nan)) == noise(np.zeros(400)) == noise(np.ones(2)) == 0


@pytest.mark.parametrize(("steps", "width"), [(49, 1), (50, 5), (100, 5), (200, 5), (400, 11), (1000, 25)])
def test_the_width_grows_with_the_horizon(steps, width):
    noisy = np.exp(0.1 * RNG.standard_normal(steps))
    assert width_for([np.ones(steps), noisy]) == width and width % 2 == 1
    assert width_for([np.ones(steps)]) == 1


def test_an_average_is_the_mean_of_its_window_and_keeps_the_start():
    curve = RNG.random(30)
    found = smoothed(curve, 5)
    assert found[0] == curve[0] and found[-1] == pytest.approx(curve[-3:].mean())
    assert found[1] == pytest.approx(curve[:3].mean()) and found[10] == pytest.approx(curve[8:13].mean())
    line = 3.0 - 0.1 * STEPS
    np.testing.assert_allclose(smoothed(line, 25)[:-12], line[:-12], atol=1e-9)
    np.testing.assert_array_equal(smoothed(curve, 1), curve)
    fallen = np.concatenate([np.full(10, 1e12), np.full(30, 1e-12)])
    np.testing.assert_allclose(smoothed(fallen, 5)[12:], 1e-12, rtol=1e-12)


def test_gaps_stay_and_do_not_spread():
    curve = np.ones(30)
    curve[[4, 5]] = np.nan
    found = smoothed(curve, 7)
    assert np.isnan(found[[4, 5]]).all() and np.allclose(np.delete(found, [4, 5]), 1)

"""The published recipe of meta-training, against its own stored curve (`meta_training_runs` says how it was made)."""

import json

import meta_training_runs as runs
import pytest

STORED = json.loads(runs.STORED.read_text())

TOLERANCE = 1e-3
"""How far the first meta-losses may be from the stored ones, relative to them. Processors round differently, and
differences of losses, divided by 2σ² = 2·10⁻⁴, magnify that; twenty meta-updates do not yet make much of it."""

MARGIN = 0.5
"""How far the band reaches beyond the three seeds, in parts of the distance between the lowest and the highest."""


def band(number: int) -> tuple[float, float]:
    """Between which values the mean of the meta-losses of fifty meta-updates lies, for any seed."""
    values = [STORED[str(seed)]["means"][number] for seed in runs.SEEDS]
    margin = MARGIN * (max(values) - min(values))
    return min(values) - margin, max(values) + margin


def test_the_first_meta_updates_are_the_stored_ones() -> None:
    assert runs.curve(0, runs.FIRST) == pytest.approx(STORED["0"]["first"], rel=TOLERANCE)


@pytest.mark.parametrize("seed", runs.SEEDS)
def test_the_stored_meta_loss_falls(seed: int) -> None:
    """From the first fifty meta-updates to the last, and from the first half of the run to the second."""
    means = STORED[str(seed)]["means"]
    half = len(means) // 2
    assert len(means) == runs.UPDATES // runs.EVERY
    assert means[-1] < means[0] and sum(means[half:]) < sum(means[:half])


@pytest.mark.slow
def test_a_whole_meta_training_stays_in_the_stored_band() -> None:
    found = runs.means(runs.curve(0))
    for number, value in enumerate(found):
        low, high = band(number)
        assert low <= value <= high, f"meta-updates {number * runs.EVERY} to {(number + 1) * runs.EVERY}"

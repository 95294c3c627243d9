"""What the whole learner computes does not change with the structure of its code."""

import json

import pytest
from golden_runs import CASES, STORED, run

EXPECTED = json.loads(STORED.read_text())


@pytest.mark.parametrize("name", CASES)
def test_the_learner_reproduces_its_stored_run(path: str, name: str) -> None:
    """On every processor, with the compiled kernel and without: rounding alone may differ."""
    found, expected = run(CASES[name]), EXPECTED[name]
    assert len(found["losses"]) == len(expected["losses"]) == 20
    for key, value in expected.items():
        assert found[key] == pytest.approx(value, rel=1e-12, abs=0), key


def test_every_stored_run_is_one_that_is_tested() -> None:
    assert EXPECTED.keys() == CASES.keys()

"""A group that is chosen on a command line, where an experiment sets keys of that group as well."""

import pytest
from hydra import compose, initialize_config_dir
from programs import ROOT

EXPERIMENTS = sorted(path.stem for path in (ROOT / "conf/experiment").glob("*.yaml"))


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_a_debugging_run_ends_after_two_windows_whatever_an_experiment_sets(experiment: str) -> None:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        trainer = compose("train", [f"experiment={experiment}", "trainer=debug"]).trainer
        longer = compose("train", [f"experiment={experiment}"]).trainer
    assert trainer.max_steps == trainer.limit_train_batches == 2 and trainer.detect_anomaly
    assert "max_steps" not in longer and longer.max_epochs > 1

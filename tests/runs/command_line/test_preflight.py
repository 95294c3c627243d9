"""What is refused before anything runs."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf

from l2o.runs.command_line.preflight import Preflight
from l2o.runs.command_line.read_keys import compose_base, keys_of

ROOT = Path(__file__).parents[3]


def config(folder: Path, **keys: object) -> DictConfig:
    return OmegaConf.create({"hydra": {"run": {"dir": str(folder)}, "sweep": {"dir": str(folder)}}, **keys})


def refused(call: object, *arguments: object) -> str:
    with pytest.raises(SystemExit) as end:
        call(*arguments)  # type: ignore[operator]
    assert isinstance(end.value.code, str) and end.value.code.startswith("error: ") and "\n" not in end.value.code
    return end.value.code


def test_a_sweep_without_multirun_is_refused(tmp_path: Path) -> None:
    sweep = {"n_trials": 20}
    assert "-m" in refused(Preflight().on_run_start, config(tmp_path, sweep=sweep))
    Preflight().on_run_start(config(tmp_path))
    Preflight().on_multirun_start(config(tmp_path, sweep=sweep))


def test_one_of_several_slurm_tasks_says_that_there_must_be_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for tasks, ok in (("1", True), (None, True), ("4", False)):
        monkeypatch.setenv("SLURM_PROCID", "0")
        monkeypatch.setenv("SLURM_NTASKS", tasks) if tasks else monkeypatch.delenv("SLURM_NTASKS", raising=False)
        if ok:
            Preflight().on_multirun_start(config(tmp_path))
        else:
            line = refused(Preflight().on_multirun_start, config(tmp_path))
            assert "4 Slurm tasks" in line and "srun --ntasks=1" in line and "launcher=slurm" in line
    Preflight().on_run_start(config(tmp_path))  # the ranks of one run
    monkeypatch.setenv("SLURM_PROCID", "3")
    with pytest.raises(SystemExit) as end:
        Preflight().on_multirun_start(config(tmp_path))
    assert end.value.code == 1
    monkeypatch.delenv("SLURM_PROCID")  # salloc: no task yet
    Preflight().on_multirun_start(config(tmp_path))


def test_a_folder_that_cannot_be_written_is_refused_with_a_remedy(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file/run", Path("/proc/run")):
        assert "hydra.run.dir=FOLDER" in refused(Preflight().on_run_start, config(folder))
        assert "hydra.sweep.dir=FOLDER" in refused(Preflight().on_multirun_start, config(folder))
    Preflight().on_run_start(config(tmp_path / "a/b"))
    Preflight().on_run_start(config(Path("${nowhere}")))
    assert [path.name for path in tmp_path.iterdir()] == ["file"], "it only looks"


@pytest.mark.parametrize("program", ["train", "evaluate"])
def test_both_programs_are_checked(program: str) -> None:
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        callbacks = compose(program, ["launcher=joblib"], return_hydra_config=True).hydra.callbacks
    assert callbacks.preflight._target_ == "l2o.runs.command_line.preflight.Preflight"
    assert callbacks.share._target_ == "l2o.runs.jobs.Share"


def test_a_program_s_own_configuration_is_composed_once_for_a_search_path() -> None:
    """Hydra takes some tenths of a second for each, and a sweep looks at it for every value."""
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        one, other = (compose_base(loader, "train") for _ in range(2))
        assert one is other and keys_of(one) == keys_of(compose("train"))
        assert keys_of(compose_base(loader, "evaluate")) == keys_of(compose("evaluate"))

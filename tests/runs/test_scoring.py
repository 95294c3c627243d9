"""The scoreboard through evaluate.py, as a user types it: what it finds, what it keeps, what it refuses."""

import json
import runpy
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from programs import ROOT

from l2o.evaluation import scoreboard_files
from l2o.evaluation.cells import Cell, run_cells
from l2o.evaluation.scoreboard import Entry, Scoreboard, Task, outcome
from l2o.evaluation.scores import rise
from l2o.evaluation.standings import mean_cost, standing
from l2o.optimizees import Quadratic
from l2o.optimizers import SGD, AdamW
from l2o.runs import cell_jobs, cell_store, devices, scoring, shipped_baselines, suites
from l2o.runs.command_line import suite_settings

PRETRAINED = ROOT / "src/l2o/deploy/pretrained"
SMALL = ["scoreboard.rates_count=3", "scoreboard.seeds=2", "suite.tasks.digits=null"]


@pytest.fixture(autouse=True)
def cells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache/l2o/cells"


def config(*words: str) -> DictConfig:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return compose("evaluate", ["suite=tiny", *SMALL, *words])


def scored(*words: str) -> Scoreboard:
    return scoring.score(scoring.open_suite(config(*words)))


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, int, int]]:
    """The unrolls that were really done: task, optimizer, steps, number of rates times seeds."""
    done: list[tuple[str, str, int, int]] = []
    really = cell_jobs.Job.run

    def run(job: cell_jobs.Job) -> cell_jobs.Answers:
        done.append((job.task, job.optimizer, job.horizon, job.count))
        return really(job)

    monkeypatch.setattr(cell_jobs.Job, "run", run)
    return done


# ------------------------------------------------------------------------------------------------- what is found


def test_a_constant_rate_serves_all_horizons_and_a_schedule_needs_a_run_for_each(runs):
    scored()
    steps = {name: {run[2] for run in runs if run[1] == name} for name in ("Adam", "AdamW-cosine", "Muon")}
    assert steps == {"Adam": {20}, "AdamW-cosine": {10, 20}, "Muon": {20}}
    assert {run[3] for run in runs} == {3 * 2} and len(runs) == 6


def test_adam_is_the_measure_and_every_baseline_is_tuned_alike():
    board = scored(f"+learned.X={PRETRAINED / 'quadratic'}")
    assert [entry.label for entry in board.entries()][:3] == ["X", "X, best of 3", "Momentum"]
    for _, case in board.cases():
        adam = board.outcomes[case, "Adam"]
        assert adam.finals.shape == (3, 2) and len(adam.rates) == 3
        assert board.relative(case, Entry("", "Adam", None), "Adam") == (1.0, 0.0)
        assert board.speed_up(case, Entry("", "Adam", None)) == 1.0
        learned = board.outcomes[case, "X"]
        assert learned.finals.min(0).mean() <= board.finals(case, Entry("", "X", None)).mean()
        np.testing.assert_array_equal(board.finals(case, Entry("", "X", 1.0)), learned.finals[1])
        np.testing.assert_array_equal(learned.starts, adam.starts)  # the same problems


def test_rates_are_half_decades_on_one_lattice():
    assert suites.rates_around(0.0316, 7) == pytest.approx([1e-3, 10**-2.5, 1e-2, 10**-1.5, 0.1, 10**-0.5, 1.0])
    assert set(suites.rates_around(0.01, 3)) < set(suites.rates_around(0.0316, 7))
    assert suites.rates_around(0.01, 3, 4) == pytest.approx([10**-2.25, 1e-2, 10**-1.75])
    assert set(suites.rates_around(0.01, 3)) < set(suites.rates_around(0.01, 5, 4))
    with pytest.raises(ValueError, match="positive centre"):
        suites.rates_around(0.0, 7)


def cell(*losses: float, start: float = 4.0) -> Cell:
    return Cell(np.array(losses, np.float32), start)


def test_a_board_s_numbers_are_those_worked_out_by_hand():
    """Two seeds, two steps, of which the last one counts."""
    adam = outcome({0.1: [cell(3, 2), cell(3, 4)], 1.0: [cell(9, 9), cell(9, 9)]}, 2)
    target = 3.0  # (2 + 4) / 2
    ours = outcome({1.0: [cell(3, 1), cell(3, 4)], 3.0: [cell(1, np.nan), cell(1, 20)]}, 2, target)
    assert (adam.best, adam.steps, ours.best, ours.steps) == (0, (1, None), 0, (1, 1))
    board = Scoreboard("s", [Task("t", (2,), True)], ["Adam"], {(("t", 2), "Adam"): adam, (("t", 2), "X"): ours})
    learned = Entry("X", "X", 1.0)
    assert board.relative(("t", 2), learned, "Adam")[0] == pytest.approx(5 / 6)
    assert board.ratios(("t", 2), learned, "Adam").tolist() == [0.5, 1.0]
    assert board.diverged(("t", 2), Entry("X", "X", 3.0)).tolist() == [1.0, 1.0]  # nan, and 20 > 2 · 4
    found = standing(board, learned, True)
    assert found and found.to_adam.value == 0.75 and found.worst == pytest.approx(5 / 6) and found.diverged == 0
    assert standing(board, learned, False) is None and mean_cost(board, learned) is None


def test_a_row_fits_into_a_narrow_terminal_however_bad_its_rule():
    from io import StringIO

    from rich.console import Console

    from l2o.evaluation.scoreboard_tables import tables
    from l2o.evaluation.scoreboard_texts import briefly

    adam = outcome({0.1: [cell(3, 2), cell(3, 4)]}, 2)
    bad = outcome({1.0: [cell(3, 7.3e7), cell(3, 5.1e7)], 3.0: [cell(3, 9e9), cell(3, 9e9)]}, 2, 3.0)
    board = Scoreboard("s", [Task("t", (2,), True)], ["Adam"], {(("t", 2), "Adam"): adam, (("t", 2), "X"): bad})
    text = StringIO()
    Console(file=text, width=80).print(*tables(board))
    assert "…" not in text.getvalue() and "X, best of 2" in text.getvalue() and "100%" in text.getvalue()
    assert [briefly(value) for value in (0.123456, 999.4, 24512345.0, np.inf)] == ["0.123", "999", "2e+07", "∞"]


def test_published_envelopes_tell_a_speed_up():
    adam = outcome({0.1: [cell(3, 2)]}, 2)
    task = Task("t", (2,), True, published="known")
    board = Scoreboard("s", [task], ["Adam"], {(("t", 2), "Adam"): adam}, envelopes={"known": ([0, 10], [4.0, 1.0])})
    assert board.published_speed_up(task, ("t", 2), Entry("", "Adam", None)) == pytest.approx(20 / 3 / 2)
    other = task._replace(published=None)
    assert board.published_speed_up(other, ("t", 2), Entry("", "Adam", None)) is None


def test_learned_rules_go_on_beyond_their_horizon_where_the_suite_asks_for_it(runs, cells):
    words = [f"+learned.X={PRETRAINED / 'quadratic'}", "+suite.compare_with=[Adam,Muon]", "+suite.beyond=3"]
    board = scored(*words)
    assert list(board.beyond) == [(("quadratic", 20), "X")] and board.beyond_factor == 3.0
    assert board.compare_with == ["Adam", "Muon"]
    assert ("quadratic", "X", 20, 2) in runs  # two seeds at one rate
    suite = scoring.open_suite(config(*words))
    job = cell_jobs.job_of(suite, suite.tasks["quadratic"][0], "X", 20, (1.0,), 3.0)
    answers = job.run()
    losses = np.stack([answers["quadratic", "X", 20, seed, 1.0].losses for seed in (0, 1)], 1)
    assert losses.shape == (60, 2)
    assert board.beyond[("quadratic", 20), "X"] == pytest.approx(rise(losses))
    runs.clear()
    scored(*words)
    assert not runs  # the longer runs are kept, too, apart from the others
    longer = {path for path in cells.rglob("*.npz") if cell_store.read(path, 60)}
    assert longer == set(job.paths.values())


def test_a_rule_beyond_its_horizon_is_told_the_horizon_and_not_the_length_of_the_run():
    rule = AdamW(schedule="cosine", weight_decay=0.0)
    ((cell,),) = run_cells(rule, Quadratic(dim=3), [0.1], 12, [0], horizon=4)
    ((short,),) = run_cells(rule, Quadratic(dim=3), [0.1], 4, [0])
    np.testing.assert_allclose(cell.losses[:4], short.losses, rtol=1e-6)
    np.testing.assert_allclose(cell.losses[4:], cell.losses[3], rtol=1e-6)  # the cosine has come down to 0


# -------------------------------------------------------------------------------------------------- what is kept


def test_finished_cells_are_found_again_and_give_the_same_board(runs):
    first = scored()
    count = len(runs)
    second = scored()
    assert count == 6 and len(runs) == count  # AdamW-cosine runs twice
    for key, found in first.outcomes.items():
        np.testing.assert_array_equal(found.finals, second.outcomes[key].finals)


def test_cells_that_are_lost_or_damaged_are_run_again_alone(runs, cells):
    first = scored()
    files = sorted(cells.rglob("*.npz"))
    assert len(files) == 2 * 6 * 3
    files[0].unlink()
    files[5].write_bytes(b"PK damaged")
    files[7].write_bytes(files[7].read_bytes()[:-30])
    runs.clear()
    second = scored()
    assert sum(run[3] for run in runs) == 3
    for key, found in first.outcomes.items():
        np.testing.assert_allclose(found.finals, second.outcomes[key].finals, rtol=1e-5)


@pytest.mark.parametrize(
    "word", ["scoreboard.seeds=3", "suite.tasks.quadratic.optimizee.dim=4", "scoreboard.rates_count=5",
             "scoreboard.baselines.Adam.rule.beta1=0.8", "suite.tasks.quadratic.horizons=[10,21]"]
)  # fmt: skip
def test_what_a_cell_depends_on_is_run_anew_and_nothing_else(runs, word):
    scored()
    runs.clear()
    scored(f"+{word}" if "beta1" in word else word)
    counts = {"seeds": 6 * 3, "dim": 36, "rates_count": 6 * 2 * 2, "beta1": 2 * 3, "horizons": 30}
    assert sum(run[3] for run in runs) == next(n for part, n in counts.items() if part in word)


def test_nothing_is_kept_where_it_is_turned_off(runs, cells):
    scored("scoreboard.cache=false")
    scored("scoreboard.cache=false")
    assert len(runs) == 12 and not cells.exists()


class OwnRule(SGD):
    """A rule of a user's own, whose code cannot be told."""


def test_a_rule_of_a_user_s_own_has_no_place_to_be_kept():
    task = Task("t", (2,), True, content="known")
    assert cell_store.key_of(task, OwnRule(), "cpu") is None
    assert cell_store.key_of(task._replace(content=None), SGD(), "cpu") is None
    assert cell_store.place(None, 0.1, 2, 0) is None


def test_a_disk_that_takes_nothing_costs_a_line(tmp_path, monkeypatch, caplog):
    (tmp_path / "full").write_text("a file where the folder should be")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "full"))
    assert scored().outcomes
    assert "it will be run again" in caplog.text


def test_what_the_package_ships_is_not_run(runs, tmp_path, monkeypatch):
    suite = scoring.open_suite(config())
    board = scoring.score(suite)
    scoreboard_files.save(board, tmp_path / "tiny.json", shipped_baselines.record(suite))
    monkeypatch.setattr(scoreboard_files, "SHIPPED", tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "another"))
    runs.clear()
    again = scored(f"+learned.X={PRETRAINED / 'quadratic'}")
    assert {run[1] for run in runs} == {"X"}
    for key, found in board.outcomes.items():
        np.testing.assert_allclose(found.finals, again.outcomes[key].finals, rtol=1e-5)
    runs.clear()
    scored("+scoreboard.baselines.Adam.rule.beta1=0.8", "scoreboard.cache=true")
    assert runs  # tuned in another way: nothing of the package fits, for all is relative to Adam
    runs.clear()
    scored("scoreboard.baselines.Muon.centre=0.1")
    assert {run[1] for run in runs} == {"Muon"}


def test_a_board_is_read_as_it_was_written(tmp_path):
    board = scored()
    board.outcomes[("quadratic", 10), "Muon"].finals[0, 0] = np.inf
    scoreboard_files.save(board, tmp_path / "b.json")
    read, _ = scoreboard_files.load(tmp_path / "b.json")
    assert read.tasks == board.tasks and read.costs == board.costs
    for key, found in board.outcomes.items():
        np.testing.assert_allclose(read.outcomes[key].finals, found.finals, rtol=1e-5)
        assert read.outcomes[key].steps == found.steps
    assert "Infinity" not in (tmp_path / "b.json").read_text()
    (tmp_path / "c.json").write_text('{"tasks": []}')
    with pytest.raises(ValueError, match=r"c\.json' is no scoreboard"):
        scoreboard_files.load(tmp_path / "c.json")


# ------------------------------------------------------------------------------------------- as a user types it


def kept(cells: Path) -> list[Path]:
    """The finished cells; one that was being written when its process was killed has another name."""
    return [path for path in cells.rglob("*.npz") if not path.name.startswith(".")]


@pytest.mark.slow
def test_a_run_that_is_killed_goes_on_where_it_was(tmp_path, cells, programs):
    words = ["suite=tiny", "logger=csv", "scoreboard.rates_count=2", f"learned.LSTM={PRETRAINED / 'quadratic'}"]
    environment = {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    run = programs.script("evaluate.py", tmp_path, *words, "hydra.run.dir=out", **environment)
    while len(kept(cells)) < 4:
        assert run.poll() is None, run.output
        time.sleep(0.002)
    run.kill()
    run.wait()
    before = len(kept(cells))
    assert 0 < before < 90 and not (tmp_path / "out/scoreboard.json").exists()
    again = programs.script("evaluate.py", tmp_path, *words, "hydra.run.dir=out", **environment)
    assert again.wait() == 0, again.output
    total = 2 * 3 * (3 + 2 * 6)  # tasks, seeds, scales and rates
    assert f"{before} runs are known from before, {total - before} are left" in again.output
    for name in ("scoreboard.json", "scoreboard.md", "profile.png"):
        assert (tmp_path / "out" / name).stat().st_size > 0
    for words_of_the_table in ("related to training", "never seen", "LSTM, best of 3", "ScheduleFree"):
        assert words_of_the_table in again.output
    found = json.loads((tmp_path / "out/scoreboard.json").read_text())
    assert found["provenance"]["command"].startswith("python evaluate.py suite=tiny logger=csv ")
    assert found["tasks"].keys() == {"quadratic", "digits"}
    assert found["tasks"]["digits"]["horizons"]["10"].keys() >= {"LSTM", "Adam", "Muon"}


@pytest.mark.slow
def test_two_processes_find_what_one_finds(tmp_path, programs):
    words = ["suite=tiny", "logger=csv", "scoreboard.rates_count=2", "scoreboard.cache=false"]
    for workers in (1, 2):
        words_of_run = [*words, f"workers={workers}", f"hydra.run.dir={workers}"]
        run = programs.script("evaluate.py", tmp_path, *words_of_run)
        assert run.wait() == 0, run.output
    one, two = (scoreboard_files.load(tmp_path / str(workers) / "scoreboard.json")[0] for workers in (1, 2))
    for key, found in one.outcomes.items():
        np.testing.assert_allclose(found.finals, two.outcomes[key].finals, rtol=1e-4)


REFUSED = [
    (["suite=tiny", "experiment=quadratic"], "has no effect on a suite or a map"),
    (["suite=tiny", "seed=1"], "has no effect on a suite or a map"),
    (["workers=2"], "has no effect without a suite or a map"),
    (["scoreboard.seeds=1"], "has no effect without a suite or a map"),
    (["suite=tiny", "workers=0"], "workers must be at least 1"),
    (["suite=tiny", "scoreboard.scales=[0.5]"], "hold 1.0"),
    (["suite=tiny", "scoreboard.baselines.Adam=null"], "needs Adam"),
    (["suite=tiny", "suite.tasks.digits.horizons=[0]"], "at least 1"),
    (["suite=tiny", "suite.tasks=null"], "no tasks"),
    (["suite=tiny", "learned.X=nowhere"], "no trained optimizer 'nowhere'"),
    (["suite=tiny", f"+learned.Adam={PRETRAINED / 'quadratic'}"], "the name of a baseline"),
    (["suite=tiny", "adam_envelopes=none.json"], "none.json"),
    (["suite=tiny", "device=banana"], "device=banana cannot be used here"),
    (["experiment=quadratic", "device=banana"], "device=banana cannot be used here"),
    (["map=mlp", "+learned.X=digits", "device=cuda:97"], "device=cuda:97 cannot be used here"),
]
"""Command lines that make no sense, and what their one line says."""


@pytest.mark.parametrize(("words", "message"), REFUSED)
def test_what_makes_no_sense_is_refused_in_one_line(tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["evaluate.py", *words, "logger=csv"])
    with pytest.raises(SystemExit) as exit_:
        runpy.run_path(str(ROOT / "evaluate.py"), run_name="__main__")
    line = str(exit_.value)
    assert line.startswith("error: ") and message in line and "\n" not in line


AT_ONCE = {
    "suite.tasks.quadratic=3": "suite.tasks.quadratic must be a table of keys, got 3",
    "suite.tasks.quadratic=null": "'tiny' has no tasks",
    "suite.tasks.quadratic.horizons=5": r"horizons must be a list, each item an integer, got 5",
    "suite.tasks.quadratic.horizons=[true]": "horizons must be a list, each item an integer",
    "suite.tasks.quadratic.related=maybe": "related must be true or false, got 'maybe'",
    "suite.tasks.quadratic.optimizee=3": "optimizee must be a table of keys, got 3",
    "suite.tasks.quadratic.optimizee=null": "optimizee is missing",
    "+suite.tasks.quadratic.horizon=[3]": "suite.tasks.quadratic.horizon has no effect: nothing reads it: did you mean",
    "suite.tasks.quadratic.description=[1]": "description must be text or null",
    "suite.name=../x": "suite.name must be a name of letters",
    "scoreboard.baselines=null": "scoreboard.baselines must be a table of keys, got null",
    "scoreboard.baselines.Adam=3": "scoreboard.baselines.Adam must be a table of keys, got 3",
    "scoreboard.baselines.Adam.centre=abc": "centre must be a number, got 'abc'",
    "scoreboard.baselines.Adam.centre=null": "centre is missing",
    "scoreboard.baselines.Adam.centre=inf": "centre must be a number",
    "scoreboard.baselines.Adam.centre=true": "centre must be a number, got true",
    "scoreboard.baselines.Adam.centre=0": "centre must be a learning rate from 1e-9 to 1e9",
    "scoreboard.baselines.Adam.rule=3": "rule must be a table of keys",
    "+scoreboard.baselines.Adam.rule.lr=0.1": "rule.lr has no effect: its learning rate is tuned",
    "+scoreboard.baselines.Adam.center=1": "Adam.center has no effect: nothing reads it: did you mean centre",
    "scoreboard.rates_count=100000": "at most 41",
    "+suite.compare_with=[Adma]": "compare_with names Adma, which is no baseline of the scoreboard: did you mean Adam",
    "+suite.compare_with=Adam": "compare_with must be a list",
    "+suite.beyond=3": "suite.beyond has no effect without suite.compare_with",
    "+suite.beyond=1": "suite.beyond must be more than 1, as a multiple of the horizon, and at most 100, got 1",
    "scoreboard.scales=[1.0,1.0]": "must be positive, different, and hold 1.0",
}
"""Values of a suite's and a scoreboard's keys that could only go wrong."""


@pytest.mark.parametrize(("word", "message"), AT_ONCE.items())
def test_a_wrong_value_is_named_before_anything_is_built(word: str, message: str):
    with pytest.raises(ValueError, match=message):
        suite_settings.refuse_suite_settings(config(word))


def test_a_wrong_value_leaves_nothing_behind(tmp_path, programs):
    words = ["suite=tiny", "suite.tasks.digits.horizons=5", "logger=csv", "hydra.run.dir=out"]
    run = programs.script("evaluate.py", tmp_path, *words)
    assert run.wait() == 1 and run.output.strip().startswith("error: suite.tasks.digits.horizons"), run.output
    assert not (tmp_path / "out").exists()


def test_a_task_that_is_held_out_is_never_seen_whatever_it_says(tmp_path, caplog):
    """Images of 28×28 move the tasks of suite=small on images, and these alone, into the other column."""
    x, y = np.random.default_rng(0).integers(0, 256, (40, 28, 28), dtype=np.uint8), np.arange(40) % 10
    np.savez(tmp_path / "d.npz", x_train=x, y_train=y, x_test=x, y_test=y)

    def related(side: int) -> dict[str, bool]:
        words = ["suite=small", f"suite.images={tmp_path / 'd.npz'}", f"suite.side={side}"]
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            cfg = compose("evaluate", words)
        cfg.suite.tasks = {name: cfg.suite.tasks[name] for name in ("relu_mlp", "deep_mlp", "least_squares")}
        return {name: task.related for name, (task, _) in suites.open_tasks(cfg, "cpu").items()}

    assert related(14) == {"relu_mlp": True, "deep_mlp": False, "least_squares": True} and not caplog.text
    assert related(28) == {"relu_mlp": False, "deep_mlp": False, "least_squares": True}
    assert "relu_mlp (images above 14×14)" in caplog.text and "deep_mlp" not in caplog.text


def test_envelopes_without_a_task_of_the_suite_are_refused(tmp_path):
    (tmp_path / "e.json").write_text('{"another": [[0, 1], [2.0, 1.0]]}')
    with pytest.raises(ValueError, match="none of the suite's tasks"):
        scoring.open_suite(config(f"adam_envelopes={tmp_path / 'e.json'}"))
    named = "+suite.tasks.quadratic.published=another"
    assert scoring.open_suite(config(f"adam_envelopes={tmp_path / 'e.json'}", named)).envelopes


def test_a_suite_takes_its_own_device_unless_one_is_given(monkeypatch):
    assert config().name == "suite_tiny"
    for gpu, expected in ((False, ["cpu", "cpu", "cuda:1"]), (True, ["cpu", "cuda", "cuda:1"])):
        monkeypatch.setattr("torch.cuda.is_available", lambda gpu=gpu: gpu)
        asked = [("auto", "cpu"), ("auto", "auto"), ("cuda:1", "cpu")]
        assert [devices.chosen_device(*words) for words in asked] == expected


def test_envelopes_of_another_shape_are_refused(tmp_path):
    words, nan, falling = '{"a": [["1"], [1]]}', '{"a": [[1], [NaN]]}', '{"a": [[2, 1], [2, 1]]}'
    for text in ("[]", '{"a": [[1], [1, 2]]}', '{"a": 3}', "{", words, nan, falling, '{"a": ["12", "12"]}'):
        (tmp_path / "e.json").write_text(text)
        with pytest.raises(ValueError, match=r"e\.json'"):
            scoring.read_envelopes(tmp_path / "e.json")


def test_a_task_is_known_by_its_contents_and_not_by_its_place(tmp_path):
    from omegaconf import OmegaConf

    contents = []
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        x, y = np.arange(24, dtype=np.float32).reshape(6, 4), np.arange(6) % 2
        np.savez(tmp_path / folder / "d.npz", x_train=x, y_train=y, x_test=x, y_test=y)
        network = {"_target_": "l2o.optimizees.mlp", "in_features": 4, "hidden": [2], "out_features": 2}
        data = {"_target_": "l2o.data.from_npz", "path": str(tmp_path / folder / "d.npz")}
        optimizee = {"_target_": "l2o.optimizees.Classifier", "network": network, "dataset": data}
        cfg = OmegaConf.create({"suite": {"tasks": {"t": {"optimizee": optimizee, "horizons": [2], "related": True}}}})
        contents.append(suites.open_tasks(cfg, "cpu")["t"][0].content)
    assert contents[0] == contents[1] is not None
    assert isinstance(suites.built("_target_: l2o.optimizees.Quadratic\ndim: 2\n", "cpu"), Quadratic)

"""benchmarks/paper.py: which parts it runs, by which commands, that it goes on where it was, and what it writes."""

import json
import os
import runpy
import shlex
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import IO, Any

import paper_pages
import pytest
from hydra import compose, initialize_config_dir
from programs import ROOT

from l2o.data import images

PAPER: dict[str, Any] = runpy.run_path(str(ROOT / "benchmarks/paper.py"))
SETTINGS: dict[str, Any] = PAPER["main"].__globals__
TRAINS, COMPARES = "train.py experiment=quadratic", "evaluate.py learned.LSTM={out}/a/best"
SWEEPS, DRAWS = "train.py -m seed=0,1", "evaluate.py figure=mnist_grid dataset.path={mnist}"
GIVEN = {"commit": "abc", "version": "0.1.0", "date": "2026-01-02T03:04:05+00:00", "command": "python evaluate.py"}


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[list[str]]:
    """Give paper.py four parts of the test's own, of which nothing is run; return the command lines that it starts.

    A program that is started leaves the results of one job, or of two where it is a sweep.
    """
    lines: list[list[str]] = []

    def start(words: list[str], environment: dict[str, str], stream: IO[str] | None) -> None:
        lines.append(words)
        if words[0] == "-m":
            return
        folder = Path(words[-1].split(".dir=")[1])
        for job in (folder / "0", folder / "1") if ".sweep." in words[-1] else (folder,):
            job.mkdir(parents=True, exist_ok=True)
            (job / "summary.json").write_text(json.dumps({"provenance": GIVEN, "optimizers": {}}))

    monkeypatch.setitem(SETTINGS, "RUNS", {"a": TRAINS, "b": COMPARES, "c": SWEEPS, "d": DRAWS})
    monkeypatch.setattr(paper_pages, "DOCS", tmp_path / "docs")
    monkeypatch.setattr(paper_pages, "table", lambda *_: "")
    monkeypatch.setattr(paper_pages, "overview", lambda text, *_: text)
    monkeypatch.setitem(SETTINGS, "execute", start)
    (tmp_path / "docs/notebook").mkdir(parents=True)
    (tmp_path / "docs/results.md").write_text("")
    return lines


def run(monkeypatch: pytest.MonkeyPatch, folder: Path, *words: str) -> dict[str, Any]:
    """Run paper.py with its results in a folder, and return what it has written into runs.json."""
    monkeypatch.setattr(sys, "argv", ["paper.py", "--out", str(folder / "out"), *words])
    PAPER["main"]()
    return json.loads((folder / "docs/notebook/runs.json").read_text())


def test_parts_are_run_in_their_order_and_once(started, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    run(monkeypatch, tmp_path)
    assert started == [
        [*TRAINS.split(), "ckpt_path=auto", f"hydra.run.dir={out / 'a'}"],
        ["evaluate.py", f"learned.LSTM={out}/a/best", f"hydra.run.dir={out / 'b'}"],
        [*SWEEPS.split(), "ckpt_path=auto", f"hydra.sweep.dir={out / 'c'}"],
    ]
    assert "d: left out, it needs --mnist" in capsys.readouterr().out
    started.clear()
    run(monkeypatch, tmp_path, "--mnist", str(tmp_path / "m.npz"))
    words = ["evaluate.py", "figure=mnist_grid", f"dataset.path={tmp_path / 'm.npz'}", f"hydra.sweep.dir={out / 'd'}"]
    assert started == [words, ["-m", "l2o", "figure6", str(out / "d")]]
    printed = capsys.readouterr().out
    assert all(f"{part}: done before\n" in printed for part in "abc")


def test_only_what_is_asked_for_is_run(started, tmp_path, monkeypatch):
    run(monkeypatch, tmp_path, "--only", "c", "a")
    assert [line[0:3] for line in started] == [[*TRAINS.split(), "ckpt_path=auto"], ["train.py", "-m", "seed=0,1"]]
    with pytest.raises(SystemExit):
        run(monkeypatch, tmp_path, "--only", "nothing of this name")


def test_what_was_interrupted_is_started_again(started, tmp_path, monkeypatch):
    """A sweep is done when all of it is done: the results of its first job do not suffice."""

    def fail(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as broken, pytest.raises(KeyboardInterrupt):
        broken.setitem(SETTINGS, "execute", fail)
        run(broken, tmp_path, "--only", "a")
    (tmp_path / "out/c/7").mkdir(parents=True)
    (tmp_path / "out/c/7/summary.json").write_text("{}")
    run(monkeypatch, tmp_path, "--only", "a", "c")
    assert [line[0:2] for line in started] == [TRAINS.split(), ["train.py", "-m"]]


def test_a_part_that_another_command_has_made_is_told(started, tmp_path, monkeypatch, capsys):
    run(monkeypatch, tmp_path, "--only", "a")
    monkeypatch.setitem(SETTINGS["RUNS"], "a", "train.py seed=9")
    run(monkeypatch, tmp_path, "--only", "a")
    told = f"a: done before, by another command, python {TRAINS}: remove '{tmp_path / 'out/a'}' to run it anew"
    assert told in capsys.readouterr().out and len(started) == 1


def test_what_is_small_of_a_part_is_kept_and_makes_it_a_finished_one(started, tmp_path, monkeypatch):
    """Commands, summaries and trained optimizers, of a sweep those of all jobs; no checkpoint, and no older job."""
    kept = tmp_path / "docs/notebook/paper"
    (kept / "c/2/best").mkdir(parents=True)
    for folder in ("a", "c/0"):
        (tmp_path / "out" / folder / "best").mkdir(parents=True)
        (tmp_path / "out" / folder / "best/model.safetensors").write_text(folder)
        (tmp_path / "out" / folder / "last.ckpt").write_text("large")
    run(monkeypatch, tmp_path, "--only", "a", "c")
    files = {str(file.relative_to(kept)) for file in kept.rglob("*") if file.is_file()}
    of_a = {"a/run.json", "a/summary.json", "a/best/model.safetensors"}
    assert files == of_a | {"c/run.json", "c/0/summary.json", "c/0/best/model.safetensors", "c/1/summary.json"}
    assert (kept / "c/0/best/model.safetensors").read_text() == "c/0" and not (kept / "c/2").exists()
    started.clear()
    run(monkeypatch, tmp_path, "--only", "a", "c", "--out", str(kept))
    assert started == []


def test_a_part_that_was_made_elsewhere_is_done(started, tmp_path, monkeypatch, capsys):
    """What a finished part says of itself holds wherever it is put, and wherever its data lie."""
    command = "train.py seed={mnist} x={out}/b/best"
    monkeypatch.setitem(SETTINGS["RUNS"], "a", command)
    run(monkeypatch, tmp_path, "--only", "a", "--mnist", str(tmp_path / "here/m.npz"))
    made = json.loads((tmp_path / "out/a/run.json").read_text())["command"]
    assert made == "train.py seed=m.npz x={out}/b/best" and f"x={tmp_path / 'out'}/b/best" in started[0]
    (tmp_path / "out").rename(tmp_path / "elsewhere")
    run(monkeypatch, tmp_path, "--only", "a", "--mnist", "m.npz", "--out", str(tmp_path / "elsewhere"))
    assert "a: done before\n" in capsys.readouterr().out and len(started) == 1


def test_a_training_without_a_comparison_is_done_when_its_program_has_ended(started, tmp_path, monkeypatch):
    monkeypatch.setitem(SETTINGS["RUNS"], "a", f"{TRAINS} evaluation=null")
    (tmp_path / "out/a").mkdir(parents=True)
    (tmp_path / "out/a/summary.json").write_text("{}")
    for _ in range(2):
        run(monkeypatch, tmp_path, "--only", "a")
    assert len(started) == 1


def test_the_origin_of_every_table_is_written_down(started, tmp_path, monkeypatch):
    """Those of parts that are not there stay; a part whose results tell no origin loses what was known before."""
    path = tmp_path / "docs/notebook/runs.json"
    path.write_text(json.dumps({"d": {"commit": "old"}, "b": {"commit": "old"}, "gone": {"commit": "old"}}))
    told = {"commit": "abc", "date": GIVEN["date"]}
    found = run(monkeypatch, tmp_path, "--only", "a", "b", "c")
    commanded = told | {"command": "python evaluate.py"}
    assert found == {"a": commanded, "b": commanded, "c": told, "d": {"commit": "old"}}
    (tmp_path / "out/b/summary.json").write_text('{"optimizers": {}}')
    later = GIVEN | {"commit": None, "date": "2026-02-02T03:04:05+00:00"}
    (tmp_path / "out/c/1/summary.json").write_text(json.dumps({"provenance": later}))
    found = run(monkeypatch, tmp_path, "--only")
    assert found.keys() == {"a", "c", "d"}
    assert found["c"] == {"commit": "abc, version 0.1.0", "date": later["date"]}


def test_workers_run_what_does_not_need_each_other_at_the_same_time(started, tmp_path, monkeypatch, capsys):
    """Parts `a` and `c` wait for each other, and `b` begins when `a`, which it reads, is through."""
    start, together, order = SETTINGS["execute"], threading.Barrier(2, timeout=20), []

    def meet(words: list[str], environment: dict[str, str], stream: IO[str]) -> None:
        name = Path(words[-1].split(".dir=")[1]).name
        order.append(f"{name} begins")
        if name in "ac":
            together.wait()
        assert int(environment["OMP_NUM_THREADS"]) >= 1 and Path(stream.name).name == f"{name}.log"
        start(words, environment, stream)
        order.append(f"{name} ends")

    monkeypatch.setitem(SETTINGS, "execute", meet)
    run(monkeypatch, tmp_path, "--workers", "2")
    assert order.index("b begins") > order.index("a ends") and len(started) == 3
    assert f"> {tmp_path / 'out/c.log'}" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        run(monkeypatch, tmp_path, "--workers", "0")


def test_the_cores_are_divided_among_the_workers_that_have_a_part(started, tmp_path, monkeypatch):
    start, threads = SETTINGS["execute"], list[str | None]()

    def count(words: list[str], environment: dict[str, str], stream: IO[str]) -> None:
        threads.append(environment.get("OMP_NUM_THREADS"))
        start(words, environment, stream)

    monkeypatch.setitem(SETTINGS, "execute", count)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    run(monkeypatch, tmp_path, "--only", "a", "c", "--workers", "64")
    assert threads == ["4", "4"]


@pytest.mark.parametrize("error", [subprocess.CalledProcessError(1, ["python"]), OSError("no space left")])
def test_what_needs_a_part_that_failed_is_not_run_and_all_else_is(started, tmp_path, monkeypatch, capsys, error):
    start = SETTINGS["execute"]

    def fail_in_a(words: list[str], *rest: Any) -> None:
        if words[-1].endswith("/a"):
            raise error
        start(words, *rest)

    with monkeypatch.context() as broken:
        broken.setitem(SETTINGS, "execute", fail_in_a)
        with pytest.raises(SystemExit, match="not complete: a, b; the same command goes on"):
            run(broken, tmp_path)
    assert [line[1] for line in started] == ["-m"]  # only the part c
    assert "b: not run, a failed" in capsys.readouterr().out
    assert json.loads((tmp_path / "docs/notebook/runs.json").read_text()).keys() == {"c"}
    run(monkeypatch, tmp_path)
    assert len(started) == 3


@pytest.mark.skipif(os.name == "nt", reason="there are no such signals on Windows")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_what_is_running_ends_with_it(tmp_path, number):
    """The part's program writes down that it was asked to end by SIGTERM; nothing is started after it."""
    (tmp_path / "part.py").write_text(
        "import pathlib, signal, sys, time\n"
        "here = pathlib.Path(sys.argv[1].split('=')[1])\n"
        "def end(*_): here.with_suffix('.ended').touch(); sys.exit(75)\n"
        "signal.signal(signal.SIGTERM, end)\n"
        "here.with_suffix('.begun').touch()\n"
        "time.sleep(60)\n"
    )
    program = (
        "import runpy, signal, sys\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # ignored where the tests run in the background
        f"settings = runpy.run_path({str(ROOT / 'benchmarks/paper.py')!r})\n"
        "main = settings['main'].__globals__\n"
        f"main['RUNS'] = {{'a': {str(tmp_path / 'part.py')!r}, 'b': {str(tmp_path / 'part.py')!r}}}\n"
        f"sys.argv = ['paper.py', '--out', {str(tmp_path)!r}]\n"
        "settings['main']()\n"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT / "benchmarks")}
    with subprocess.Popen([sys.executable, "-c", program], env=environment, stderr=subprocess.PIPE, text=True) as paper:
        while not (tmp_path / "a.begun").exists():
            assert paper.poll() is None
            time.sleep(0.05)
        paper.send_signal(number)
        assert "stopped; the same command goes on" in paper.communicate(timeout=30)[1]
    assert paper.returncode == 1 and (tmp_path / "a.ended").exists() and not (tmp_path / "b.begun").exists()


@pytest.mark.skipif(os.name == "nt", reason="there are no such signals on Windows")
def test_what_starts_while_it_is_stopped_ends_too(monkeypatch):
    monkeypatch.setitem(SETTINGS, "STOPPED", stopped := threading.Event())
    stopped.set()
    with pytest.raises(subprocess.CalledProcessError) as found:
        PAPER["execute"](["-c", "import time; time.sleep(60)"], dict(os.environ), None)
    assert found.value.returncode == -signal.SIGTERM


def test_signals_are_answered_afterwards_as_before(started, tmp_path, monkeypatch):
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    run(monkeypatch, tmp_path)
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before


def test_the_styles_are_the_photographs_that_are_trained_on(started, tmp_path, monkeypatch):
    """They are copied once, and as they are; a folder of other pictures is taken as it is."""
    contents, content = tmp_path / "contents", "{content} {styles}"
    contents.mkdir()
    for number in range(20):
        (contents / f"{number:02}.png").touch()
    monkeypatch.setitem(SETTINGS["RUNS"], "a", f"{TRAINS} x={content}")
    files = ["--content", str(contents)]
    run(monkeypatch, tmp_path, "--only", "a", *files)
    assert started[-1][3] == str(tmp_path / "out/styles")
    found = {file.name for file in (tmp_path / "out/styles").iterdir()}
    split = images.split(20, 0.02, 0.1, 0)
    assert found == {f"{number:02}.png" for number in split["train"]} and len(found) == 17
    (tmp_path / "out/a/summary.json").unlink()
    run(monkeypatch, tmp_path, "--only", "a", *files, "--styles", str(contents))
    assert started[-1][3] == str(contents)
    others = tmp_path / "others"
    contents.rename(others)
    for file in found:
        (others / file).rename(others / f"other_{file}")
    run(monkeypatch, tmp_path, "--only", "a", "--content", str(others))
    copied = {file.name for file in (tmp_path / "out/styles").iterdir()}
    assert len(copied) == 17 and copied <= {file.name for file in others.iterdir()}


def test_styles_are_copied_where_a_part_wants_them(started, tmp_path, monkeypatch, capsys):
    """Too few pictures are told in one line, before anything is run."""
    (tmp_path / "contents").mkdir()
    for number in range(2):
        (tmp_path / f"contents/{number}.png").touch()
    files = ["--content", str(tmp_path / "contents")]
    monkeypatch.setitem(SETTINGS["RUNS"], "a", f"{TRAINS} {{features}} {{styles}}")
    run(monkeypatch, tmp_path, "--only", "a", *files)
    assert "a: left out, it needs --features\n" in capsys.readouterr().out
    with pytest.raises(SystemExit) as ended:
        run(monkeypatch, tmp_path, *files, "--features", "weights.pth")
    assert ended.value.code == 2 and "2 pictures do not split" in capsys.readouterr().err
    assert not (tmp_path / "out/styles").exists() and not started


def test_what_is_shipped_is_compared_and_nothing_is_trained():
    commands = PAPER["commands"](True)
    assert PAPER["commands"](False) == PAPER["RUNS"]
    assert {"quadratic", "mnist", "mnist_2layers", "mnist_grid", "cifar10", "cifar5_1000steps"} < commands.keys()
    left_out = PAPER["RUNS"].keys() - commands
    assert {"mnist_start", "cifar5_sub_training", "architectures_digits", "digits_seed1"} <= left_out
    assert commands["cifar2"].endswith("learned.LSTM=cifar10 +learned.LSTM-sub=cifar2_sub +learned.general=general")
    assert " learned.LSTM=neural_art '+learned.LSTM-styles=neural_art_styles' " in commands["neural_art_style_2"]
    assert "{mnist}" in commands["mnist_relu"] and "learned.LSTM=mnist " in commands["mnist_relu"]


@pytest.mark.parametrize("name", PAPER["commands"](True))
def test_the_comparison_of_what_is_shipped_composes_and_finds_it(name):
    command = PAPER["commands"](True)[name]
    script, *overrides = shlex.split(command.replace("{", "").replace("}", ""))
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = compose(script.removesuffix(".py"), overrides)
    assert all((ROOT / "src/l2o/deploy/pretrained" / folder).is_dir() for folder in cfg.learned.values())

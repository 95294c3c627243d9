"""How a C++ source is compiled and cached."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from l2o.native import compilation
from l2o.optimizers.kernels import lstm_cpp

needs_compiler = pytest.mark.skipif(not lstm_cpp.available(), reason="no C++ compiler on this machine")
REPORT = """
import importlib.util, json, pathlib, sys
spec = importlib.util.spec_from_file_location("compilation", sys.argv[1])  # not through the package
compilation = importlib.util.module_from_spec(spec)
spec.loader.exec_module(compilation)
try:
    compilation.load(pathlib.Path(sys.argv[2])).answer
    print(json.dumps([True, ""]))
except compilation.CompilerError as error:
    print(json.dumps([False, str(error)]))
"""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source.cpp"
    path.write_text('extern "C" int answer() { return 42; }\n')
    return path


def start_report(source: Path, environment: dict[str, str], cache: Path) -> subprocess.Popen[str]:
    """A new process that prints [loaded, what is wrong] as JSON, with its own cache directory."""
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache), **environment}
    command = [sys.executable, "-c", REPORT, compilation.__file__, str(source)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str]) -> list[bool | str]:
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    return json.loads(out)


def script(path: Path, *lines: str) -> str:
    path.write_text("\n".join(["#!/bin/sh", *lines, ""]))
    path.chmod(0o755)
    return str(path)


@needs_compiler
def test_two_processes_compile_once(tmp_path: Path, source: Path) -> None:
    log = tmp_path / "log"
    wrapper = script(tmp_path / "wrapper", f'echo "$@" >> {log}', f'exec {compilation.find_compiler()[0]} "$@"')
    reports = [start_report(source, {"CXX": wrapper}, tmp_path / "cache") for _ in range(2)]
    assert [finish(report) for report in reports] == [[True, ""], [True, ""]]
    assert sum("-shared" in line for line in log.read_text().splitlines()) == 1
    assert len(list((tmp_path / "cache" / "l2o").glob("*.so"))) == 1


@needs_compiler
def test_a_compiler_that_does_not_know_this_processor(tmp_path: Path, source: Path) -> None:
    """It is asked again without the flag."""
    wrapper = script(
        tmp_path / "wrapper",
        'case "$*" in *=native*) echo "unknown value \'native\'" >&2; exit 1;; esac',
        f'exec {compilation.find_compiler()[0]} "$@"',
    )
    assert finish(start_report(source, {"CXX": wrapper}, tmp_path / "cache")) == [True, ""]
    assert len(list((tmp_path / "cache" / "l2o").glob("*.so"))) == 1


@needs_compiler
def test_a_compiler_that_is_stopped_leaves_no_slow_library(tmp_path: Path, source: Path) -> None:
    """As cc1plus is where memory runs out. Asked again without the flag, it would have time and memory enough."""
    wrapper = script(
        tmp_path / "wrapper",
        'case "$*" in *=native*) echo "g++: fatal error: Killed signal terminated program cc1plus" >&2; exit 1;; esac',
        f'exec {compilation.find_compiler()[0]} "$@"',
    )
    loaded, wrong = finish(start_report(source, {"CXX": wrapper}, tmp_path / "cache"))
    assert not loaded and "Killed signal terminated" in str(wrong)
    assert not list((tmp_path / "cache" / "l2o").glob("*.so"))


def test_without_a_compiler(tmp_path: Path, source: Path) -> None:
    (tmp_path / "empty").mkdir()
    loaded, wrong = finish(start_report(source, {"PATH": str(tmp_path / "empty"), "CXX": ""}, tmp_path / "cache"))
    assert not loaded and "no C++ compiler" in str(wrong)


def test_a_failing_compiler(tmp_path: Path, source: Path) -> None:
    wrapper = script(tmp_path / "wrapper", "echo the reason >&2", "echo more >&2", "exit 3")
    loaded, wrong = finish(start_report(source, {"CXX": wrapper}, tmp_path / "cache"))
    assert not loaded and str(wrong).endswith("failed with status 3: the reason")


@needs_compiler
def test_unwritable_cache(tmp_path: Path, source: Path) -> None:
    (tmp_path / "file").touch()  # a file where the cache directory would be: not even root can write there
    assert finish(start_report(source, {}, tmp_path / "file")) == [True, ""]


def test_the_processor_is_known_by_cpuinfo_or_by_sysctl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Linux and macOS; elsewhere by its architecture alone."""
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("model name : A\nflags : avx\ncpu MHz : 1234\nmodel name : A\n")
    script(tmp_path / "sysctl", 'echo "$1.brand_string: M"; echo "$2.neon: 1"')
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(compilation, "LINUX_PROCESSORS", cpuinfo)
    assert compilation.processor().splitlines()[-2:] == ["flags : avx", "model name : A"]
    cpuinfo.unlink()
    assert compilation.processor().splitlines()[-2:] == ["hw.optional.neon: 1", "machdep.cpu.brand_string: M"]
    (tmp_path / "sysctl").unlink()
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "M" not in compilation.processor().splitlines()[-1]

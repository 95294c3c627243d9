"""Free memory: of the machine, and what control groups leave of it."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from l2o.data import memory


def system(folder: Path, groups: str, **files: str) -> tuple[Path, Path]:
    """Folders like /proc, with 4 GiB free, and /sys/fs/cgroup, with these files."""
    (folder / "proc/self").mkdir(parents=True)
    (folder / "proc/meminfo").write_text("MemTotal: 9 kB\nMemAvailable:    4194304 kB\n")
    (folder / "proc/self/cgroup").write_text(groups)
    (folder / "groups").mkdir()
    for name, content in files.items():
        path = folder / "groups" / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return folder / "proc", folder / "groups"


def test_without_limits_it_is_the_machine_s(tmp_path: Path) -> None:
    assert memory.free(*system(tmp_path, "0::/\n")) == 2**32


def test_a_group_s_limit_counts_less_what_it_uses_and_more_what_it_can_give_up(tmp_path: Path) -> None:
    files = {"job__memory_dot_max": "1000000\n", "job__memory_dot_current": "700000\n"}
    files |= {"job__memory_dot_stat": "anon 5\ninactive_file 50000\n", "job__step__memory_dot_max": "max\n"}
    files |= {"job__step__memory_dot_current": "9\n"}
    assert memory.free(*system(tmp_path, "0::/job/step\n", **files)) == 350_000


def test_in_a_container_the_root_holds_the_limit(tmp_path: Path) -> None:
    """The process's path is the host's, and is not there."""
    files = {"memory_dot_max": "1000", "memory_dot_current": "400"}
    assert memory.free(*system(tmp_path, "0::/../elsewhere\n", **files)) == 600


def test_groups_of_the_first_version(tmp_path: Path) -> None:
    files = {"memory__a__memory_dot_limit_in_bytes": "5000", "memory__a__memory_dot_usage_in_bytes": "1000"}
    files |= {"memory__a__memory_dot_stat": "total_inactive_file 10\n"}
    assert memory.free(*system(tmp_path, "4:memory:/a\n3:cpu:/b\n0::/\n", **files)) == 4010


def test_a_group_beyond_its_limit_has_nothing_left(tmp_path: Path) -> None:
    files = {"memory_dot_max": "1000", "memory_dot_current": "1400"}
    assert memory.free(*system(tmp_path, "0::/\n", **files)) == 0


def test_where_there_is_no_proc_the_system_is_asked(tmp_path: Path) -> None:
    free = memory.free(tmp_path / "none", tmp_path / "none")
    assert free is not None and 0 < free <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(sys.platform != "linux", reason="ulimit -v is Linux's")
def test_a_limit_of_the_process_counts() -> None:
    code = f'import runpy; print(runpy.run_path("{memory.__file__}")["free"]())'  # without the package and torch
    limited = f"ulimit -v {8 * 2**20}; exec {sys.executable} -c {shlex.quote(code)}"
    done = subprocess.run(["bash", "-c", limited], capture_output=True, text=True, check=True)
    assert 0 < int(done.stdout) < 8 * 2**30


def test_what_fits_passes_and_what_does_not_is_refused() -> None:
    memory.refuse_if_too_large(10, "it", "help", free_bytes=10)
    with pytest.raises(ValueError, match=r"it needs some 2\.5 GB of memory, and 1\.0 GB are free: help"):
        memory.refuse_if_too_large(2.5e9, "it", "help", free_bytes=10**9)

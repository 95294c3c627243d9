"""How much memory is free, so that what does not fit is refused before the kernel ends the process.

Linux's own numbers and the limits of control groups (containers, Slurm) are read from their files.
"""

import os
from collections.abc import Iterator
from pathlib import Path

PROC, CGROUPS = Path("/proc"), Path("/sys/fs/cgroup")

BYTES_PER_GB = 1e9


def free(proc: Path = PROC, cgroups: Path = CGROUPS) -> int | None:
    """Return how many bytes this process can still take; None where the system does not tell."""
    limits = [*_of_machine(proc), *_of_control_groups(proc, cgroups), *_of_process(proc)]
    return max(0, min(limits)) if limits else None


def refuse_if_too_large(needed: float, what: str, remedy: str, free_bytes: int | None = None) -> None:
    """Raise a ValueError in one line where `needed` bytes are more than what is free.

    That is what this machine has free, or `free_bytes` of another device's memory.
    """
    available = free() if free_bytes is None else free_bytes
    if available is not None and needed > available:
        needs, has = needed / BYTES_PER_GB, available / BYTES_PER_GB
        raise ValueError(f"{what} needs some {needs:.1f} GB of memory, and {has:.1f} GB are free: {remedy}")


def _of_machine(proc: Path) -> Iterator[int]:
    try:
        lines = (proc / "meminfo").read_text().splitlines()
        yield next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    except (OSError, ValueError, IndexError, StopIteration):  # not Linux
        names = getattr(os, "sysconf_names", {})
        pages = next((name for name in ("SC_AVPHYS_PAGES", "SC_PHYS_PAGES") if name in names), None)
        if pages:
            yield os.sysconf(pages) * os.sysconf("SC_PAGE_SIZE")


def _of_control_groups(proc: Path, cgroups: Path) -> Iterator[int]:
    """What is left below the limit of each group that this process is in, and of the groups around it."""
    try:
        lines = [line.split(":", 2) for line in (proc / "self/cgroup").read_text().splitlines()]
    except OSError:
        return
    for _, controllers, path in (line for line in lines if len(line) == 3):
        if controllers == "":
            root, limit, used, cached = cgroups, "memory.max", "memory.current", "inactive_file"
        elif "memory" in controllers.split(","):
            root, limit, used = cgroups / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
            cached = "total_inactive_file"
        else:
            continue
        place = root / path.strip("/")
        for folder in (
            place,
            *place.parents,
        ):  # in a container, the path may be the host's: then the root alone is there
            if not folder.is_relative_to(root):
                break
            maximum, current = _number(folder / limit), _number(folder / used)
            if maximum is not None and current is not None:
                yield maximum - current + _statistic(folder / "memory.stat", cached)


def _of_process(proc: Path) -> Iterator[int]:
    """What is left of `ulimit -v`."""
    try:
        import resource

        limit, _ = resource.getrlimit(resource.RLIMIT_AS)
        if limit != resource.RLIM_INFINITY:
            pages = int((proc / "self/statm").read_text().split()[0])
            yield limit - pages * resource.getpagesize()
    except (ImportError, OSError, ValueError, IndexError):
        return


def _number(path: Path) -> int | None:
    """The number in a file; None where there is no file, or no limit ("max")."""
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def _statistic(path: Path, name: str) -> int:
    """One line of a group's statistics: memory that holds files and is given up when it is needed."""
    try:
        return next(int(line.split()[1]) for line in path.read_text().splitlines() if line.split()[:1] == [name])
    except (OSError, ValueError, IndexError, StopIteration):
        return 0

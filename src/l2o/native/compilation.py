"""A C++ source as a loaded library, compiled on first use and kept in a cache.

The machine's own compiler (`$CXX`, else c++, g++ or clang++) builds a source once; the library is kept in
`$XDG_CACHE_HOME/l2o` (default `~/.cache/l2o`), or for this process alone where that cannot be written.
"""

import ctypes
import hashlib
import os
import platform
import re
import shlex
import shutil
import subprocess
import sysconfig
import tempfile
from pathlib import Path

from l2o.files import cache_folder, locked, replacing

# No -ffast-math: linked into a shared library it makes the whole process flush denormals to zero (gcc before 13), and
# the kernel's own arithmetic gains nothing from it.
FLAGS = "-O3 -std=c++17 -ffp-contract=fast -fno-math-errno -fno-trapping-math -fPIC -shared -pthread"
HEADERS = Path(__file__).parent
"""Where the headers lie that sources of several parts of the package share."""

LINUX_PROCESSORS = Path("/proc/cpuinfo")


STOPPED = re.compile(
    r"\b(killed|terminated|out of memory|memory exhausted|cannot allocate memory|no space left)\b", re.IGNORECASE
)
"""What a compiler says that ran into a limit of the machine, or was ended by somebody."""


class CompilerError(Exception):
    """There is no compiler, or it failed."""


def load(source: Path) -> ctypes.CDLL:
    """The library from the cache, where it is compiled if it is not there yet.

    Raises CompilerError or OSError where that fails.
    """
    compiler = find_compiler()
    name = f"{source.stem}-{_fingerprint(source, compiler)}.so"
    try:
        return ctypes.CDLL(str(_cached(cache_folder() / name, source, compiler)))
    except (
        OSError,
        RuntimeError,
    ):  # no home, no cache that can be written, or no loading from there
        with tempfile.TemporaryDirectory() as directory:
            _compile(compiler, source, Path(directory) / name)
            return ctypes.CDLL(str(Path(directory) / name))


def find_compiler() -> list[str]:
    """The compiler's command. Raises CompilerError where there is none."""
    if command := shlex.split(os.environ.get("CXX", "")):
        return command
    for name in ("c++", "g++", "clang++"):
        if path := shutil.which(name):
            return [path]
    raise CompilerError("no C++ compiler found (c++, g++ or clang++ on PATH, or $CXX)")


def _native_flag() -> str:
    """The option for this very processor; its spelling depends on the architecture."""
    return "-march=native" if platform.machine().lower() in ("x86_64", "amd64") else "-mcpu=native"


def _fingerprint(source: Path, compiler: list[str]) -> str:
    """Return a hash of everything that the library depends on, the headers in both folders included."""
    folders = dict.fromkeys((source.parent, HEADERS))
    headers = [header for folder in folders for header in sorted(folder.glob("*.hpp"))]
    parts = [path.read_bytes() for path in (source, *headers)]
    parts += [FLAGS.encode(), shlex.join(compiler).encode(), _output([*compiler, "--version"])]
    parts += [processor().encode(), sysconfig.get_platform().encode()]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]


def processor() -> str:
    """The processor's model and instruction sets, as far as the system tells: homes are shared by unlike machines."""
    names = ("model name", "flags", "Features", "CPU implementer", "CPU part")
    try:
        lines = [line for line in LINUX_PROCESSORS.read_text().splitlines() if line.startswith(names)]
    except OSError:  # macOS
        lines = _output(["sysctl", "machdep.cpu", "hw.optional"]).decode(errors="replace").splitlines()
    return "\n".join([platform.machine(), platform.processor(), *sorted(set(lines))])


def _output(command: list[str]) -> bytes:
    """What a command prints; nothing where it is not there."""
    try:
        return subprocess.run(command, capture_output=True, check=False).stdout
    except OSError:
        return b""


def _cached(path: Path, source: Path, compiler: list[str]) -> Path:
    """The library in the cache. Of several processes that find it missing, one compiles it and the others wait.

    Raises OSError where the cache cannot be written.
    """
    if path.exists():  # it was moved there complete
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    with locked(path.with_name(f"{path.name}.lock")):
        if not path.exists():
            _compile(compiler, source, path)
    return path


def _compile(compiler: list[str], source: Path, path: Path) -> None:
    """Compile for this very processor, or for any one of its kind where the compiler does not know the processor.

    Raises CompilerError with the first line of what the compiler says where both fail, and where the compiler was
    stopped: a library for any processor, which may be three times as slow, would stay in the cache for good.
    """
    with replacing(path) as temporary:
        command = [*compiler, *FLAGS.split(), f"-I{HEADERS}", str(source), "-o", str(temporary)]
        result = subprocess.run([*command, _native_flag()], capture_output=True, text=True, check=False)
        if result.returncode > 0 and not STOPPED.search(result.stderr):
            result = subprocess.run(command, capture_output=True, text=True, check=False)
        if result.returncode:
            reason = result.stderr.strip().partition("\n")[0]
            raise CompilerError(f"{compiler[0]} failed with status {result.returncode}: {reason}")

"""Processes as /proc knows them, the memory of programs, and waiting for something."""

import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path


def wait_for(what: Callable[[], object], seconds: float = 120) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "it did not come about in time"
        time.sleep(0.005)


def children(pid: int) -> set[int]:
    """Return all processes below one."""
    above = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            above[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
    found = {pid}
    while new := {each for each, its in above.items() if its in found} - found:
        found |= new
    return found - {pid}


def is_there(pid: int) -> bool:
    """Whether a process runs; one that has ended, and that nobody asked about, does not."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    return False


def peak_memory() -> int:
    """Return the most bytes that this process has held.

    Not `ru_maxrss`, which on Linux begins at the size of the process that starts a program: that of one which
    runs tests is so large that it would not grow at all.
    """
    if sys.platform == "linux":
        lines = Path("/proc/self/status").read_text().splitlines()
        (line,) = (line for line in lines if line.startswith("VmHWM:"))
        return int(line.split()[1]) << 10
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def memory_grown(code: str, *arguments: str) -> tuple[int, list[str]]:
    """Return by how many bytes the peak of a program grows, and the lines that it prints besides.

    It prints `peak_memory()` twice: in its first line, and in its last.
    """
    program = [sys.executable, "-c", code, *arguments]
    root = Path(__file__).parents[1]
    done = subprocess.run(program, cwd=root, capture_output=True, text=True, check=True)
    first, *between, last = done.stdout.splitlines()
    return int(last) - int(first), between

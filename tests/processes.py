"""Processes as /proc knows them, and waiting for something."""

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

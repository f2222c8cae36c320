"""Worker processes that read and open images."""

import os
import signal
from collections.abc import Iterator
from functools import partial
from typing import Any

from torch.utils.data import DataLoader

_NICE = 10
"""Added to the niceness of a worker: about a tenth of a core, where another process wants all of it."""


def cores() -> int:
    """Return how many cores this process may run on."""
    affinity = getattr(os, "sched_getaffinity", None)  # on Linux: a container's own, a job's
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def start_workers(loader: DataLoader[Any]) -> Iterator[Any]:
    """Begin to read, with the workers deaf to Ctrl-C, which a terminal sends to all processes at once.

    Where the model and a worker want a core, the model has it: the workers have what it leaves, so that there
    can be as many of them as there are cores, whichever of the two takes longer.
    They end with this process, however it ends: by its loader, or as they see it gone, within seconds.
    """
    loader.worker_init_fn = partial(_begin, os.getpid())
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        return iter(loader)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # which new processes have, too
    try:
        return iter(loader)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _begin(parent: int, worker: int) -> None:
    """Let other processes go first, and end with a parent that was killed before.

    Torch takes whoever has the worker then for its parent.
    """
    if hasattr(os, "nice"):
        os.nice(_NICE)
    if hasattr(os, "fork") and os.getppid() != parent:  # on Windows torch has a handle of the parent
        os._exit(1)

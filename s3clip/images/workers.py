"""Worker processes that read and open images."""

import os
import signal
from collections.abc import Iterator
from functools import partial
from typing import Any

from torch.utils.data import DataLoader


def start_workers(loader: DataLoader[Any]) -> Iterator[Any]:
    """Begin to read, with the workers deaf to Ctrl-C, which a terminal sends to all processes at once.

    They end with this process, however it ends: by its loader, or as they see it gone, within seconds.
    """
    loader.worker_init_fn = partial(_end_without, os.getpid())
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        return iter(loader)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # which new processes have, too
    try:
        return iter(loader)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end_without(parent: int, worker: int) -> None:
    """End a worker whose parent was killed while it began: torch takes whoever has it then for its parent."""
    if hasattr(os, "fork") and os.getppid() != parent:  # on Windows torch has a handle of the parent
        os._exit(1)

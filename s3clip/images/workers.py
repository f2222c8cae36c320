"""Worker processes that read and open images."""

import signal
from collections.abc import Iterator
from typing import Any

from torch.utils.data import DataLoader


def start_workers(loader: DataLoader[Any]) -> Iterator[Any]:
    """Begin to read, with the workers deaf to Ctrl-C, which a terminal sends to all processes at once.

    They end with this process, however it ends: by its loader, or as they see it gone, within seconds.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        return iter(loader)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # which new processes have, too
    try:
        return iter(loader)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)

"""Workers that read and open images: processes, or threads where few are enough."""

import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, Generic, TypeVar

import torch
from torch.utils.data import DataLoader

Thing = TypeVar("Thing")
Made = TypeVar("Made")

_NICE = 10
"""Added to the niceness of a worker: about a tenth of a core, where something else wants all of it."""


def cores() -> int:
    """Return how many cores this process may run on."""
    affinity = getattr(os, "sched_getaffinity", None)  # on Linux: a container's own, a job's
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def in_workers(
    make: Callable[[Thing], Made],
    things: Iterable[Thing],
    *,
    workers: int,
    ahead: int,
    context: str | None = None,
    pinned: bool = False,
) -> Iterator[Made]:
    """Give what a function makes of things, in their order, whatever worker made it.

    Things are asked for in this process, `ahead` of them for each worker before they are needed; both they
    and what is made of them pass between processes.

    Args:
        make: can be pickled where processes are spawned.
        things: in order.
        workers: processes; 0: this one does, each thing when it is asked for.
        ahead: things on their way for each worker.
        context: how processes start, as in multiprocessing; None: as the system has it.
        pinned: have a thread put what is made into pinned memory, by its `pin_memory`.
    """
    dataset: Any = _Making(make)
    sampler: Any = things  # what the loader calls indices
    loader = DataLoader(
        dataset,
        batch_size=None,
        sampler=sampler,
        num_workers=workers,
        prefetch_factor=ahead if workers else None,
        collate_fn=_unchanged,
        multiprocessing_context=context if workers else None,
        pin_memory=pinned,
    )
    yield from start_workers(loader)


def in_threads(
    make: Callable[[Thing], Made], things: Iterable[Thing], *, workers: int, ahead: int
) -> Iterator[Made]:
    """Give what `in_workers` gives, made by threads, one or more.

    They begin at once, and pass nothing on, where a process imports for seconds. But they share one
    interpreter: of many, most would wait for it.
    """
    making: deque[Future[Made]] = deque()
    pool = ThreadPoolExecutor(workers, initializer=_begin_thread)
    try:
        for thing in things:
            making.append(pool.submit(make, thing))
            del thing
            if len(making) > workers * ahead:
                yield making.popleft().result()
        while making:
            yield making.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


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
    sys.excepthook = _say_unless_nobody_takes
    if hasattr(os, "nice"):
        os.nice(_NICE)
    if hasattr(os, "fork") and os.getppid() != parent:  # on Windows torch has a handle of the parent
        os._exit(1)


def _say_unless_nobody_takes(kind: type[BaseException], error: BaseException, trace: Any) -> None:
    """Print an error, as Python does, but of what a worker holds out to a process that ends.

    It shares its tensors by a thread, which tells of a receiver that is gone; other errors go to the loader.
    """
    if not issubclass(kind, ConnectionError | EOFError):
        sys.__excepthook__(kind, error, trace)


def _begin_thread() -> None:
    """Let other threads go first where threads can (Linux), and compute on one core."""
    torch.set_num_threads(1)
    if sys.platform == "linux":
        own = threading.get_native_id()
        os.setpriority(os.PRIO_PROCESS, own, os.getpriority(os.PRIO_PROCESS, own) + _NICE)


class _Making(Generic[Thing, Made]):
    """A function as what the loader calls a dataset."""

    def __init__(self, make: Callable[[Thing], Made]) -> None:
        self.make = make

    def __getitem__(self, thing: Thing) -> Made:
        return self.make(thing)


def _unchanged(made: Any) -> Any:
    return made

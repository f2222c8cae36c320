"""The engine of one machine: this process encodes and labels, workers of a data loader read and decode."""

from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import pyarrow as pa
import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from s3clip.backbone.image_transform import ImageTransform
from s3clip.bulk.decoding import DecodedBatch
from s3clip.bulk.labelling import Labeller
from s3clip.bulk.output import Output, Part
from s3clip.bulk.work import Task, write_part
from s3clip.images.workers import start_workers

Thing = TypeVar("Thing")

EMBEDDING_THREADS = 2
"""Threads that label embeddings: while one of them does what one core can do, the other one multiplies."""


_AHEAD = 2  # batches of embeddings that are read while others are labelled


class _Batches(IterableDataset):  # type: ignore[type-arg]  # of (position of the task, batch)
    """The batches of all tasks; each worker has every n-th task."""

    def __init__(self, tasks: Sequence[Task], preprocess: ImageTransform | None) -> None:
        self.tasks = tasks
        self.preprocess = preprocess

    def __iter__(self) -> Iterator[tuple[int, DecodedBatch]]:
        worker = get_worker_info()
        first, step = (0, 1) if worker is None else (worker.id, worker.num_workers)
        for position in range(first, len(self.tasks), step):
            for batch in self.tasks[position].batches(self.preprocess):
                yield position, batch


def label_locally(
    tasks: Sequence[Task],
    preprocess: ImageTransform | None,
    labeller: Labeller,
    output: Output,
    *,
    workers: int,
) -> Generator[Part, None, None]:
    """Label tasks and give the parts as they are written.

    Workers read pictures, or a thread reads embeddings, others label, one more writes: none of them waits for
    another one's work. Memory: two batches a worker or `_AHEAD` of embeddings, one a thread, and the rows of
    as many parts as there are workers and of two more.

    Args:
        tasks: what to do.
        preprocess: what makes pixels of pictures; None where there are none.
        labeller: with the head.
        output: where to.
        workers: processes that read and decode; 0: this one does.
    """
    workers = min(workers, len(tasks))
    batches: Iterable[tuple[int, DecodedBatch]] = _Batches(tasks, preprocess)
    if workers:
        loader: DataLoader[Any] = DataLoader(
            batches,  # type: ignore[arg-type]  # it is one of those
            batch_size=None,
            num_workers=workers,
            prefetch_factor=2,
            pin_memory=labeller.head.space.raw.device.type == "cuda",
            multiprocessing_context="spawn",
        )
        batches = start_workers(loader)
    elif preprocess is None:
        batches = read_ahead(batches, _AHEAD)
    # Each thread computes with its share of torch's own; workers have what is left, see `start_workers`.
    before = torch.get_num_threads()
    threads = min(EMBEDDING_THREADS, before) if preprocess is None else 1
    share = max(1, before // threads)
    classes = len(labeller.head.classes)
    rows: dict[int, list[Future[pa.Table]]] = {}
    labelling: deque[Future[pa.Table]] = deque()
    writing: Future[Part] | None = None
    try:
        with (
            ThreadPoolExecutor(1) as writer,
            ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(share,)) as labellers,
        ):
            for position, batch in batches:
                task = tasks[position]
                labelling.append(labellers.submit(labeller.rows, task.name, batch))
                rows.setdefault(position, []).append(labelling[-1])
                if len(labelling) > threads:
                    labelling.popleft().result()
                if writing is not None and (batch.ends_part or writing.done()):
                    yield writing.result()
                    writing = None
                if batch.ends_part:
                    own = rows.pop(position)
                    writing = writer.submit(_write, task.part(batch), own, classes, output)
            if writing is not None:
                yield writing.result()
    finally:
        torch.set_num_threads(before)  # those of later threads, which would be as many as the last were given


def read_ahead(things: Iterable[Thing], count: int) -> Iterator[Thing]:
    """Give things in their order, up to `count` of which a thread of its own has made ahead.

    What it raises is raised behind those that came before.
    """
    end = object()
    iterator = iter(things)
    with ThreadPoolExecutor(1) as reader:
        ahead = deque(reader.submit(next, iterator, end) for _ in range(count))
        while (thing := ahead.popleft().result()) is not end:
            ahead.append(reader.submit(next, iterator, end))
            yield thing  # type: ignore[misc]  # it is not `end`
            del thing


def _write(part: Part, rows: Sequence[Future[pa.Table]], classes: int, output: Output) -> Part:
    return write_part(part, [each.result() for each in rows], classes, output)

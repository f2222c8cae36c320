"""The engine of one machine: this process encodes and labels, workers of a data loader read and decode."""

from collections.abc import Iterator, Sequence
from typing import Any

from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from s3clip.backbone import ImageTransform
from s3clip.bulk.decoding import DecodedBatch
from s3clip.bulk.labelling import Labeller
from s3clip.bulk.output import Output, Part
from s3clip.bulk.work import Task, write_part


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
) -> Iterator[Part]:
    """Label tasks and give the parts as they are written.

    Memory: two batches a worker, one in the model, and the rows of as many parts as there are workers.

    Args:
        tasks: what to do.
        preprocess: what makes pixels of pictures; None where there are none.
        labeller: with the head.
        output: where to.
        workers: processes that read and decode; 0: this one does.
    """
    workers = min(workers, len(tasks))
    more: dict[str, Any] = {"prefetch_factor": 2, "multiprocessing_context": "spawn"} if workers else {}
    loader = DataLoader(_Batches(tasks, preprocess), batch_size=None, num_workers=workers, **more)
    rows: dict[int, list[Any]] = {}
    first: dict[int, int] = {}
    for position, batch in loader:
        # Labelled at once, so that pixels are not held until the part ends.
        first.setdefault(position, batch.first)
        rows.setdefault(position, []).append(labeller.rows(tasks[position].name, batch))
        if batch.ends_part:
            part = tasks[position].part(first.pop(position))
            yield write_part(part, batch, rows.pop(position), labeller, output)

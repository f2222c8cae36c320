"""The engine of one machine: this process lists, encodes and labels; workers open the pictures."""

from collections import deque
from collections.abc import Container, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import pyarrow as pa
import torch

from s3clip.backbone.image_transform import ImageTransform
from s3clip.bulk.decoding import DecodedBatch, ListedBatch, joined
from s3clip.bulk.embedding_shards import EmbeddingFile
from s3clip.bulk.labelling import Labeller
from s3clip.bulk.output import Output, Part
from s3clip.bulk.work import Task, write_part
from s3clip.images.sources import FileShard
from s3clip.images.workers import in_threads, in_workers

Thing = TypeVar("Thing")

THREADS = 2
"""Threads that label on a CPU: while one of them does what one core can do, the other one multiplies; and
none waits within a product for another one's core, which a worker may have just then."""

PIECES = 8
"""Into so many pieces a batch of pictures is cut, for workers of their own, where there are few batches."""

FEW = 16
"""Batches for each worker. Where there are more, a worker opens one whole, which is not to be joined then."""

MOST_THREADS = 4
"""So many workers are threads, which begin at once, where a CPU labels, whose pace they keep up with; more of
them, and those of a GPU, are processes."""

_AHEAD = 2  # batches that are read while others are labelled: of embeddings, and of pictures for each worker
_SHARDS = 4  # of pictures that are listed at once: some bring the encoded pictures along, from stores too

_Listed = tuple[int, ListedBatch | DecodedBatch]
"""The position of a task, and a batch of it; what is no picture has been read."""
_Piece = tuple[int, bool, Thing]
"""The position of a task, whether a batch ends here, and the batch, or a piece of it."""


def _pictures(
    tasks: Sequence[Task], preprocess: ImageTransform, workers: int, device: torch.device
) -> Iterator[tuple[int, DecodedBatch]]:
    """Give the batches of pictures of all tasks, each with the position of its task, those of one in order.

    Workers open them; which one does, depends neither on the shard nor on the part.
    """
    own = {i: task for i, task in enumerate(tasks) if not isinstance(task.shard, EmbeddingFile)}
    size, workers = _spread(list(own.values()), workers)
    ended: set[int] = set()
    pieces: list[DecodedBatch] = []
    for position, ends_batch, piece in _opened(own, ended, _Opening(preprocess), size, workers, device):
        pieces.append(piece)
        del piece
        if not ends_batch:
            continue
        batch = joined(pieces)
        pieces = []
        if position not in ended:
            batch = own[position].checked(batch)
            if batch.broken is not None:
                ended.add(position)
            yield position, batch
        del batch


def _opened(
    tasks: Mapping[int, Task],
    ended: Container[int],
    opening: "_Opening",
    size: int,
    workers: int,
    device: torch.device,
) -> Iterator[_Piece[DecodedBatch]]:
    """Give the pieces of all batches in order, opened by workers; of tasks that have ended, few more."""
    pieces = _pieces(_listed(tasks, ended, workers), size)
    ahead = _AHEAD * max(-(-task.rows_per.batch // size) for task in tasks.values())
    if device.type == "cpu" and 0 < workers <= MOST_THREADS:
        return in_threads(opening, pieces, workers=workers, ahead=ahead)
    on_gpu = device.type == "cuda"
    return in_workers(opening, pieces, workers=workers, ahead=ahead, context="spawn", pinned=on_gpu)


def _listed(tasks: Mapping[int, Task], ended: Container[int], workers: int) -> Iterator[_Listed]:
    def of(positions: Iterable[int]) -> Iterator[_Listed]:
        for position in positions:
            for batch in tasks[position].listed():
                if position in ended:
                    break
                yield position, batch

    if not workers:
        return of(tasks)
    return in_turns([read_ahead(of(list(tasks)[lane::_SHARDS]), 1) for lane in range(_SHARDS)])


def _spread(tasks: Sequence[Task], workers: int) -> tuple[int, int]:
    """Return how many pictures are opened at once, and by how many workers."""
    batch = tasks[0].rows_per.batch
    if not all(isinstance(task.shard, FileShard) for task in tasks):
        return batch, workers  # nobody knows how many pictures there are
    count = sum(len(task.files) for task in tasks)
    size = batch if count > FEW * workers * batch else -(-batch // PIECES)
    return size, min(workers, -(-count // size))


@dataclass(frozen=True)
class _Opening:
    """What the workers do."""

    preprocess: ImageTransform

    def __call__(self, piece: _Piece[ListedBatch | DecodedBatch]) -> _Piece[DecodedBatch]:
        position, ends_batch, batch = piece
        if isinstance(batch, ListedBatch):
            batch = batch.opened(self.preprocess)
        return position, ends_batch, batch


def label_locally(
    tasks: Sequence[Task],
    preprocess: ImageTransform | None,
    labeller: Labeller,
    output: Output,
    *,
    workers: int,
) -> Generator[Part, None, None]:
    """Label tasks and give the parts as they are written.

    Workers open pictures, or a thread reads embeddings, others label, one more writes: none of them waits for
    another one's work. Memory: `_AHEAD` batches of pictures for each worker and two for each of `_SHARDS`,
    which are not opened, or `_AHEAD` of embeddings; one for each thread; and the rows of as many parts as
    there are shards listed at once and of two more.

    Args:
        tasks: what to do.
        preprocess: what makes pixels of pictures; None where there are none.
        labeller: with the head.
        output: where to.
        workers: threads or processes that open pictures; 0: this thread does.
    """
    device = labeller.head.space.raw.device
    # Each thread computes with its share of torch's own; workers have what is left, see `images.workers`.
    before = torch.get_num_threads()
    threads = min(THREADS, before) if preprocess is None or device.type == "cpu" else 1
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
            for position, batch in _batches(tasks, preprocess, workers, device):
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


def _batches(
    tasks: Sequence[Task], preprocess: ImageTransform | None, workers: int, device: torch.device
) -> Iterator[tuple[int, DecodedBatch]]:
    """Give the batches of all tasks, each with the position of its task: pictures go first."""
    if preprocess is not None:
        yield from _pictures(tasks, preprocess, workers, device)
    yield from read_ahead(_embeddings(tasks), _AHEAD)


def _embeddings(tasks: Sequence[Task]) -> Iterator[tuple[int, DecodedBatch]]:
    for position, task in enumerate(tasks):
        if isinstance(task.shard, EmbeddingFile):
            for batch in task.batches(None):
                yield position, batch


def _pieces(listed: Iterable[_Listed], size: int) -> Iterator[_Piece[ListedBatch | DecodedBatch]]:
    for position, batch in listed:
        pieces: Sequence[ListedBatch | DecodedBatch] = [batch]
        if isinstance(batch, ListedBatch):
            pieces = batch.pieces(size)
        for piece in pieces:
            yield position, piece is pieces[-1], piece


def in_turns(lanes: Sequence[Iterator[Thing]]) -> Iterator[Thing]:
    """Give a thing of each iterator in turn, as long as they have some."""
    waiting, end = deque(lanes), object()
    while waiting:
        lane = waiting.popleft()
        if (thing := next(lane, end)) is not end:
            waiting.append(lane)
            yield thing  # type: ignore[misc]  # it is not `end`


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

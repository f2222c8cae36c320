"""Ordered pictures from where they lie: files, tar shards of web datasets, parquet files; here or on the Hub.

A source is a sequence of shards, a shard a sequence of samples, both in an order that never changes. `read`
opens the pictures in worker processes, and gives the same batches for any number of workers.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from PIL import Image

from s3clip.files.addresses import LARGEST_FILE, is_address, open_binary
from s3clip.files.reach import Named, Reach
from s3clip.images.opening import BrokenImageError, open_image
from s3clip.images.workers import in_workers

BATCH_SIZE = 64
ENCODED_BYTES = 1 << 30
"""What the encoded pictures of a batch, of those that shards bring along, may take at most."""
FILES_PER_SHARD = 1024
_BATCHES_AHEAD = 2  # for each worker
_MANY_BYTES = f"the pictures of its batch have more than {ENCODED_BYTES:,} bytes; take smaller batches"


@dataclass(frozen=True)
class Span:
    """A run of bytes in a file, such as a member of a tar: read when the picture is opened."""

    path: Path | str
    offset: int
    size: int

    def read(self) -> bytes:
        """Return the bytes, fewer where the file ends before; ValueError where they are too many."""
        if self.size > LARGEST_FILE:
            raise ValueError(f"it has {self.size:,} bytes, and {LARGEST_FILE:,} are read at most")
        with open_binary(self.path) as file:
            file.seek(self.offset)
            return file.read(self.size)


@dataclass(frozen=True)
class Unread:
    """A picture that is not read, and why."""

    reason: str

    def read(self) -> bytes:
        """Raise ValueError."""
        raise ValueError(self.reason)


@dataclass(frozen=True)
class Sample:
    """One picture of a source.

    Attributes:
        key: unique in its source, and the same every time: "cats/1.jpg", "test/0.tar/s0000001".
        label: what the source says of it: a number, the name of its folder, the value of its column.
        data: the encoded picture, or where it is; a string is an address that fsspec reads.
    """

    key: str
    label: int | str | None
    data: Path | str | Span | Named | Unread | bytes

    def open(self, needed: int | None = None) -> Image.Image:
        """Return the picture in RGB, upright; for the errors see `read`, for `needed` see `open_image`."""
        with self._named():
            data: Any = self.data
            if isinstance(data, Named) and isinstance(file := data.find(), Path):
                data = file
            elif isinstance(data, Span | Named | Unread):
                data = data.read()
            return open_image(data, name=self.key, needed=needed)

    def read(self) -> bytes:
        """Return the encoded picture.

        Raises:
            FileNotFoundError: there is no such file; the key is named.
            BrokenImageError: it is not a readable picture; the key is named.
            ConnectionError: the store that it is in cannot be reached.
        """
        if isinstance(self.data, bytes):
            return self.data
        with self._named():
            if isinstance(self.data, Span | Named | Unread):
                return self.data.read()
            with open_binary(self.data) as file:
                return file.read()

    @contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except BrokenImageError:
            raise
        except ConnectionError as error:
            if not (isinstance(self.data, Named) and is_address(self.data.name)):
                raise
            # What somebody wrote into a table says nothing of the store that the table is in.
            raise BrokenImageError(f"{self.key}: what it names cannot be reached") from error
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{self.key}: no such file") from error
        except (OSError, ImportError, ValueError) as error:  # of a tar, a store, or the package for one
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise BrokenImageError(f"{self.key}: not a readable image ({reason})") from error


class BrokenShardError(OSError):
    """A shard that is not there, is none, or ends before it should; it is named.

    Attributes:
        position: how many samples came before.
    """

    def __init__(self, message: str, position: int = 0) -> None:
        super().__init__(message, position)
        self.message, self.position = message, position

    def __str__(self) -> str:
        return self.message


@dataclass
class Reading:
    """How many samples of a shard have been given."""

    position: int


@contextmanager
def breaking_off(name: str, what: str, start: int = 0) -> Iterator[Reading]:
    """Say of a shard that it breaks off, whatever the errors are that its reader raises.

    Args:
        name: of the shard.
        what: it should be.
        start: the number of its first sample to be given; whoever reads counts on from there.

    Raises:
        BrokenShardError: for any error but these.
        ConnectionError: the store cannot be reached.
        ImportError: the package that reads such files is not installed.
    """
    reading = Reading(start)
    try:
        yield reading
    except (ConnectionError, ImportError, BrokenShardError):
        raise
    except Exception as error:  # KeyError, RecursionError, MemoryError of a damaged length, ...
        if isinstance(error, FileNotFoundError | IsADirectoryError | NotADirectoryError):
            said = "no such file"
        elif isinstance(error, PermissionError):
            said = "it may not be read"
        else:
            reason = (str(error) or type(error).__name__).splitlines()[0]
            said = f"not a readable {what}: {reason} after {reading.position:,} samples"
        raise BrokenShardError(f"{name}: {said}", reading.position) from error


class Shard(Protocol):
    """A run of samples that is read from its start to its end. It can be pickled."""

    @property
    def name(self) -> str:
        """Unique in its source, and the same every time."""

    def samples(self, start: int = 0) -> Iterator[Sample]:
        """Give the samples in order, from number `start` on.

        Raises:
            BrokenShardError: after the last sample that can be had, if that is not the end.
        """


class Listed(NamedTuple):
    """A picture file: its path below the root of its source, and its label.

    With a reach, the path stands in a file, and leads as far as that says.
    """

    path: str
    label: int | str | None
    reach: Reach | None = None


@dataclass(frozen=True)
class FileShard:
    """Picture files. One that is not there is a sample all the same, and fails to open.

    Attributes:
        name: of the shard.
        root: the folder that their paths begin at; None: they are whole paths, or addresses.
        files: in order. A path is a key as well.
    """

    name: str
    root: Path | None
    files: tuple[Listed, ...]

    def samples(self, start: int = 0) -> Iterator[Sample]:
        """Give the files in order."""
        for path, label, reach in self.files[start:]:
            if reach is not None:
                yield Sample(path, label, Named(path, reach))
            elif self.root is not None:
                yield Sample(path, label, self.root / path)
            else:
                yield Sample(path, label, path if is_address(path) else Path(path))


def file_shards(root: Path, files: Sequence[Listed], size: int = FILES_PER_SHARD) -> list[FileShard]:
    """Return picture files in shards, in the order given.

    Args:
        root: the folder that their paths begin at.
        files: each once.
        size: files in a shard.

    Raises:
        ValueError: a path is there twice.
    """
    path, times = Counter(file.path for file in files).most_common(1)[0] if files else ("", 1)
    if times > 1:
        raise ValueError(f"files: {path} is listed {times} times")
    return [
        FileShard(f"files-{first:07d}", root, tuple(files[first : first + size]))
        for first in range(0, len(files), size)
    ]


def natural(name: str) -> list[tuple[int, int, str]]:
    """Return a key that sorts "2.tar" before "10.tar"."""
    parts = re.findall(r"\d+|\D+", name)
    return [(0, int(part), part) if part.isdecimal() else (1, 0, part) for part in parts]


@dataclass(frozen=True)
class Record:
    """What became of a sample: all of it but the picture.

    Attributes:
        shard: the name of its shard.
        index: its number in the shard.
        key: as in the sample; the name of the shard where the shard breaks off here.
        label: as in the sample.
        error: why there is no picture; None if there is one.
    """

    shard: str
    index: int
    key: str
    label: int | str | None
    error: str | None = None


@dataclass(frozen=True)
class Batch:
    """Successive samples of one shard.

    Attributes:
        records: one for each sample, readable or not.
        value: `transform` of those pictures whose record has no error, in order; None if there are none.
    """

    records: tuple[Record, ...]
    value: Any


def read(
    shards: Sequence[Shard],
    *,
    opening: Callable[[Sample], Any] = Sample.open,
    transform: Callable[[Iterator[Any]], Any] | None = None,
    start: int = 0,
    batch_size: int = BATCH_SIZE,
    workers: int = 0,
) -> Iterator[Batch]:
    """Give the samples of the shards in order, in batches, with the pictures opened.

    A batch lies in one shard, and begins at a multiple of `batch_size` after `start`: whoever stops after a
    batch, or gives every process some of the shards, gets the same batches as one that reads through. They
    do not depend on `workers` either. At most two batches a worker are held.

    A picture that cannot be read, and a shard that breaks off, is a record with an error.

    Args:
        shards: in the order to read them.
        opening: how the workers open a sample; `transform` gets what it returns.
        transform: what the workers do with the pictures of a batch, one or more, which are opened as it asks
            for them: `ImageTransform` holds a few at a time. None keeps them all. Both must be picklable
            where processes are spawned.
        start: how many samples of the first shard to skip.
        batch_size: samples in a batch; the last of a shard may have fewer.
        workers: processes that open and transform; 0: this one does.

    Raises:
        ValueError: a number that is too small.
        ConnectionError: the Hub cannot be reached; start again behind the last batch.
    """
    for name, value, least in (("start", start, 0), ("batch_size", batch_size, 1), ("workers", workers, 0)):
        if value < least:
            raise ValueError(f"{name}: expected {least} or more, got {value}")
    # The samples are listed here, which costs little.
    tasks = _tasks(shards, start, batch_size)
    yield from in_workers(_Opened(opening, transform), tasks, workers=workers, ahead=_BATCHES_AHEAD)


class Run(NamedTuple):
    """Successive samples of a shard, not opened yet.

    Attributes:
        first: the number of the first in the shard.
        samples: in order; those that end the shard may be fewer than the others, or none.
        broken: why the shard breaks off behind them.
    """

    first: int
    samples: list[Sample]
    broken: BrokenShardError | ConnectionError | None = None


def cut(shard: Shard, size: int, start: int = 0) -> Iterator[Run]:
    """Cut the samples of a shard, from number `start` on, into runs of `size`.

    Of those beyond `ENCODED_BYTES` in a run the pictures are not kept: they fail to open, and say why.
    """
    first, found, broken, held = start, [], None, 0
    try:
        for sample in shard.samples(start):
            held += len(sample.data) if isinstance(sample.data, bytes) else 0
            found.append(sample if held <= ENCODED_BYTES else replace(sample, data=Unread(_MANY_BYTES)))
            if len(found) == size:
                yield Run(first, found)
                first, found, held = first + size, [], 0
    except (BrokenShardError, ConnectionError) as error:  # the samples before it are not lost
        broken = error
    if found or broken is not None:
        yield Run(first, found, broken)


def open_samples(
    samples: Sequence[Sample], errors: dict[int, str], opening: Callable[[Sample], Any] = Sample.open
) -> Iterator[Any]:
    """Give the pictures that can be read, in order, each opened when it is asked for.

    Args:
        samples: in order.
        errors: gets why the others cannot be read, by their places.
        opening: of a sample.

    Raises:
        ConnectionError: a store cannot be reached, which says nothing of the picture.
    """
    for place, sample in enumerate(samples):
        try:
            opened = opening(sample)
        except ConnectionError:
            raise
        except (OSError, ValueError, MemoryError) as error:
            errors[place] = str(error) or f"{sample.key}: it takes more memory than there is"
            continue
        yield opened
        del opened  # the next one is not to be opened beside it


def _tasks(shards: Sequence[Shard], start: int, size: int) -> Iterator[tuple[str, Run]]:
    """Give the runs of all shards, with the names of those."""
    for shard in shards:
        for run in cut(shard, size, start):
            if isinstance(run.broken, ConnectionError):
                raise run.broken
            # Whoever starts right behind a break has had its record. Where it is earlier than that, the shard
            # has lost something since.
            if run.broken is not None and run.broken.position == start - 1:
                run = run._replace(broken=None)
            if run.samples or run.broken is not None:
                yield shard.name, run
        start = 0


class _Opened:
    """Opens the pictures of a task."""

    def __init__(
        self, opening: Callable[[Sample], Any], transform: Callable[[Iterator[Any]], Any] | None
    ) -> None:
        self.opening, self.transform = opening, transform

    def __call__(self, task: tuple[str, Run]) -> Batch:
        name, (first, samples, broken) = task
        errors: dict[int, str] = {}
        opened = open_samples(samples, errors, self.opening)
        value: Any = None
        if one := list(islice(opened, 1)):
            images = _popped(one, opened)
            value = list(images) if self.transform is None else self.transform(images)
        records = [
            Record(name, first + place, sample.key, sample.label, errors.get(place))
            for place, sample in enumerate(samples)
        ]
        if broken is not None:
            records.append(Record(name, first + len(samples), name, None, str(broken)))
        return Batch(tuple(records), value)


def _popped(first: list[Any], rest: Iterator[Any]) -> Iterator[Any]:
    """Give the one in the list and the rest, and hold none of them."""
    yield first.pop()
    yield from rest

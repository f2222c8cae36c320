"""Ordered pictures from where they lie: files, tar shards of web datasets, parquet files; here or on the Hub.

A source is a sequence of shards, a shard a sequence of samples, both in an order that never changes. `read`
opens the pictures in worker processes, and gives the same batches for any number of workers.
"""

import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from PIL import Image

from s3clip.images import BrokenImageError, open_image

BATCH_SIZE = 64
FILES_PER_SHARD = 1024


@dataclass(frozen=True)
class Span:
    """A run of bytes in a file, such as a member of a tar: read when the picture is opened."""

    path: Path
    offset: int
    size: int

    def read(self) -> bytes:
        """Return the bytes.

        Raises:
            OSError: the file is not there, or ends before.
        """
        with self.path.open("rb") as file:
            file.seek(self.offset)
            content = file.read(self.size)
        if len(content) < self.size:
            raise OSError(f"{self.path}: ends at byte {self.offset + len(content)}, inside a picture")
        return content


@dataclass(frozen=True)
class Sample:
    """One picture of a source.

    Attributes:
        key: unique in its source, and the same every time: "cats/1.jpg", "test/0.tar/s0000001".
        label: what the source says of it: a number, the name of its folder, the value of its column.
        data: where the encoded picture is.
    """

    key: str
    label: int | str | None
    data: Path | Span | bytes

    def open(self) -> Image.Image:
        """Return the picture in RGB, upright.

        Raises:
            OSError: there is no such file; the key is named.
            BrokenImageError: it is not a readable picture; the key is named.
        """
        try:
            if isinstance(self.data, Path):
                return open_image(self.data)
            content = self.data.read() if isinstance(self.data, Span) else self.data
            with Image.open(io.BytesIO(content)) as image:
                return open_image(image)
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{self.key}: no such file ({self.data})") from error
        except Exception as error:  # Pillow's readers let many kinds through
            raise BrokenImageError(f"{self.key}: not a readable image ({error})") from error


class BrokenShardError(OSError):
    """A shard that ends before it should, or is none; its name is in the message.

    Attributes:
        position: how many samples came before.
    """

    def __init__(self, message: str, position: int = 0):
        super().__init__(message)
        self.position = position


class Shard(Protocol):
    """A run of samples that is read as a whole. It can be pickled."""

    @property
    def name(self) -> str:
        """Unique in its source, and the same every time."""

    def samples(self, start: int = 0) -> Iterator[Sample]:
        """Give the samples in order, from number `start` on.

        Raises:
            BrokenShardError: after the last sample that can be had, if that is not the end.
        """


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
        value: `transform` of the list of those pictures whose record has no error, in order; None if there
            are none.
    """

    records: tuple[Record, ...]
    value: Any


def read(
    shards: Sequence[Shard],
    *,
    transform: Callable[[list[Image.Image]], Any] | None = None,
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
        transform: what the workers do with the pictures of a batch, such as an image processor; None keeps
            them as they are. It must be picklable where processes are spawned.
        start: how many samples of the first shard to skip.
        batch_size: samples in a batch, the last of a shard may have fewer.
        workers: processes that open and transform; 0: this one does.
    """
    raise NotImplementedError

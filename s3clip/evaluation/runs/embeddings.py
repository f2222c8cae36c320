"""Image embeddings on disk, shard by shard, that a kill at any moment leaves whole.

A shard is two files that are only appended to. `NAME.f32` holds the embeddings, one row of float32 for each
picture that could be read. `NAME.jsonl` holds a line for each batch: the key, the label and, where a picture
could not be read, the error of every sample, and the CRC-32 of the batch's rows, which are written before it.
A batch whose line is cut off, or whose rows do not have that sum, is not there, and neither is what follows.
So the most that a kill costs is the batches that were not written yet.
"""

import hashlib
import json
import os
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import numpy as np
import torch
from torch import Tensor

from s3clip.files.writing import lock
from s3clip.images.sources import BrokenShardError, Record, Sample, Shard

ROW = np.dtype("<f4")


class StoredBatch(NamedTuple):
    """Successive samples of a shard that were encoded together.

    Attributes:
        records: one per sample, readable or not.
        records_end: where its line ends in the file of records, in bytes.
        rows_end: how many rows there are up to its last.
    """

    records: tuple[Record, ...]
    records_end: int
    rows_end: int


class Stored(NamedTuple):
    """What is on disk of a shard; `is_complete` once its last sample was encoded."""

    batches: list[StoredBatch]
    is_complete: bool

    @property
    def samples(self) -> int:
        """How many samples are done, readable or not."""
        return sum(len(batch.records) for batch in self.batches)

    @property
    def rows(self) -> int:
        """How many embeddings there are: one for each of them that is readable."""
        return self.batches[-1].rows_end if self.batches else 0


@dataclass(frozen=True)
class StoredRows:
    """Embeddings on disk. They are read a few at a time: what is held does not grow with their number.

    Attributes:
        files: of each shard, in order, and how many rows are taken of it, from its first on.
        dim: numbers in a row.
        chosen: (rows,) int64, which rows these are, counted through all files.
    """

    files: tuple[tuple[Path, int], ...]
    dim: int
    chosen: np.ndarray[Any, Any]

    @classmethod
    def of(cls, files: Sequence[tuple[Path, int]], dim: int) -> "StoredRows":
        """Return all rows of some files."""
        return cls(tuple(files), dim, np.arange(sum(rows for _, rows in files)))

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, rows: Any) -> "StoredRows":
        """Return those of these rows whose numbers are given; nothing is read."""
        return replace(self, chosen=self.chosen[np.asarray(rows)])

    def split(self, size: int) -> Iterator[Tensor]:
        """Read `size` rows at a time, in order, as `Tensor.split` gives them: (size, dim) float32."""
        ends = np.cumsum([rows for _, rows in self.files])
        for start in range(0, len(self), size):
            wanted = self.chosen[start : start + size]
            shards = np.searchsorted(ends, wanted, side="right")
            found = np.empty((len(wanted), self.dim), ROW)
            for number in np.unique(shards):
                path, rows = self.files[number]
                # Mapped anew each time: pages that were read would count as memory of this process.
                mapped = np.memmap(path, ROW, "r", shape=(rows, self.dim))
                own = shards == number
                found[own] = mapped[wanted[own] - (ends[number] - rows)]
            yield torch.from_numpy(found)


class ShardEmbeddings:
    """The two files of a shard.

    Args:
        folder: where they are; made when something is written.
        shard: the name of the shard.
        dim: numbers in a row.
    """

    def __init__(self, folder: Path, shard: str, dim: int) -> None:
        # Two names that differ in the end, or in what is not for file names, stay apart by their digest.
        stem = f"{quote(shard, safe='')[:80]}-{hashlib.sha256(shard.encode()).hexdigest()[:8]}"
        self.shard = shard
        self.dim = dim
        self.rows_path = folder / f"{stem}.f32"
        self.records_path = folder / f"{stem}.jsonl"

    def read(self) -> Stored:
        """Return what is there and whole."""
        batches: list[StoredBatch] = []
        if not self.records_path.exists() or not self.rows_path.exists():
            return Stored([], False)
        index = rows_end = records_end = 0
        with self.records_path.open("rb") as lines, self.rows_path.open("rb") as rows:
            for line in lines:
                if not line.endswith(b"\n"):
                    break
                try:
                    content = json.loads(line)
                    if "samples" in content:
                        return Stored(batches, content["samples"] == index)
                    records = tuple(
                        Record(self.shard, index + i, *fields) for i, fields in enumerate(content["records"])
                    )
                    checksum = content["crc32"]
                except (ValueError, TypeError, KeyError):  # overwritten with something else
                    break
                readable = sum(record.error is None for record in records)
                size = readable * self.dim * ROW.itemsize
                data = rows.read(size)
                if len(data) < size or zlib.crc32(data) != checksum:
                    break
                index += len(records)
                rows_end += readable
                records_end += len(line)
                batches.append(StoredBatch(records, records_end, rows_end))
        return Stored(batches, False)

    @contextmanager
    def writer(self, kept: list[StoredBatch]) -> Iterator["ShardWriter"]:
        """Cut off what comes after these batches, and append.

        Raises:
            ValueError: another process is writing them.
        """
        self.rows_path.parent.mkdir(parents=True, exist_ok=True)
        with self.rows_path.open("ab") as rows, self.records_path.open("ab") as records:
            if not lock(records):
                raise ValueError(
                    f"{self.records_path}: another process is writing these embeddings; wait for it, or "
                    f"give another --cache"
                )
            # The records first: a kill between the two leaves rows without a record, which count for nothing.
            os.truncate(records.fileno(), kept[-1].records_end if kept else 0)
            os.truncate(rows.fileno(), (kept[-1].rows_end if kept else 0) * self.dim * ROW.itemsize)
            yield ShardWriter(rows, records, sum(len(batch.records) for batch in kept))


class ShardWriter:
    """Appends batches to the files of a shard; made by `ShardEmbeddings.writer`."""

    def __init__(self, rows: Any, records: Any, samples: int) -> None:
        self._rows = rows
        self._records = records
        self._samples = samples

    def append(self, records: Iterable[Record], rows: np.ndarray[Any, Any]) -> None:
        """Write a batch: its records, and (readable pictures, dim) embeddings."""
        content = np.ascontiguousarray(rows, ROW).tobytes()
        lines = [
            [record.key, record.label, *([] if record.error is None else [record.error])]
            for record in records
        ]
        self._rows.write(content)
        self._rows.flush()
        self._append({"records": lines, "crc32": zlib.crc32(content)})
        self._samples += len(lines)

    def finish(self) -> None:
        """Note that the shard has no more samples."""
        for file in (self._rows, self._records):
            os.fsync(file.fileno())
        self._append({"samples": self._samples})

    def _append(self, content: dict[str, Any]) -> None:
        self._records.write(json.dumps(content, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n")
        self._records.flush()


def still_true(stored: Stored, shard: Shard, written_at: float) -> Stored:
    """Return the batches that agree with what the shard holds now: what comes after is encoded again.

    The keys and labels are compared; a file that changed since, and one that could not be read but can be
    now, end what is kept. Where a shard brings the bytes of its pictures (it is streamed), to walk
    through it would fetch them again, and it is taken for unchanged.

    Args:
        stored: what was read of it.
        shard: the shard.
        written_at: when the records were written last, in seconds since 1970.
    """
    samples = shard.samples()
    try:
        for position, batch in enumerate(stored.batches):
            for record in batch.records:
                sample = _next(samples, shard)
                if sample is not None and isinstance(sample.data, bytes):
                    return stored
                if not _agrees(record, sample, shard, written_at):
                    return Stored(stored.batches[:position], False)
        if not stored.is_complete:
            return stored
        return Stored(stored.batches, _next(samples, shard) is None)
    finally:
        close = getattr(samples, "close", None)
        if close is not None:
            close()


def _next(samples: Iterator[Sample], shard: Shard) -> Sample | None:
    """Return the next sample; None at the end, and where the shard breaks off."""
    try:
        return next(samples, None)
    except BrokenShardError:
        return None


def _agrees(record: Record, sample: Sample | None, shard: Shard, written_at: float) -> bool:
    if sample is None:  # the shard breaks off, and did so before
        return record.error is not None and record.key == shard.name
    if (record.key, record.label) != (sample.key, sample.label):
        return False
    if record.error is not None:
        try:
            sample.open()
        except (OSError, ValueError):
            return True
        return False
    return not isinstance(sample.data, Path) or _changed_at(sample.data) <= written_at


def _changed_at(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return float("inf")

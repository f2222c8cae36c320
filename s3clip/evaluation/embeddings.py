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
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import numpy as np
import torch
from torch import Tensor

from s3clip.files import lock
from s3clip.sources import BrokenShardError, Record, Sample, Shard

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
        rows = self._map()
        start = index = end = 0
        for line in self.records_path.read_bytes().splitlines(keepends=True):
            try:
                content = json.loads(line) if line.endswith(b"\n") else None
            except ValueError:
                content = None
            if content is None:
                break
            if "samples" in content:
                return Stored(batches, content["samples"] == index)
            records = tuple(
                Record(self.shard, index + i, *fields) for i, fields in enumerate(content["records"])
            )
            stop = start + sum(record.error is None for record in records)
            if stop > len(rows) or zlib.crc32(rows[start:stop].tobytes()) != content["crc32"]:
                break
            end += len(line)
            index, start = index + len(records), stop
            batches.append(StoredBatch(records, end, stop))
        return Stored(batches, False)

    def rows(self, stored: Stored) -> Tensor:
        """Return (images, dim) embeddings, mapped from the file: they are read when they are used."""
        count = stored.batches[-1].rows_end if stored.batches else 0
        mapped: Tensor = torch.from_numpy(self._map()[:count])
        return mapped

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

    def _map(self) -> np.ndarray[Any, Any]:
        whole = self.rows_path.stat().st_size // (self.dim * ROW.itemsize)
        if not whole:  # nothing cannot be mapped
            return np.empty((0, self.dim), ROW)
        # Copy-on-write: torch takes no array that it could not write to; nothing reaches the file.
        return np.memmap(self.rows_path, ROW, "c", shape=(whole, self.dim))


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

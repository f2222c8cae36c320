"""What is labelled, in shards: runs of image files, tars, parquet and Arrow files, arrays of embeddings.

Pictures are shards as `s3clip.sources` has them; here they are opened through fsspec, so that a path may be
`s3://`, `gs://` or `hf://` as well. Embeddings are shards of their own kind, since they are read in blocks.
Every shard can be pickled, gives the same rows in the same order every time, and is read once, from one end
to the other: memory does not grow with it.
"""

import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import fsspec
import numpy as np

from s3clip.images import SUFFIXES
from s3clip.sources import BrokenShardError, Sample

Keys = list[str]
Errors = dict[int, str]
"""Position in a block -> why this row has no embedding."""


@dataclass(frozen=True)
class FileRun:
    """Image files, a picture each; the key is the path."""

    name: str
    files: tuple[str, ...]

    def samples(self, start: int = 0) -> Iterator[Sample]:
        """Give the files from number `start` on. One that cannot be read is a broken picture."""
        for path in self.files[start:]:
            yield Sample(path, None, _content(path))


class _Header(tarfile.TarInfo):
    """Notes that the end was reached: `tarfile` says nothing of a tar that is cut between members."""

    @classmethod
    def fromtarfile(cls, tarfile_: tarfile.TarFile) -> "_Header":
        try:
            return super().fromtarfile(tarfile_)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]  # the block of zeros
            tarfile_.reached_its_end = True  # type: ignore[attr-defined]
            raise


@dataclass(frozen=True)
class TarPictures:
    """The pictures of a tar, such as a shard of a web dataset; the key is `path/member`."""

    name: str
    path: str

    def samples(self, start: int = 0) -> Iterator[Sample]:
        """Give the members that are named as pictures, from number `start` on."""
        position = 0
        try:
            with (
                fsspec.open(self.path, "rb") as file,
                tarfile.open(fileobj=file, mode="r|*", tarinfo=_Header) as tar,
            ):
                for member in tar:
                    if not member.isfile() or PurePosixPath(member.name).suffix.lower() not in SUFFIXES:
                        continue
                    if position >= start:
                        opened = tar.extractfile(member)
                        content = b"" if opened is None else opened.read()
                        yield Sample(f"{self.path}/{member.name}", None, content)
                    position += 1
                if not getattr(tar, "reached_its_end", False):
                    raise EOFError("cut off, the mark at its end is missing")
        except (tarfile.TarError, EOFError, OSError) as error:
            raise BrokenShardError(
                f"{self.path}: {_why(error)}, after {position} pictures", position
            ) from error


@dataclass(frozen=True)
class ParquetPictures:
    """The pictures of a column of a parquet file: bytes, paths, or the {"bytes", "path"} of `datasets`."""

    name: str
    path: str
    column: str = "image"
    key_column: str | None = None

    def samples(self, start: int = 0) -> Iterator[Sample]:
        """Give the rows from number `start` on."""
        position = 0
        try:
            for keys, values in _column_blocks(self.path, self.column, self.key_column, 64):
                for key, value in zip(keys, values.to_pylist(), strict=True):
                    if position >= start:
                        yield Sample(key, None, _encoded(value))
                    position += 1
        except BrokenShardError:
            raise
        except Exception as error:  # pyarrow's errors have no common base but ValueError, OSError and others
            raise BrokenShardError(f"{self.path}: {_why(error)}, after {position} rows", position) from error


@dataclass(frozen=True)
class EmbeddingFile:
    """Embeddings: a .npy of shape (rows, dim), or a column of lists in a parquet or Arrow file.

    Keys are those of the key column, else `path/row number`. A row whose `error` column holds a text, as in
    results of ours, keeps it and has no embedding.
    """

    name: str
    path: str
    column: str = "embedding"
    key_column: str | None = None

    def blocks(self, size: int, start: int = 0) -> Iterator[tuple[Keys, np.ndarray, Errors]]:
        """Give `size` rows at a time from row `start` on (a multiple of `size`).

        Yields:
            Keys, (rows, dim) floats, and the rows that have no embedding (zeros stand for them).

        Raises:
            BrokenShardError: the file is no such file, or ends before it should.
        """
        reader = self._npy_blocks if self.path.endswith(".npy") else self._column_blocks
        position = start
        try:
            for block in reader(size, start):
                yield block
                position += len(block[0])
        except BrokenShardError:
            raise
        except Exception as error:
            raise BrokenShardError(f"{self.path}: {_why(error)}, after {position} rows", position) from error

    def _npy_blocks(self, size: int, start: int) -> Iterator[tuple[Keys, np.ndarray, Errors]]:
        # Read, not mapped: mapped pages count as memory of the process, and an object store has none.
        with fsspec.open(self.path, "rb") as file:
            version = np.lib.format.read_magic(file)
            read_header = (
                np.lib.format.read_array_header_1_0
                if version == (1, 0)
                else np.lib.format.read_array_header_2_0
            )
            shape, fortran, dtype = read_header(file)
            if len(shape) != 2 or fortran or not np.issubdtype(dtype, np.floating):
                raise ValueError(f"expected floats of shape (rows, dim) in C order, got {shape} of {dtype}")
            row_bytes = shape[1] * dtype.itemsize
            file.seek(file.tell() + start * row_bytes)
            for first in range(start, shape[0], size):
                count = min(size, shape[0] - first)
                content = file.read(count * row_bytes)
                if len(content) < count * row_bytes:
                    raise EOFError(
                        f"ends inside row {first + len(content) // max(1, row_bytes)} of {shape[0]}"
                    )
                rows = np.frombuffer(content, dtype).reshape(count, shape[1])
                yield [f"{self.path}/{first + i}" for i in range(count)], rows, {}

    def _column_blocks(self, size: int, start: int) -> Iterator[tuple[Keys, np.ndarray, Errors]]:
        position = 0
        for keys, values, said in _column_blocks(self.path, self.column, self.key_column, size, errors=True):
            position += len(keys)
            if position <= start:
                continue
            yield keys, *_as_rows(values, said)


def open_table(path: str) -> Any:
    """Open a parquet or Arrow file (of either kind of IPC) for reading in batches.

    Returns:
        Its schema, and a function of (columns, batch size) that gives its record batches.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = fsspec.open(path, "rb").open()
    if path.endswith(".parquet"):
        parquet = pq.ParquetFile(file)
        return parquet.schema_arrow, lambda columns, size: parquet.iter_batches(size, columns=columns)
    try:
        reader = pa.ipc.open_file(file)
        batches: Any = (reader.get_batch(i) for i in range(reader.num_record_batches))
    except pa.ArrowInvalid:  # what `datasets` writes is the stream format
        file.seek(0)
        reader = pa.ipc.open_stream(file)
        batches = reader
    return reader.schema, lambda columns, size: _even(batches, columns, size)


def _even(batches: Any, columns: list[str], size: int) -> Iterator[Any]:
    """Cut record batches of any lengths into batches of `size` rows."""
    import pyarrow as pa

    held: list[Any] = []
    count = 0
    for batch in batches:
        held.append(batch.select(columns))
        count += len(batch)
        while count >= size:
            table = pa.Table.from_batches(held)
            yield table.slice(0, size).combine_chunks().to_batches()[0]
            held, count = table.slice(size).to_batches(), count - size
    if count:
        yield pa.Table.from_batches(held).combine_chunks().to_batches()[0]


def _column_blocks(
    path: str, column: str, key_column: str | None, size: int, errors: bool = False
) -> Iterator[Any]:
    schema, read = open_table(path)
    for wanted in (column, *([] if key_column is None else [key_column])):
        if wanted not in schema.names:
            raise BrokenShardError(f"{path}: no column {wanted!r}; it has: {', '.join(schema.names)}")
    said = "error" if errors and "error" in schema.names else None
    columns = [name for name in dict.fromkeys((column, key_column, said)) if name is not None]
    position = 0
    for batch in read(columns, size):
        keys = (
            [f"{path}/{position + i}" for i in range(len(batch))]
            if key_column is None
            else [str(key) for key in batch.column(key_column).to_pylist()]
        )
        position += len(batch)
        if errors:
            yield keys, batch.column(column), None if said is None else batch.column(said)
        else:
            yield keys, batch.column(column)


def _as_rows(values: Any, said: Any) -> tuple[np.ndarray, Errors]:
    """Return (rows, dim) floats of a column of lists, and which rows have none."""
    import pyarrow as pa

    kind = values.type
    if not (pa.types.is_fixed_size_list(kind) or pa.types.is_list(kind) or pa.types.is_large_list(kind)):
        raise ValueError(f"expected a column of lists of numbers, got {kind}")
    present = np.asarray(values.is_valid())
    flat = values.drop_null().flatten()
    numbers = flat.to_numpy(zero_copy_only=False)
    count = int(present.sum())
    if count and (len(numbers) % count or not np.issubdtype(numbers.dtype, np.floating)):
        raise ValueError(f"expected lists of floats of one length, got {kind}")
    if pa.types.is_fixed_size_list(kind):
        dim = kind.list_size
    else:
        dim = len(numbers) // count if count else 0
        lengths = values.drop_null().value_lengths().to_numpy(zero_copy_only=False)
        if (lengths != dim).any():
            raise ValueError(f"expected lists of one length, got {sorted(set(lengths.tolist()))[:4]}")
    rows = np.zeros((len(values), dim), numbers.dtype if count else np.float32)
    rows[present] = numbers.reshape(count, dim)
    texts = [None] * len(values) if said is None else said.to_pylist()
    return rows, {int(i): texts[i] or "no embedding in this row" for i in np.flatnonzero(~present)}


def _content(path: str) -> Any:
    from pathlib import Path

    if "://" not in path:
        return Path(path)
    try:
        with fsspec.open(path, "rb") as file:
            return file.read()
    except FileNotFoundError:
        return b""


def _encoded(value: Any) -> Any:
    if isinstance(value, dict):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, str):
        return _content(value)
    return b"" if value is None else value


def _why(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


__all__ = ["EmbeddingFile", "FileRun", "ParquetPictures", "TarPictures", "open_table"]

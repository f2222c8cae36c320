"""Tables in columns, read a few rows at a time: parquet, Arrow files of both kinds of IPC, Lance datasets."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from s3clip.files.addresses import open_binary
from s3clip.files.state import FileState

SUFFIXES = frozenset({".parquet", ".arrow"})
LANCE = ".lance"
"""How the folder of a Lance dataset ends."""
_LANCE_AHEAD = {"io_buffer_size": 64 * 2**20, "batch_readahead": 2, "fragment_readahead": 1}
"""What Lance may hold that nobody has asked for yet; its own limits are 2 GiB and 16 batches."""


class _Batches(Protocol):
    def __call__(self, columns: list[str], size: int, start: int) -> Iterator[Any]: ...


@dataclass(frozen=True)
class Table:
    """An open table.

    Attributes:
        schema: of pyarrow.
        read: gives record batches of these columns from row `start` on, which may be of any lengths.
    """

    schema: Any
    read: _Batches

    def batches(self, columns: Sequence[str], size: int, start: int = 0) -> Iterator[Any]:
        """Give batches of `size` rows from row `start` on; the last may have fewer. To be called once."""
        wanted = list(dict.fromkeys(columns))
        with _plain_errors():
            yield from _even(self.read(columns=wanted, size=size, start=start), size)


@contextmanager
def open_table(path: str | os.PathLike[str]) -> Iterator[Table]:
    """Open a table: a path, or an address that fsspec reads; of Lance, one that Lance reads.

    What ends in ".lance" is Lance, in ".arrow" Arrow, else parquet.

    Raises:
        FileNotFoundError: there is none.
        ConnectionError: the store cannot be reached.
        OSError, ValueError: it is no table, or is cut off; so may reading it say.
        ImportError: pyarrow, or the extra `lance`, is not installed.
    """
    require_pyarrow()
    if str(path).lower().endswith(LANCE):
        with _plain_errors():
            table = _lance(path)
        yield table
        return
    opened = _arrow if str(path).lower().endswith(".arrow") else _parquet
    with open_binary(path) as file:
        with _plain_errors():
            table = opened(file)
        yield table


def lance_state(path: str | os.PathLike[str]) -> FileState:
    """Return the state of a Lance dataset: its number of rows, and its version, which every change raises.

    Raises:
        ImportError: the extra `lance` is not installed.
        ValueError, OSError: there is none, or it cannot be read.
    """
    with _plain_errors():
        dataset = _dataset(path)
        return FileState(dataset.count_rows(), str(dataset.version))


def lance_library() -> Any:
    """Return the module that reads and writes Lance datasets.

    Raises:
        ImportError: the extra `lance` is not installed; the message says how to get it.
    """
    try:
        import lance
    except ImportError as error:
        raise ImportError("Lance datasets take pylance: pip install 's3clip[lance]'") from error
    return lance


def missing_column(schema: Any, columns: Sequence[str]) -> str | None:
    """Say which of the columns a table does not have, and which it has; None if it has all."""
    for column in columns:
        if column not in schema.names:
            return f"no column {column!r}; it has: {', '.join(schema.names)}; name one of these (column)"
    return None


def require_pyarrow() -> None:
    """Check that pyarrow is there.

    Raises:
        ImportError: it is not; the message says what to install.
    """
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError as error:
        raise ImportError("tables take pyarrow: pip install 's3clip[parquet]'") from error


@contextmanager
def _plain_errors() -> Iterator[None]:
    """Raise ValueError for those errors of pyarrow that are neither that nor OSError.

    One is that a damaged length asks for more memory than there is.
    """
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, MemoryError) as error:
        if isinstance(error, OSError | ValueError):
            raise
        raise ValueError(str(error) or type(error).__name__) from error


def _parquet(file: Any) -> Table:
    from pyarrow import parquet

    opened = parquet.ParquetFile(file)

    def read(columns: list[str], size: int, start: int) -> Iterator[Any]:
        lengths = [opened.metadata.row_group(i).num_rows for i in range(opened.num_row_groups)]
        first = 0
        while first < len(lengths) and start >= lengths[first]:  # groups that are not fetched
            start -= lengths[first]
            first += 1
        groups = range(first, len(lengths))
        return _without(start, opened.iter_batches(size, row_groups=groups, columns=columns))

    return Table(opened.schema_arrow, read)


def _arrow(file: Any) -> Table:
    import pyarrow as pa

    try:
        opened = pa.ipc.open_file(file)
        batches: Any = (opened.get_batch(i) for i in range(opened.num_record_batches))
    except pa.ArrowInvalid:  # what `datasets` writes is the stream format
        file.seek(0)
        opened = batches = pa.ipc.open_stream(file)

    def valid(batch: Any, columns: list[str]) -> Any:
        batch = batch.select(columns)
        batch.validate(full=True)  # what is in the file is taken as it is: wrong offsets end the process
        return batch

    def read(columns: list[str], size: int, start: int) -> Iterator[Any]:
        return _without(start, (valid(batch, columns) for batch in batches))

    return Table(opened.schema, read)


def _lance(path: str | os.PathLike[str]) -> Table:
    dataset = _dataset(path)

    def read(columns: list[str], size: int, start: int) -> Iterator[Any]:
        batches: Iterator[Any] = dataset.to_batches(
            columns=columns, batch_size=size, offset=start, **_LANCE_AHEAD
        )
        return batches

    return Table(dataset.schema, read)


def _dataset(path: str | os.PathLike[str]) -> Any:
    return lance_library().dataset(os.fspath(path))


def _without(count: int, batches: Any) -> Iterator[Any]:
    """Leave the first `count` rows of all batches out."""
    for batch in batches:
        if count < batch.num_rows:
            yield batch.slice(count) if count else batch
        count = max(0, count - batch.num_rows)


def _even(batches: Iterator[Any], size: int) -> Iterator[Any]:
    """Cut batches of any lengths into batches of `size` rows."""
    import pyarrow as pa

    held: list[Any] = []
    count = 0
    for batch in batches:
        if not held and batch.num_rows == size:
            yield batch
            continue
        held.append(batch)
        count += batch.num_rows
        while count >= size:
            table = pa.Table.from_batches(held)
            yield _as_one(table.slice(0, size))
            held, count = table.slice(size).to_batches(), count - size
    if count:
        yield _as_one(pa.Table.from_batches(held))


def _as_one(table: Any) -> Any:
    return table.combine_chunks().to_batches()[0]

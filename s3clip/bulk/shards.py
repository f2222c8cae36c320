"""Embeddings in files, which are read in blocks. Shards of pictures are in `s3clip.shards`.

A shard can be pickled, gives the same rows in the same order every time, and is read once, from one end
to the other: memory does not grow with it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from s3clip.files import in_utf8, open_binary
from s3clip.shards import breaking_off
from s3clip.sources import BrokenShardError
from s3clip.tables import missing_column, open_table

Block = tuple[list[str], np.ndarray, dict[int, str]]
"""Keys, (rows, dim) floats, and why some of the rows, by their place in the block, have no embedding."""


@dataclass(frozen=True)
class EmbeddingFile:
    """Embeddings: a .npy of shape (rows, dim), or a column of lists in a table.

    A row whose `error` column holds a text, as in results of ours, keeps it and has no embedding.

    Attributes:
        path: where it is; keys are this and the number of the row.
        column: of a table.
        key_column: of a table, if it has keys of its own.
    """

    path: str
    column: str = "embedding"
    key_column: str | None = None

    @property
    def name(self) -> str:
        """The path."""
        return self.path

    def blocks(self, size: int, start: int = 0) -> Iterator[Block]:
        """Give `size` rows at a time from row `start` on (a multiple of `size`); zeros where there is none.

        Raises:
            BrokenShardError: the file is no such file, or ends before it should.
        """
        is_array = self.path.endswith(".npy")
        with breaking_off(self.path, "array" if is_array else "table", start) as reading:
            for block in self._from_array(size, start) if is_array else self._from_table(size, start):
                yield block
                reading.position += len(block[0])

    def _from_array(self, size: int, start: int) -> Iterator[Block]:
        # Read, not mapped: mapped pages count as memory of the process, and an object store has none.
        with open_binary(self.path) as file:
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
                    row = first + len(content) // max(1, row_bytes)
                    raise EOFError(f"ends inside row {row} of {shape[0]}")
                rows = np.frombuffer(content, dtype).reshape(count, shape[1])
                yield self._keys(first, count), rows, {}

    def _from_table(self, size: int, start: int) -> Iterator[Block]:
        with open_table(self.path) as table:
            columns = [self.column, *([] if self.key_column is None else [self.key_column])]
            if (problem := missing_column(table.schema, columns)) is not None:
                raise BrokenShardError(f"{self.path}: {problem}", start)
            has_errors = "error" in table.schema.names
            first = start
            for batch in table.batches([*columns, *(["error"] if has_errors else [])], size, start):
                keys = (
                    self._keys(first, batch.num_rows)
                    if self.key_column is None
                    else [str(key) for key in batch.column(self.key_column).to_pylist()]
                )
                yield (
                    keys,
                    *_as_rows(batch.column(self.column), batch.column("error") if has_errors else None),
                )
                first += batch.num_rows

    def _keys(self, first: int, count: int) -> list[str]:
        path = in_utf8(self.path)
        return [f"{path}/{number}" for number in range(first, first + count)]


def _as_rows(values: Any, said: Any) -> tuple[np.ndarray, dict[int, str]]:
    """Return (rows, dim) floats of a column of lists, and which rows have none."""
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
    return rows, {int(i): str(texts[i] or "no embedding in this row") for i in np.flatnonzero(~present)}
